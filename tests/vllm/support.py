"""Real model servers of one pod: started and stopped with podctl, looked at on the machine itself."""

import asyncio
import contextlib
import json
import re
import socket
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from simulator.models import Process
from tests.activity.simulator_harness import connected
from tests.system.sshd import OpenSshMachine
from tests.workflow.cli.support import CommandLine

T = TypeVar("T")

#: Seconds until a condition that does not come is a failure: a real engine starts in one to three minutes on two cores.
PATIENCE = 1200.0


async def eventually(ask: Callable[[], Awaitable[T | None]], what: str) -> T:
    """Return the first true answer of ``ask``."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if answer := await ask():
            return answer
        await asyncio.sleep(0.1)
    raise AssertionError(f"it never came true within {PATIENCE:.0f} s: {what}")


@dataclass
class Traces:
    """What a launch has outside of its folder, as seen while it lived: all of it must be gone afterwards."""

    processes: set[tuple[int, int]] = field(default_factory=set)
    files: set[Path] = field(default_factory=set)
    port: int = 0

    async def left(self, machine: OpenSshMachine) -> list[str]:
        """Return what is still there."""
        alive = {(process.pid, process.start_time): process.title for process in await machine.processes()}
        left = [f"process {pid} ({alive[pid, start]})" for pid, start in self.processes if (pid, start) in alive]
        left += [str(path) for path in self.files if path.exists()]
        with socket.socket() as probe:
            if probe.connect_ex((machine.address, self.port)) == 0:
                left.append(f"port {self.port}")
        return left


class RealServers:
    """The model servers of one pod."""

    def __init__(self, podctl: CommandLine, machine: OpenSshMachine, pod: str, model: str) -> None:
        self.podctl = podctl
        self.machine = machine
        self.pod = pod
        self.model = model

    async def start(self, name: str) -> dict[str, Any]:
        """Ask for a model server, and return its row once it has a port."""
        row: dict[str, Any] = await self.podctl.json("start", self.model, "--name", name, "--detach")
        return await self.row(name, lambda row: row["port"], "has a port") if row["port"] is None else row

    async def state(self, name: str, *states: str) -> dict[str, Any]:
        """Return the server's row once it is in one of ``states``."""
        return await self.row(name, lambda row: row["state"] in states, f"is {' or '.join(states)}")

    async def row(self, name: str, condition: Callable[[dict[str, Any]], object], what: str) -> dict[str, Any]:
        last: list[dict[str, Any]] = []

        async def there() -> dict[str, Any] | None:
            last[:] = [row for row in await self.podctl.json("list") if row["name"] == name]
            if last and condition(last[0]):
                return last[0]
            assert not last or last[0]["state"] != "failed", "it has failed"
            return None

        try:
            return await eventually(there, f"{name} {what}")
        except AssertionError as error:
            error.add_note(f"{last}\n{self.log(name)[-3000:]}")
            raise

    def folder(self, name: str) -> Path:
        """Return where the podlet keeps the server's first launch."""
        return self.machine.folder / "home" / ".podctl" / "launches" / self.pod / name / "1"

    def log(self, name: str) -> str:
        """Return what the server has said."""
        path = self.folder(name) / "output.log"
        return path.read_text(errors="replace") if path.exists() else ""

    async def logged(self, name: str, text: str) -> None:
        """Wait until the server has said ``text``."""

        async def there() -> bool:
            return text in self.log(name)

        await eventually(there, f"{name} says {text!r}")

    async def tree(self, name: str) -> dict[str, Process]:
        """Return the server's living processes: root, engine and worker by role."""
        pid = json.loads((self.folder(name) / "process.json").read_text())["pid"]
        members = [process for process in await self.machine.processes() if process.session == pid]
        return {process.role: process for process in members if process.role != "other"}

    async def traces(self, name: str, port: int) -> Traces:
        """Return what the server has now: processes, shared memory, sockets, rendezvous file, port."""
        pid = json.loads((self.folder(name) / "process.json").read_text())["pid"]
        members = [process for process in await self.machine.processes() if process.session == pid]
        files = {Path(path) for path in re.findall(r"file://(\S+/vllm_dist_\w+)", self.log(name))}
        for process in members:
            files |= _shared_memory(process.pid)
        return Traces({(one.pid, one.start_time) for one in members}, files | _sockets(pid), port)

    @contextlib.asynccontextmanager
    async def tunnel(self, port: int) -> AsyncIterator[str]:
        """Reach the server's port as clients do, through the SSH connection; gives the URL."""
        async with connected(self.machine) as connection:
            listener = await connection.forward_local_port("127.0.0.1", 0, self.machine.address, port)
            yield f"http://127.0.0.1:{listener.get_port()}"
            listener.close()

    def key(self, name: str) -> str:
        """Return the key that the podlet made for the server."""
        return (self.folder(name) / "api_key").read_text()


def _shared_memory(pid: int) -> set[Path]:
    maps = Path(f"/proc/{pid}/maps").read_text()
    return {Path(path) for path in re.findall(r"/dev/shm/\S+", maps)}  # noqa: S108 - looked at


def _sockets(pid: int) -> set[Path]:
    """Return the folder of a server's sockets, with what is in it, as its environment names it."""
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    [folder] = [Path(one.decode().partition("=")[2]) for one in variables if one.startswith(b"VLLM_RPC_BASE_PATH=")]
    return {folder, *folder.iterdir()}


def ask(url: str, body: dict[str, Any] | None = None, key: str | None = None) -> str:
    """Make one request and return the answer's body; raises HTTPError. A stream is read to its end."""
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)  # noqa: S310 - our own URL
    with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310 - our own URL
        return str(answer.read().decode())


def chat(model: str, **fields: object) -> dict[str, Any]:
    """Return the body of a chat request."""
    return {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, **fields}
