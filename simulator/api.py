"""Simulated machines for programs: start some, break them in the ways machines break, end them.

```python
async with simulate(folder, [MachineConfig(name="one")]) as [one]:
    await one.settings(load_seconds=0.2)
    await one.unreachable(5)
```
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Literal

import asyncssh

from simulator.control import tell
from simulator.folder import MachineFolder, SimulationError
from simulator.models import Gpu, MachineConfig, MachineGpu, Process, Settings

__all__ = ["Gpu", "MachineConfig", "Process", "Settings", "SimulatedMachine", "SimulationError", "simulate"]

_ROOT = Path(__file__).parent.parent


class SimulatedMachine:
    """A handle on a machine that runs in another process; every method raises SimulationError if it is gone."""

    def __init__(self, folder: Path) -> None:
        self._folder = MachineFolder(folder)
        record = self._folder.record
        self.folder = self._folder.path
        self.name = record.name
        self.address = record.address
        self.port = record.port
        self.user = record.user
        self.gpus: tuple[MachineGpu, ...] = record.gpus
        self.client_key = self._folder.client_key
        self.hooks = self._folder.hooks

    @property
    def ssh_command(self) -> str:
        """What a user would paste: ``ssh -i KEY -p PORT user@ADDRESS``."""
        return f"ssh -i {shlex.quote(str(self.client_key))} -p {self.port} {self.user}@{self.address}"

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the host key that the machine shows now: ``SHA256:…``."""
        return asyncssh.read_private_key(self._folder.host_key).get_fingerprint()

    @property
    def host_key(self) -> str:
        """The public host key in OpenSSH's format."""
        return asyncssh.read_private_key(self._folder.host_key).export_public_key().decode().strip()

    @property
    def boot(self) -> str:
        """Identity of the current boot; every reboot gives a new one."""
        return self._folder.boot.read_text().strip()

    async def settings(self, **values: object) -> Settings:
        """Change fields of Settings; they hold for commands and model servers that start from now on."""
        return Settings.model_validate(await tell(self.folder, "settings", **values))

    async def drop_connections(self) -> None:
        """Cut every SSH connection with a reset; new ones are accepted."""
        await tell(self.folder, "drop")

    async def unreachable(self, seconds: float | None = None, outage: Literal["hang", "refuse"] = "hang") -> None:
        """Let no byte pass for ``seconds`` (None: until ``reachable``); processes go on.

        ``hang``: new connections get no answer; ``refuse``: they are refused. Connections that exist freeze in both.
        """
        await tell(self.folder, "unreachable", seconds=seconds, outage=outage)

    async def reachable(self) -> None:
        """End an outage now."""
        await tell(self.folder, "reachable")

    async def reboot(self, seconds: float = 0.0) -> str:
        """Kill everything on the machine, stay away for ``seconds``, come back; return the new boot identity."""
        return str(await tell(self.folder, "reboot", seconds=seconds))

    async def change_host_key(self) -> str:
        """Show another host key from the next connection on; return its fingerprint."""
        return str(await tell(self.folder, "host_key"))

    async def processes(self) -> list[Process]:
        """Return every living process of the machine, parents before their children."""
        return [Process.model_validate(process) for process in await tell(self.folder, "processes")]

    async def gpu_memory(self) -> dict[str, int]:
        """Return the MiB in use on each GPU, by UUID."""
        used: dict[str, int] = await tell(self.folder, "gpu_memory")
        return used

    async def occupy_gpu(self, gpu: int, mib: int) -> int:
        """Let a process that is nobody's launch hold ``mib`` of the GPU with that index; return its pid."""
        return int(await tell(self.folder, "occupy", gpu=gpu, mib=mib))

    async def leak_gpu_memory(self, gpu: int, mib: int) -> None:
        """Show ``mib`` of the GPU as used though no process holds them, until a reboot or until called with 0."""
        await tell(self.folder, "leak", gpu=gpu, mib=mib)

    async def signal_servers(
        self, role: Literal["api_server", "engine", "worker"], number: signal.Signals, server: str | None = None
    ) -> list[int]:
        """Send a signal to the processes of ``role`` of all pretend model servers, or of the one of that name."""
        return list(await tell(self.folder, "signal", role=role, number=int(number), server=server))


@contextlib.asynccontextmanager
async def simulate(folder: Path, machines: Sequence[MachineConfig]) -> AsyncIterator[list[SimulatedMachine]]:
    """Simulate ``machines`` in folders of their names below ``folder`` while the context lasts.

    Leaving it ends everything that runs on them, and returns when no process is left. They also end if this process
    dies. Raises SimulationError when they cannot be started.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "simulator.host", cwd=_ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None  # noqa: S101 - it was asked for
    assert process.stdout is not None  # noqa: S101 - it was asked for
    request = {"folder": str(folder), "machines": [machine.model_dump() for machine in machines]}
    try:
        process.stdin.write(json.dumps(request).encode() + b"\n")
        line = await process.stdout.readline()
        reply = json.loads(line) if line else {"error": "the simulation ended at once; its error is on stderr"}
        if "error" in reply:
            raise SimulationError(reply["error"])
        yield [SimulatedMachine(folder / machine.name) for machine in machines]
    finally:
        process.stdin.close()
        await process.wait()
