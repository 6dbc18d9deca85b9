"""Everything that the figures are taken on: Temporal with our worker as `podctl up` starts them, one simulated GPU pod
with a model server that is ready, and the bare workflow's worker."""

import asyncio
import os
import shlex
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from temporalio.client import Client

from podctl import embedded
from podctl.client import PodctlClient
from podctl.connection import connect, connect_to, target
from podctl.paths import PodctlPaths
from podctl.processes import free_ports, start_detached
from simulator.api import MachineConfig, Settings, SimulatedMachine, simulate
from tests.bench import bare
from tests.system.sshd import OpenSshMachine, sshd_program

POD = "bench"
SERVER = "coder"
PODCTL = str(Path(sys.executable).with_name("podctl"))
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Site:
    """What the figures are taken on."""

    folder: Path
    podctl: PodctlClient
    #: A client without anything of ours, for the bare workflow.
    bare: Client
    #: For commands that shall find this site.
    environment: Mapping[str, str]

    async def run(self, argv: Sequence[str]) -> float:
        """Run a command and return the seconds it took; raises ``RuntimeError`` if it fails."""
        started = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            *argv,
            env=self.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        taken = time.perf_counter() - started
        if process.returncode != 0:
            raise RuntimeError(f"{shlex.join(argv)} ended with {process.returncode}: {output.decode(errors='replace')}")
        return taken

    @asynccontextmanager
    async def pod(self, name: str, settings: Settings, *, openssh: bool = False) -> AsyncIterator[SimulatedMachine]:
        """Simulate one more machine, with one GPU, and let podctl know it as ``name`` meanwhile.

        ``openssh``: it is reached through a real sshd, which has to be installed.
        """
        async with simulate(self.folder / "machines", [MachineConfig(name=name, settings=settings)]) as [inside]:
            machine = await _behind_openssh(inside) if openssh else inside
            await self._add_pod(machine)
            try:
                yield machine
            finally:
                await self.run([PODCTL, "pods", "remove", name, "--lost"])

    async def _add_pod(self, machine: SimulatedMachine) -> None:
        await self.run(
            [PODCTL, "pods", "add", machine.name, machine.ssh_command, "--accept-host-key", machine.fingerprint]
        )


async def _behind_openssh(inside: SimulatedMachine) -> SimulatedMachine:
    machine = OpenSshMachine(inside.folder, sshd_program())
    await machine.configure()
    await machine.start_sshd()
    return machine


@asynccontextmanager
async def site(folder: Path) -> AsyncIterator[Site]:
    """Start everything in ``folder``, with the model server ready; end all of it on the way out, verified."""
    paths = PodctlPaths(config=folder / "config", data=folder / "data")
    paths.data.mkdir(parents=True)
    for name in tuple(os.environ):
        # Nothing of the user's Temporal; and bytecode is kept, as it is wherever podctl is installed: where a machine
        # forbids it, every start would compile all that it loads.
        if name.startswith("TEMPORAL_") or name == "PYTHONDONTWRITEBYTECODE":
            del os.environ[name]
    os.environ.update(paths.environment(), TEMPORAL_CONFIG_FILE=os.devnull)
    port, ui_port = free_ports(2)
    machine = MachineConfig(name=POD, settings=Settings(load_seconds=0.5))
    async with simulate(folder / "machines", [machine]) as [simulated]:
        try:
            server = (await embedded.up(paths, lambda _: None, port=port, ui_port=ui_port)).server
            bare_worker = start_detached(
                [sys.executable, "-m", "tests.bench.bare", server.address],
                log=folder / "bare-worker.log",
                folder=_ROOT,
            )
            try:
                made = Site(
                    folder, PodctlClient(await connect(paths)), await connect_to(target(paths)), dict(os.environ)
                )
                await made._add_pod(simulated)
                await made.run([PODCTL, "start", "bench/pretend", "--name", SERVER, "--pod", POD])
                yield made
            finally:
                await asyncio.to_thread(bare_worker.end, grace=5.0)
        finally:
            await embedded.down(paths, lambda _: None)


async def start_bare(client: Client, workflow_id: str, start: object, task_queue: str = bare.TASK_QUEUE) -> None:
    """Start a bare workflow."""
    await client.start_workflow("Bare", start, id=workflow_id, task_queue=task_queue)
