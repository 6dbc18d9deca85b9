"""A thousand model servers on a hundred machines, watched by one worker: what that costs, and what its death costs."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temporalio.api.enums.v1 import PendingActivityState
from temporalio.client import WorkflowExecutionDescription

from domain.gpu.catalog import Catalog
from domain.gpu.commands import PodInput, StartServer
from domain.gpu.request import start_request
from domain.gpu.ssh_target import parse_ssh
from domain.ids import gpu_pod_workflow_id
from podctl import embedded
from podctl.client import NoWorker, PodctlClient, new_command_id
from podctl.connection import connect
from podctl.live import follow_pod
from podctl.paths import PodctlPaths
from podctl.processes import ProcessIdentity, free_ports
from podctl.run_file import ServerProcess
from simulator.api import MachineConfig, Settings, SimulatedMachine, simulate
from simulator.process_table import descendants
from tests.bench.figure import Figure
from tests.bench.process_use import memory as memory_of
from tests.bench.process_use import processor_seconds
from tests.bench.quiet_history import quiet_seconds, shortened
from workflows import names

_PODS = 100
_SERVERS = 10
#: Pods that are registered, and pods whose servers are started, at the same time: each start is a dozen processes.
_REGISTERED_AT_A_TIME = 8
_STARTED_AT_A_TIME = 2
#: Describe calls under way at a time.
_LOOKS = 20
#: Seconds for what the starts have set in motion to come to rest.
_SETTLING = 20.0
#: Seconds for something that never comes.
_PATIENCE = 600.0
_BY = "bench"


async def scale(folder: Path, tell: Callable[[str], None]) -> list[Figure]:
    """Return what watching costs the worker, and how long its death leaves machines unwatched.

    Needs about 12 GB of memory and all of a machine with two cores: nothing else is measured beside it.
    """
    async with _fleet(folder) as fleet:
        began = time.monotonic()
        await _for_each(fleet.machines, fleet.start, at_a_time=_STARTED_AT_A_TIME)
        tell(f"  {_PODS * _SERVERS} model servers are ready after {time.monotonic() - began:.0f} s")
        await asyncio.sleep(_SETTLING)
        return [*await _quiet(fleet), *await _worker_killed(fleet)]


@dataclass(frozen=True)
class _Fleet:
    """The machines, and the Temporal server and worker that watch them."""

    paths: PodctlPaths
    server: ServerProcess
    podctl: PodctlClient
    machines: Sequence[SimulatedMachine]

    @property
    def worker(self) -> ProcessIdentity:
        """The worker that `podctl up` has started."""
        worker = embedded.status(self.paths).worker
        if worker is None:
            raise RuntimeError("podctl up has started no worker")
        return worker.process

    async def register(self, machine: SimulatedMachine) -> None:
        """Let the machine be watched."""
        pod = PodInput(
            name=machine.name,
            ssh=parse_ssh(machine.ssh_command),
            host_key=machine.host_key,
            by=_BY,
            command_id=new_command_id(),
        )
        await self.podctl.register_pod(pod)
        async for state in follow_pod(self.podctl, machine.name):
            if state.inventory is not None:
                return

    async def start(self, machine: SimulatedMachine) -> None:
        """Start the machine's model servers; return when all are ready."""
        for number in range(_SERVERS):
            request = start_request(Catalog(), "bench/pretend", f"server-{number}", memory=0.9 / _SERVERS)
            await self._execute(machine.name, StartServer(request=request))
        async for state in follow_pod(self.podctl, machine.name):
            failed = [server for server in state.servers.values() if server.failure is not None]
            if failed:
                raise RuntimeError(f"{failed[0].name} of {machine.name} failed: {failed[0].failure}")
            if all(server.state == "ready" for server in state.servers.values()):
                return

    async def _execute(self, pod: str, command: StartServer) -> None:
        """Send a command until a worker has answered, which may take long while others are being started."""
        command_id = new_command_id()
        while True:
            try:
                await self.podctl.execute_pod(pod, command, by=_BY, command_id=command_id)
                return
            except NoWorker:
                continue

    async def describe(self, machine: SimulatedMachine) -> WorkflowExecutionDescription:
        """Return what Temporal says of the pod."""
        return await self.podctl.temporal.get_workflow_handle(gpu_pod_workflow_id(machine.name)).describe()

    async def events(self) -> int:
        """Return how many events the histories of all pods have."""
        described = await _for_each(self.machines, self.describe, at_a_time=_LOOKS)
        return sum(one.history_length for one in described)

    def launches(self) -> int:
        """Return how many launches the machines have ever seen."""
        return sum(1 for one in self.machines for _ in (one.folder / "home/.podctl/launches").glob("*/*/*/record.json"))


@asynccontextmanager
async def _fleet(folder: Path) -> AsyncIterator[_Fleet]:
    paths = PodctlPaths(config=folder / "config", data=folder / "data")
    paths.data.mkdir(parents=True)
    os.environ.update(paths.environment())
    configs = [MachineConfig(name=f"pod-{n:03}", settings=Settings(load_seconds=0.5)) for n in range(_PODS)]
    port, ui_port = free_ports(2)
    async with simulate(folder / "machines", configs) as machines:
        try:
            server = (await embedded.up(paths, lambda _: None, port=port, ui_port=ui_port)).server
            fleet = _Fleet(paths, server, PodctlClient(await connect(paths)), machines)
            await _for_each(machines, fleet.register, at_a_time=_REGISTERED_AT_A_TIME)
            yield fleet
        finally:
            await embedded.down(paths, lambda _: None)


async def _quiet(fleet: _Fleet) -> list[Figure]:
    """Return what a worker and a history get from machines on which nothing happens."""
    seconds = quiet_seconds()
    worker, temporal = fleet.worker.pid, fleet.server.process.pid
    events = await fleet.events()
    before = _Usage.now(worker, temporal)
    await asyncio.sleep(seconds)
    used = _Usage.now(worker, temporal).since(before)
    memory = memory_of(worker)
    added = await fleet.events() - events
    what = f"{_PODS * _SERVERS} model servers on {_PODS} machines"
    return [
        Figure(
            name=f"worker's processor time, {what}",
            value=used.worker / used.seconds,
            unit="of a core",
            bound="<=",
            limit=0.25,
            measured=f"{used.worker:.1f} s in {used.seconds:.0f} s; Temporal {used.temporal / used.seconds:.2f}, the "
            f"machines {used.machines / used.seconds:.2f} of a core{shortened(seconds)}",
        ),
        Figure(
            name=f"worker's memory (PSS), {what}",
            value=memory / 1e6,
            unit="MB",
            bound="<=",
            limit=400,
            measured=f"after {used.seconds:.0f} s{shortened(seconds)}",
        ),
        Figure(
            name=f"events added in ten minutes, {what}",
            value=added,
            unit="events",
            bound="<=",
            limit=0,
            measured=f"{events} events before{shortened(seconds)}",
        ),
    ]


async def _worker_killed(fleet: _Fleet) -> list[Figure]:
    """Return how long it takes until a new worker watches every machine, and what it launched a second time."""
    events = await fleet.events()
    killed = time.perf_counter()
    os.kill(fleet.worker.pid, signal.SIGKILL)
    await asyncio.to_thread(fleet.worker.wait, _PATIENCE)
    await embedded.up(fleet.paths, lambda _: None)
    identity = f"{fleet.worker.pid}@"
    unwatched = list(fleet.machines)
    async with asyncio.timeout(_PATIENCE):
        while unwatched:
            described = await _for_each(unwatched, fleet.describe, at_a_time=_LOOKS)
            watched = [await _is_watched(fleet.podctl, one, identity) for one in described]
            unwatched = [machine for machine, is_watched in zip(unwatched, watched, strict=True) if not is_watched]
            await asyncio.sleep(0.1)
    seconds = time.perf_counter() - killed
    return [
        Figure(
            name=f"kill -9 of the worker until all {_PODS} machines are watched again",
            value=seconds,
            unit="s",
            bound="<=",
            limit=30,
            measured=f"{await fleet.events() - events} events added",
        ),
        Figure(
            name="model servers launched a second time by that",
            value=fleet.launches() - _PODS * _SERVERS,
            unit="launches",
            bound="<=",
            limit=0,
            measured=f"{fleet.launches()} launches on all machines",
        ),
    ]


async def _is_watched(podctl: PodctlClient, described: WorkflowExecutionDescription, identity: str) -> bool:
    """Return whether a heartbeat of this worker's watch told what runs on the machine."""
    for pending in described.raw_description.pending_activities:
        if (
            pending.activity_type.name == names.WATCH_POD
            and pending.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
            and pending.last_worker_identity.startswith(identity)
            and pending.last_heartbeat_time.ToNanoseconds() > pending.last_started_time.ToNanoseconds()
        ):
            [details] = await podctl.temporal.data_converter.decode(pending.heartbeat_details.payloads)
            return len(details.get("launches", ())) == _SERVERS
    return False


@dataclass(frozen=True)
class _Usage:
    """Processor seconds until a moment: of the worker, the Temporal server, and all that the machines are."""

    seconds: float
    worker: float
    temporal: float
    machines: float

    @classmethod
    def now(cls, worker: int, temporal: int) -> "_Usage":
        taken = {stat.pid: processor_seconds(stat.pid) for stat in descendants(os.getpid())}
        machines = sum(seconds for pid, seconds in taken.items() if pid not in {worker, temporal})
        return cls(time.monotonic(), taken[worker], taken[temporal], machines)

    def since(self, before: "_Usage") -> "_Usage":
        return _Usage(
            self.seconds - before.seconds,
            self.worker - before.worker,
            self.temporal - before.temporal,
            self.machines - before.machines,
        )


async def _for_each(
    machines: Iterable[SimulatedMachine], do: Callable[[SimulatedMachine], Awaitable[Any]], *, at_a_time: int
) -> list[Any]:
    """Do something for every machine, and return what it gave, in order."""
    room = asyncio.Semaphore(at_a_time)

    async def one(machine: SimulatedMachine) -> Any:  # noqa: ANN401 - whatever it gives
        async with room:
            return await do(machine)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(machine)) for machine in machines]
    return [task.result() for task in tasks]
