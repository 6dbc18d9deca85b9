"""What the chaos tests share: worker processes to kill, conditions to wait for, and evidence of what happened."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest
from pydantic import JsonValue
from temporalio.client import Client

from domain.entity import Event
from domain.gpu.catalog import builtin_catalog
from domain.gpu.commands import PodInput, StartServer, StopServer
from domain.gpu.leases import leases
from domain.gpu.models import GpuPodState, ModelServer, shown_state
from domain.gpu.request import start_request
from domain.gpu.ssh_target import parse_ssh
from domain.ids import gpu_pod_workflow_id, task_workflow_id
from domain.task.models import TaskInput, TaskState
from domain.task.plan_file import read_plan
from podctl.client import PodctlClient, new_command_id
from podctl.processes import ProcessIdentity, start_detached
from simulator.api import MachineConfig, Process, SimulatedMachine, simulate

T = TypeVar("T")

_REPOSITORY = Path(__file__).parents[2]

#: Seconds until a condition that does not come is a failure. Far above what it takes, several tests at once included:
#: a dead worker's activities are handed on after 12 s, its workflow tasks after 10 s.
PATIENCE = 300.0
MODEL = "org/tiny"
#: What a program begins with that writes one line for each of its starts, and goes on when it is let go.
WAITING_PROGRAM = 'echo started >> "$HOME/starts"; while [ ! -e "$HOME/go" ]; do sleep 0.05; done'
#: Written to a vLLM's log once by each process that starts as one.
_SERVER_BANNER = "vLLM API server version"


async def eventually(ask: Callable[[], Awaitable[T | None]], what: str, patience: float = PATIENCE) -> T:
    """Return the first true answer of ``ask``."""
    last: object = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience):
            while not (answer := await ask()):
                last = answer
                await asyncio.sleep(0.2)
            return answer
    raise AssertionError(f"it never came true within {patience:.0f} s: {what} (last: {last!r})")


class WorkerProcess:
    """A real worker in a process of its own, on a task queue of its own."""

    def __init__(self, address: str, task_queue: str, folder: Path, module: str = "worker", *arguments: str) -> None:
        self._log = folder / f"worker-{uuid.uuid4().hex[:8]}.log"
        self.process = start_detached(
            [sys.executable, "-P", "-m", module, "--task-queue", task_queue, *arguments],
            log=self._log,
            folder=folder,
            environment={**os.environ, "TEMPORAL_ADDRESS": address, "PYTHONPATH": str(_REPOSITORY)},
        )

    def owns(self, identity: str) -> bool:
        """Return whether Temporal's name of a worker is this one's."""
        return identity.startswith(f"{self.process.pid}@")

    def kill(self) -> None:
        """End it as a power cut would; return when it is gone."""
        assert self.process.is_alive(), f"the worker died by itself: {self._log.read_text()[-3000:]}"
        kill(self.process)


def kill(process: ProcessIdentity) -> None:
    """Send SIGKILL to exactly this process; return when it is gone."""
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    assert process.wait(10.0), f"process {process.pid} survived SIGKILL"


@dataclass(frozen=True)
class Hook:
    """A point at which the programs of a simulated machine stop and wait."""

    machine: SimulatedMachine
    point: str

    @property
    def _file(self) -> Path:
        return self.machine.hooks / self.point

    @property
    def _mark(self) -> Path:
        return self.machine.hooks / f"{self.point}.reached"

    def set(self) -> Self:
        """Let programs stop there from now on."""
        self._file.touch()
        return self

    async def reached(self) -> None:
        """Wait until one has stopped there since the last time this was asked."""

        async def marked() -> bool:
            return self._mark.exists()

        await eventually(marked, f"{self.machine.name} reaches {self.point}")
        self._mark.unlink()

    def was_reached(self) -> bool:
        """Return whether one has stopped there since ``reached`` was last asked."""
        return self._mark.exists()

    def release(self) -> None:
        """Let those that stopped there go on, and stop nobody any more."""
        self._file.unlink()


@dataclass
class Site:
    """A simulated machine that is registered as a GPU pod, on a task queue that no other test polls."""

    temporal: Client
    machine: SimulatedMachine
    folder: Path
    task_queue: str = field(default_factory=lambda: f"chaos-{uuid.uuid4().hex[:12]}")
    workers: list[WorkerProcess] = field(default_factory=list)

    @property
    def pod_name(self) -> str:
        """The pod is called as the machine is."""
        return self.machine.name

    @property
    def client(self) -> PodctlClient:
        """A client whose workflows run on this site's queue."""
        return PodctlClient(self.temporal, self.task_queue)

    async def register(self) -> None:
        """Make the machine known as a GPU pod."""
        await self.client.register_pod(
            PodInput(
                name=self.pod_name,
                ssh=parse_ssh(self.machine.ssh_command),
                host_key=self.machine.host_key,
                by="ann",
                command_id=new_command_id(),
            )
        )

    # -- workers -------------------------------------------------------------------------------------------------

    def start_worker(self) -> WorkerProcess:
        """Start one more worker of this site."""
        self.folder.mkdir(parents=True, exist_ok=True)
        worker = WorkerProcess(self.temporal.service_client.config.target_host, self.task_queue, self.folder)
        self.workers.append(worker)
        return worker

    def end_workers(self) -> None:
        """Kill every worker that still runs."""
        for worker in self.workers:
            kill(worker.process)

    async def held_by(self, workflow_id: str, activity: str, worker: WorkerProcess) -> None:
        """Wait until ``worker`` has taken up the activity of that name."""

        async def taken() -> bool:
            described = await self.temporal.get_workflow_handle(workflow_id).describe()
            return any(
                pending.activity_type.name == activity and worker.owns(pending.last_worker_identity)
                for pending in described.raw_description.pending_activities
            )

        await eventually(taken, f"worker {worker.process.pid} takes up {activity} of {workflow_id}")

    async def lose_connections(self) -> None:
        """Cut every connection to the machine, and wait until its watch has heard from it again.

        That the machine has been called anew is not enough: as long as it has said nothing the outage goes on.
        """
        known = {(one.pid, one.start_time) for one in await self.machine.processes()}
        await self.machine.drop_connections()

        async def called_anew() -> bool:
            return bool({(one.pid, one.start_time) for one in await self.machine.processes()} - known)

        await eventually(called_anew, f"{self.machine.name} is called again")
        called_at = datetime.now(UTC)

        async def heard() -> bool:
            described = await self.temporal.get_workflow_handle(self.pod_workflow).describe()
            for pending in described.raw_description.pending_activities:
                if pending.activity_type.name == "watch_pod" and pending.heartbeat_details.payloads:
                    [said] = await self.temporal.data_converter.decode(pending.heartbeat_details.payloads)
                    if pending.last_heartbeat_time.ToDatetime(UTC) > called_at:
                        return "launches" in said and "unreachable" not in said
            return False

        await eventually(heard, f"{self.machine.name} is watched again")

    # -- GPU pod -------------------------------------------------------------------------------------------------

    @property
    def pod_workflow(self) -> str:
        """The id of the pod's workflow."""
        return gpu_pod_workflow_id(self.pod_name)

    async def pod(self) -> GpuPodState:
        """Return the pod's state."""
        return await self.client.pod(self.pod_name)

    async def start_server(self, name: str, **options: Any) -> None:  # noqa: ANN401 - start_request checks them
        """Have a model server started that nobody but a person stops."""
        request = start_request(builtin_catalog(), MODEL, name, **options)
        await self.client.execute_pod(self.pod_name, StartServer(request=request), by="ann")

    async def stop_server(self, name: str) -> None:
        """Ask for the stop of a model server."""
        await self.client.execute_pod(self.pod_name, StopServer(name=name), by="ann")

    async def server(self, name: str, *states: str) -> ModelServer:
        """Wait until the model server is shown in one of ``states``, and return it."""

        async def there() -> ModelServer | None:
            pod = await self.pod()
            server = pod.servers.get(name)
            return server if server is not None and shown_state(pod, server) in states else None

        try:
            return await eventually(there, f"{name} on {self.pod_name} is {' or '.join(states)}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{await self.story(self.pod_workflow)}") from None

    async def reached_again(self, hook: Hook, worker: WorkerProcess, name: str, *states: str) -> None:
        """Wait until a program has stopped at ``hook`` for ``worker`` too, or it is known that none need come.

        Which comes first is chance: the worker's watch may see what the lost program did before it is tried again,
        and the server is then in one of ``states``.
        """
        await self.held_by(self.pod_workflow, "watch_pod", worker)

        async def come_or_needless() -> bool:
            pod = await self.pod()
            return hook.was_reached() or shown_state(pod, pod.server(name)) in states

        try:
            await eventually(come_or_needless, f"{hook.point} is reached again, or {name} is {' or '.join(states)}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{await self.story(self.pod_workflow)}") from None

    async def events(self, workflow_id: str) -> tuple[Event, ...]:
        """Return a workflow's event log."""
        return (await self.client.log(workflow_id)).events

    async def story(self, workflow_id: str) -> str:
        """Return the event log as text, for a failure's message."""
        events = await self.events(workflow_id)
        return "\n".join(f"{e.sequence} {e.at:%H:%M:%S.%f} {e.type} {e.by} {e.payload}" for e in events)

    # -- tasks ---------------------------------------------------------------------------------------------------

    async def create_task(self, task_id: str, plan: str) -> None:
        """Create a task with a spec and the plan, written in YAML."""
        await self.client.create_task(
            TaskInput(
                task_id=task_id,
                title=task_id,
                by="ann",
                command_id=new_command_id(),
                spec="Do it.",
                plan=read_plan(plan, "plan of the test"),
            )
        )

    async def signal(self, task_id: str, name: str, **payload: JsonValue) -> None:
        """Send a person's signal that must be accepted, whenever a worker comes to it."""
        outcome = await self.client.signal_task(task_id, name, {"by": "ann", **payload})
        assert outcome is None or outcome.accepted, outcome

    async def task(self, task_id: str, condition: Callable[[TaskState], bool], what: str) -> TaskState:
        """Wait until ``condition`` holds for the task, and return its state."""

        async def there() -> TaskState | None:
            state = await self.client.task(task_id)
            return state if condition(state) else None

        try:
            return await eventually(there, f"task {task_id}: {what}")
        except AssertionError as error:
            stories = [await self.story(task_workflow_id(task_id)), await self.story(self.pod_workflow)]
            raise AssertionError("\n".join([str(error), *stories])) from None

    # -- the program of a task -----------------------------------------------------------------------------------

    @property
    def program_starts(self) -> int:
        """How often ``WAITING_PROGRAM`` was started."""
        file = self.home / "starts"
        return file.read_text().count("started") if file.exists() else 0

    async def program_started(self) -> None:
        """Wait until ``WAITING_PROGRAM`` was started."""

        async def started() -> bool:
            return self.program_starts > 0

        await eventually(started, "the program runs")

    def let_program_go(self) -> None:
        """Let ``WAITING_PROGRAM`` go on, and each that is started from now on."""
        (self.home / "go").touch()

    # -- evidence on the machine ---------------------------------------------------------------------------------

    @property
    def home(self) -> Path:
        """The home folder of the machine's user."""
        return self.machine.folder / "home"

    def launch_folder(self, launch_id: str) -> Path:
        """Return where the podlet keeps a launch."""
        return self.home / ".podctl" / "launches" / launch_id

    def launches(self, owner: str, name: str) -> list[str]:
        """Return the counters of all launches of ``owner/name`` that the machine has ever seen."""
        folder = self.launch_folder(f"{owner}/{name}")
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    def server_starts(self, launch_id: str) -> int:
        """Return how many programs have begun to serve as this launch."""
        return (self.launch_folder(launch_id) / "output.log").read_text().count(_SERVER_BANNER)

    def record(self, launch_id: str) -> dict[str, Any]:
        """Return what the podlet wrote down before the launch."""
        record: dict[str, Any] = json.loads((self.launch_folder(launch_id) / "record.json").read_text())
        return record

    async def roles(self, *roles: str) -> list[Process]:
        """Return the living processes of model servers that have one of these roles."""
        return [process for process in await self.machine.processes() if process.role in roles]

    async def memory_used(self) -> int:
        """Return the MiB in use on all GPUs together."""
        return sum((await self.machine.gpu_memory()).values())

    async def assert_nothing_left(self) -> None:
        """Check that nothing of what ran is left, ending the workers first: with them the podlets' calls end too."""
        pod = await self.pod()
        assert leases(pod) == []
        assert await self.roles("api_server", "engine", "worker") == []
        assert await self.machine.gpu_memory() == {gpu.uuid: 0 for gpu in self.machine.gpus}
        for server in pod.servers.values():
            assert server.stop_result is None or server.stop_result.state == "stopped"
            listening = [port for port in (server.plan.ports if server.plan else ()) if self.listens(port)]
            assert listening == [], f"{server.name} is gone and something listens"
        assert self.files_left() == []
        self.end_workers()

        async def deserted() -> bool:
            return await self.machine.processes() == []

        await eventually(deserted, f"no process is left on {self.machine.name}")

    async def stop_and_leave_nothing(self, name: str = "coder") -> None:
        """Have the model server stopped, and check that with it everything is gone."""
        await self.stop_server(name)
        await self.server(name, "stopped")
        await self.assert_nothing_left()

    def files_left(self) -> list[str]:
        """Return shared memory and sockets that pretend model servers made and nobody removed."""
        made: list[str] = []
        for note in (self.machine.folder / "shm").iterdir():
            with contextlib.suppress(FileNotFoundError):  # whoever made it ends just now, and takes it away
                made.append(note.read_text())
        return [path for path in made if Path(path).exists()]

    def listens(self, port: int) -> bool:
        """Return whether something on the machine listens on a port."""
        with socket.socket() as probe:
            return probe.connect_ex((self.machine.address, port)) == 0


@contextlib.asynccontextmanager
async def site(temporal: Client, machine: SimulatedMachine, folder: Path) -> AsyncIterator[Site]:
    """A registered pod with one worker that has seen it; every worker is ended on the way out."""
    made = Site(temporal, machine, folder)

    async def seen() -> bool:
        return (await made.pod()).reachable is True

    try:
        await made.register()
        made.start_worker()
        await eventually(seen, f"{machine.name} was seen by its worker")
        yield made
    finally:
        made.end_workers()


@contextlib.asynccontextmanager
async def stories(
    request: pytest.FixtureRequest,
    temporal: Client,
    folders: pytest.TempPathFactory,
    tell: Callable[[Site, str], Awaitable[None]],
    *,
    prefix: str = "",
    at_once: int,
) -> AsyncIterator[Mapping[str, asyncio.Task[None]]]:
    """Tell the stories that this run's tests wait for, by their parameter ``point``: each on a machine of its own.

    For a fixture of a module: its ``request`` says which tests these are. A machine is called as the point, after
    ``prefix``. Up to ``at_once`` stories are under way at a time, so that together they take less.
    """
    chosen = [
        str(item.callspec.params["point"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path and request.fixturename in item.fixturenames
    ]
    few = asyncio.Semaphore(at_once)

    async def story(point: str, machine: SimulatedMachine) -> None:
        async with few, site(temporal, machine, folders.mktemp(point)) as made:
            await tell(made, point)

    configs = [MachineConfig(name=f"{prefix}{point}") for point in chosen]
    async with simulate(folders.mktemp("machines"), configs) as machines:
        tasks = {
            point: asyncio.create_task(story(point, machine)) for point, machine in zip(chosen, machines, strict=True)
        }
        try:
            yield tasks
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)


def count(events: tuple[Event, ...], **payload: object) -> Mapping[str, int]:
    """Return how often each type of event occurs, of those whose payload says ``payload``."""
    chosen = [e.type for e in events if all(e.payload.get(key) == value for key, value in payload.items())]
    return Counter(chosen)
