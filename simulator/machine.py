"""One simulated machine: a process that is the ancestor of everything that runs on it.

It is a child subreaper, so that whatever detaches itself stays below it: a reboot finds every process by parentage
and nothing survives one, as on a real machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from simulator import gpu_memory, process_table
from simulator.control import ControlServer
from simulator.folder import MachineFolder, SimulationError
from simulator.models import Process, Settings
from simulator.network import Network
from simulator.ssh_server import SshServer, Terminal, in_terminal, pipes

_PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    """Adopt every orphan below this process, as PID 1 of a machine does."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def reap() -> list[tuple[int, int]]:
    """Take the exit codes of all dead children: (pid, code), a negative one is a signal."""
    found = []
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            found.append((pid, os.waitstatus_to_exitcode(status)))
    return found


class Machine:
    """The machine in ``folder``, for as long as ``run`` runs."""

    def __init__(self, folder: MachineFolder, listener: socket.socket) -> None:
        self._folder = folder
        self._record = folder.record
        self._listener = listener
        self._sessions: dict[int, tuple[subprocess.Popen[bytes], asyncio.Future[int]]] = {}
        self._rebooting = asyncio.Lock()

    async def run(self, lifeline: int, ready: Callable[[], None]) -> None:
        """Be the machine until TERM, INT, or until the other end of the pipe ``lifeline`` is closed."""
        become_subreaper()
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, over.set)
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        loop.add_reader(lifeline, over.set)
        self._ssh = SshServer(self._folder, self._record.address, self)
        self._network = Network(self._listener, self._ssh.serve)
        self._network.start()
        async with ControlServer(self._folder.path, self._control):
            ready()
            await over.wait()
            loop.remove_reader(lifeline)
            await self._power_off()
            self._folder.remove_files_outside()

    # ---- processes

    def start(self, command: str | None, terminal: Terminal | None = None) -> subprocess.Popen[bytes]:
        """Start the command of an SSH session, as sshd would."""
        arguments = ["/bin/sh"] if command is None else ["/bin/sh", "-c", command]
        environment, home = self._environment(), str(self._folder.home)
        if terminal is None:
            process = pipes(arguments, environment, home)
        else:
            login = command is None
            process = in_terminal(["-/bin/sh"] if login else arguments, environment, home, terminal)
        self._sessions[process.pid] = (process, asyncio.get_running_loop().create_future())
        return process

    def wait(self, process: subprocess.Popen[bytes]) -> asyncio.Future[int]:
        """Return a future of the exit code of a process that ``start`` started."""
        return self._sessions[process.pid][1]

    def _environment(self) -> dict[str, str]:
        path = [str(self._folder.programs), "/usr/local/bin", "/usr/bin", "/bin", str(Path(sys.base_prefix) / "bin")]
        return {
            "HOME": str(self._folder.home),
            "PATH": ":".join(path),
            "USER": self._record.user,
            "LOGNAME": self._record.user,
            "SHELL": "/bin/sh",
            "LANG": "C.UTF-8",
            "PODLET_BOOT_FILE": str(self._folder.boot),
            "PODLET_HOOKS": str(self._folder.hooks),
            "PODLET_MOUNTS": str(self._folder.mounts),
            "PODLET_LOOPBACK": self._record.address,
            "SIMULATOR_FOLDER": str(self._folder.path),
        }

    def _reap(self) -> None:
        for pid, code in reap():
            # what is in no session was adopted: its exit code is nobody's business
            process, ended = self._sessions.pop(pid, (None, None))
            if process is not None and ended is not None:
                process.returncode = code
                if not ended.done():
                    ended.set_result(code)

    async def _power_off(self) -> None:
        """Cut the network and kill every process below this one; return when none is left."""
        await self._network.stop()
        while below := process_table.descendants(os.getpid()):
            for stat in below:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(stat.pid, signal.SIGKILL)
            self._reap()
            await asyncio.sleep(0.005)

    # ---- what it can be told

    async def _control(self, order: str, arguments: dict[str, Any]) -> object:
        orders: dict[str, Callable[..., Any]] = {
            "settings": self._change_settings,
            "drop": self._network.drop,
            "unreachable": self._network.unreachable,
            "reachable": self._network.reachable,
            "reboot": self._reboot,
            "host_key": self._change_host_key,
            "processes": self._processes,
            "gpu_memory": lambda: gpu_memory.used(str(self._folder.path)),
            "occupy": self._occupy,
            "leak": self._leak,
            "signal": self._signal,
        }
        if order not in orders:
            raise SimulationError(f"unknown order {order!r}; there are {', '.join(sorted(orders))}")
        result = orders[order](**arguments)
        return await result if asyncio.iscoroutine(result) else result

    def _change_settings(self, **values: object) -> dict[str, Any]:
        try:
            settings = Settings.model_validate({**self._folder.settings.model_dump(), **values})
        except ValidationError as error:
            wrong = error.errors()[0]
            raise SimulationError(f"settings: {'.'.join(map(str, wrong['loc']))}: {wrong['msg']}") from error
        self._folder.change_settings(settings)
        return settings.model_dump()

    async def _reboot(self, seconds: float) -> str:
        async with self._rebooting:
            await self._power_off()
            boot = self._folder.begin_boot()
            await asyncio.sleep(seconds)
            self._network.reachable()
        return boot

    def _change_host_key(self) -> str:
        fingerprint = self._folder.new_host_key()
        self._ssh.load_host_key()
        return fingerprint

    def _processes(self) -> list[dict[str, Any]]:
        return [
            Process(
                pid=stat.pid,
                parent=stat.parent,
                session=stat.session,
                start_time=stat.start_time,
                name=stat.name,
                arguments=tuple(arguments),
            ).model_dump()
            for stat in process_table.descendants(os.getpid())
            if stat.alive and (arguments := process_table.arguments(stat.pid))
        ]

    def _gpu(self, index: int) -> str:
        if not 0 <= index < len(self._record.gpus):
            raise SimulationError(f"no GPU {index}: {self._record.name} has {len(self._record.gpus)}")
        return self._record.gpus[index].uuid

    def _occupy(self, gpu: int, mib: int) -> int:
        """Let a process that belongs to nobody's launch hold memory of a GPU; return its pid."""
        uuid = self._gpu(gpu)
        process = self.start("exec sleep 2147483647")
        gpu_memory.hold(str(self._folder.path), process.pid, {uuid: mib})
        return process.pid

    def _leak(self, gpu: int, mib: int) -> None:
        gpu_memory.leak(str(self._folder.path), {self._gpu(gpu): mib} if mib else {})

    def _signal(self, role: str, number: int, server: str | None) -> list[int]:
        """Send a signal to every process of ``role`` of the pretend model servers (one: by its served name)."""
        processes = [Process.model_validate(process) for process in self._processes()]
        sessions = {
            process.session
            for process in processes
            if process.role == "api_server" and (server is None or server in process.arguments)
        }
        if server is None:
            sessions = {process.session for process in processes}
        chosen = [process.pid for process in processes if process.role == role and process.session in sessions]
        if not chosen:
            raise SimulationError(f"no {role} of {server or 'any model server'} runs on {self._record.name}")
        for pid in chosen:
            with contextlib.suppress(ProcessLookupError):  # it has ended since, with another of them
                os.kill(pid, number)
        return chosen
