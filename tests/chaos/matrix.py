"""The failure matrix: what one row has at hand, and how what was seen becomes a line of ``docs/failures.md``."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from domain.gpu.leases import leases
from domain.gpu.models import GpuPodState, ModelServer
from simulator.api import SimulatedMachine
from simulator.models import Process
from tests.chaos.support import MODEL, PATIENCE, Hook, Site, eventually
from tests.workflow.cli.support import CommandLine, Done

#: What is different each time, and what stands for it; in this order.
_DIFFERENT = (
    (r"\b127\.\d+\.\d+\.\d+(:\d+)?", "ADDRESS"),
    (r"\bSHA256:[A-Za-z0-9+/]{20,}", "SHA256:…"),
    (r"\bGPU-[0-9a-f-]{36}", "GPU-…"),
    (r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00| UTC)?", "TIME"),
    (r"\b\d\d-\d\d \d\d:\d\d:\d\d\b", "TIME"),
    (r"\b[0-9a-f]{32}\b", "OWNER"),
    (r"\b(pid|process)([= ])\d+", r"\1\2N"),
    (r"\b\d+(\.\d+)? ?s ago\b", "N s ago"),
    # A line is cut at a length that counts the digits of a pid.
    (r"\bestimated maximum model l\w*", "estimated maximum model …"),
    (r"\b20000(,20\d{3})+\b", "20000…20019"),
)


@dataclass
class Case:
    """One row while it is told: a machine of its own, the pod that it is, and what was shown."""

    site: Site
    podctl: CommandLine
    one_command: asyncio.Lock
    shown: list[str] = field(default_factory=list)
    strangers: set[int] = field(default_factory=set)

    @property
    def machine(self) -> SimulatedMachine:
        return self.site.machine

    # -- what a person does ------------------------------------------------------------------------------------------

    async def command(self, *arguments: str, status: int = 0) -> Done:
        """Give a command; one at a time, because those in this process share its output."""
        async with self.one_command:
            return await self.podctl(*arguments, status=status)

    async def start(self, name: str = "coder", *options: str, status: int = 0) -> Done:
        """Have a model server started."""
        start = ("start", MODEL, "--name", name, "--pod", self.site.pod_name, "--detach")
        return await self.command(*start, *options, status=status)

    async def ready(self, name: str = "coder", *options: str) -> ModelServer:
        """Start a model server and wait until it is ready."""
        await self.start(name, *options)
        return await self.site.server(name, "ready")

    async def fails(self, *options: str) -> ModelServer:
        """Start a model server that fails, and wait until what it left has been looked after."""
        await self.start("coder", *options)
        return await self.finished()

    async def finished(self, name: str = "coder") -> ModelServer:
        """Wait until the server holds nothing any more."""
        return (await self.pod(lambda pod: pod.servers[name].finished, f"{name} has ended")).servers[name]

    async def pod(
        self, condition: Callable[[GpuPodState], object], what: str, patience: float = PATIENCE
    ) -> GpuPodState:
        """Wait until ``condition`` holds for the pod, and return its state."""

        async def there() -> GpuPodState | None:
            state = await self.site.pod()
            return state if condition(state) else None

        try:
            return await eventually(there, f"{what} on {self.site.pod_name}", patience)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{await self.site.story(self.site.pod_workflow)}") from None

    # -- what podctl shows -------------------------------------------------------------------------------------------

    async def show(self, containing: str = "") -> None:
        """Keep what `podctl list` says now, or once it contains a text: what a server's log tells comes with a beat."""

        async def listed() -> Done | None:
            done = await self.command("list", "--pod", self.site.pod_name, "-o", "json")
            return done if containing in done.output else None

        self._keep_listed(await eventually(listed, f"{containing!r} is listed"))

    async def show_restarting(self) -> None:
        """Keep what `podctl list` says while the server waits to be launched again.

        That is for five seconds: the other rows' commands have to wait meanwhile.
        """
        async with self.one_command:
            await self.pod(lambda pod: pod.servers["coder"].state == "restarting", "it is to be launched again")
            self._keep_listed(await self.podctl("list", "--pod", self.site.pod_name, "-o", "json"))

    def _keep_listed(self, listed: Done) -> None:
        for row in listed.json:
            self.keep(f"{row['name']} **{row['state'].replace('_', ' ')}**", row["detail"])
        self.keep("", listed.errors)

    async def show_pod(self, containing: str, pod: str | None = None) -> None:
        """Keep the lines of `podctl pods show` that contain a text."""
        shown = (await self.command("pods", "show", pod or self.site.pod_name)).output
        lines = [line for line in shown.splitlines() if containing in line]
        assert lines, shown
        self.keep("`podctl pods show`", " ".join(lines))

    async def show_refusal(self, *options: str) -> None:
        """Keep what a start that is refused says, once the machine was looked at."""
        await self.pod(lambda pod: pod.inventory, "it was looked at")
        self.keep("", (await self.start("coder", *options, status=1)).errors)

    def show_log_tail(self, server: ModelServer, *beginnings: str) -> None:
        """Keep the lines of the log's end, as the failure carries it, that begin so."""
        assert server.failure is not None
        lines = [line for line in server.failure.log_tail.splitlines() if line.startswith(beginnings)]
        assert len(lines) == len(beginnings), (server.failure, server.exit)
        self.keep("the end of its log", " ".join(sorted(lines)))

    def keep(self, what: str, text: str) -> None:
        """Keep a text in the form that it has each time."""
        text = text.replace(str(self.machine.folder), "FOLDER").replace(self.site.pod_name, "POD")
        for pattern, stands_for in _DIFFERENT:
            text = re.sub(pattern, stands_for, text)
        words = " ".join(text.split())
        if what or words:
            self.shown.append(": ".join(part for part in (what, words) if part))

    # -- what happens on the machine ---------------------------------------------------------------------------------

    async def kill(self, role: str) -> None:
        """Send SIGKILL to the model server's processes of that role."""
        await self.machine.signal_servers(role, signal.SIGKILL)  # type: ignore[arg-type] # a typo fails the row

    def kill_process(self, process: Process) -> None:
        """Send SIGKILL to a process, which may have ended meanwhile: one that it belonged to was killed before it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)

    def hook(self, point: str) -> Hook:
        """Stop the machine's programs at a point."""
        return Hook(self.machine, point).set()

    def replace_vllm(self, script: str) -> None:
        """Put a shell script in the place of the pretend vllm."""
        program = self.machine.folder / "bin" / "vllm"
        program.write_text(f"#!/bin/sh\n{script}\n")

    def remove_record(self, launch_id: str) -> None:
        """Remove everything that the podlet knows of a launch."""
        folder = self.site.launch_folder(launch_id)
        while folder.exists():  # who looks after it may write into the folder while it is being emptied
            shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def somebody_listens(self, port: int) -> Iterator[None]:
        """Let a stranger have a port of the machine."""
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.machine.address, port))
            listener.listen()
            self.strangers.add(port)
            yield
        self.strangers.remove(port)

    async def supervisors(self) -> list[Process]:
        """Return the podlet's supervisors."""
        beginning = f"{self.site.pod_name}/"
        return [one for one in await self.machine.processes() if any(a.startswith(beginning) for a in one.arguments)]

    async def environment(self, server: ModelServer) -> Mapping[str, str]:
        """Return the environment of a model server's root."""
        text = await asyncio.to_thread(Path(f"/proc/{server.pid}/environ").read_text)
        return dict(line.split("=", 1) for line in text.split("\0") if "=" in line)

    async def left(self) -> str:
        """Return what there is of launches on the machine now, and whether podctl keeps a lease for any."""
        state = await self.site.pod()
        roles = {one.role for one in await self.site.roles("api_server", "engine", "worker")}
        names = sorted(role.replace("_", " ") for role in roles) + ["supervisor"] * bool(await self.supervisors())
        ports = {port for server in state.servers.values() if server.plan for port in server.plan.ports}
        parts = {
            f"processes ({', '.join(names)})": bool(names),
            "GPU memory": bool(await self.site.memory_used()),
            "open ports": any(self.site.listens(port) for port in ports - self.strangers),
            "shared memory and sockets": bool(self.site.files_left()),
            "its lease": bool(leases(state)),
        }
        if all(parts.values()) and {"api_server", "engine", "worker"} <= roles:
            return "the server, which serves on"
        return ", ".join(part for part, is_there in parts.items() if is_there) or "nothing"

    def is_alive(self, pid: int) -> bool:
        """Return whether a process lives."""
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True
