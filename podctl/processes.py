"""Processes of this machine that outlive the command that started them.

A process is known by (boot, pid, start time): pids are used again, and a signal must never reach a stranger.
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

LOOPBACK = "127.0.0.1"

_PROC = Path("/proc")
#: Below it there are too many that have a customary use.
_FIRST_PORT = 10_000
#: `/proc/net/tcp*` state of a listening socket.
_LISTEN = "0A"
#: What listens for connections to `LOOPBACK` as those tables write it: on it, or on every address.
_LISTENS_ON_LOOPBACK = ("0100007F", "0" * 8, "0" * 32, "0" * 16 + "FFFF0000" + "0100007F")

#: Processes that this one started: as their parent it has to reap them, or they would stay as zombies.
_children: dict[int, subprocess.Popen[bytes]] = {}


class ProcessIdentity(BaseModel):
    """One process, distinct from any other that ever has its pid."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pid: int
    #: As the system writes it; only compared.
    start_time: str
    boot: str

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Return the identity of the process that has ``pid`` now, None if none has or only a zombie."""
        start_time = _start_time(pid)
        return None if start_time is None else cls(pid=pid, start_time=start_time, boot=_boot())

    def is_alive(self) -> bool:
        """Return whether this very process still runs; a zombie does not."""
        child = _children.get(self.pid)
        if child is not None and child.poll() is not None:
            _children.pop(self.pid, None)  # another thread may have seen it at the same moment
        return ProcessIdentity.of(self.pid) == self

    def end(self, *, grace: float) -> str | None:
        """End the process, verified: TERM, after ``grace`` seconds KILL.

        Returns the name of the last signal that was sent, None if the process was gone already. Raises TimeoutError if
        it survives KILL (it waits for the kernel, for a network disk for instance).
        """
        sent = None
        for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
            if not self._signal(number):
                return sent
            sent = number.name
            if self.wait(patience):
                return sent
        raise TimeoutError(f"process {self.pid} still runs 10 s after KILL")

    def wait(self, patience: float) -> bool:
        """Return whether the process is gone within ``patience`` seconds."""
        deadline = time.monotonic() + patience
        while self.is_alive():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        return True

    def _signal(self, number: signal.Signals) -> bool:
        if not self.is_alive():
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        return True


def start_detached(
    argv: Sequence[str], *, log: Path, folder: Path, environment: Mapping[str, str] | None = None
) -> ProcessIdentity:
    """Start ``argv`` in a session of its own, output appended to ``log``; it outlives this process.

    Raises OSError if the program cannot be started.
    """
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with log.open("ab") as output:
        child = subprocess.Popen(
            argv,
            cwd=folder,
            env=None if environment is None else dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    _children[child.pid] = child
    # A process that died at once is not alive under the identity that its pid had when it was started.
    return ProcessIdentity.of(child.pid) or ProcessIdentity(pid=child.pid, start_time="", boot=_boot())


@dataclass(frozen=True)
class PortHolder:
    """Who listens on a port, as far as the system tells this user."""

    port: int
    pid: int | None
    command: str | None

    def __str__(self) -> str:
        who = f"process {self.pid} ({self.command})" if self.pid else "another process, perhaps of another user"
        return f"port {self.port} is taken by {who}"


def port_holder(port: int) -> PortHolder | None:
    """Return who listens on ``port`` of this machine's 127.0.0.1, None if it is free."""
    with socket.socket() as probe:
        # As servers do: connections that just ended don't count as a holder.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            pid = _listener(port)
            return PortHolder(port, pid, None if pid is None else _command(pid))
    return None


def free_ports(count: int) -> list[int]:
    """Return loopback ports that are free now and were all free at once.

    None of them is one that the system gives to outgoing connections: a server that died would find its port held by
    some client, by one that was trying to reach it even.
    """
    candidates = list(range(_FIRST_PORT, _first_outgoing_port()))
    random.shuffle(candidates)
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        # Where everything goes to outgoing connections, the system chooses.
        for port in (*candidates, *[0] * count):
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind((LOOPBACK, port))
                ports.append(probe.getsockname()[1])
            if len(ports) == count:
                return ports
    raise OSError(f"there are no {count} free ports on {LOOPBACK}")


def _first_outgoing_port() -> int:
    try:
        return int((_PROC / "sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except FileNotFoundError:  # no Linux: what BSD and macOS do
        return 49_152


def _start_time(pid: int) -> str | None:
    if not _PROC.joinpath("self").exists():
        return _start_time_by_ps(pid)
    try:
        # The command's name stands in parentheses and may hold any character: what follows the last one counts.
        fields = _PROC.joinpath(str(pid), "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The first thread may be a zombie already while others still hold the process's ports.
    threads = int(fields[17])
    return None if fields[0] in "ZX" and threads <= 1 else fields[19]


def _start_time_by_ps(pid: int) -> str | None:
    listing = subprocess.run(
        ["ps", "-o", "state=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.split(maxsplit=1)
    return None if len(listing) != 2 or listing[0].startswith("Z") else listing[1].strip()


@cache
def _boot() -> str:
    try:
        return _PROC.joinpath("sys/kernel/random/boot_id").read_text().strip()
    except FileNotFoundError:  # no Linux: start times are dates there and tell boots apart by themselves
        return ""


def _listener(port: int) -> int | None:
    inodes = set()
    for table in ("net/tcp", "net/tcp6"):
        with contextlib.suppress(OSError):
            for line in _PROC.joinpath(table).read_text().splitlines()[1:]:
                fields = line.split()
                address, _, hexadecimal = fields[1].partition(":")
                if fields[3] == _LISTEN and int(hexadecimal, 16) == port and address in _LISTENS_ON_LOOPBACK:
                    inodes.add(f"socket:[{fields[9]}]")
    for process in _PROC.glob("[0-9]*") if inodes else ():
        # Other users' processes don't show their files, and any may end while we look.
        with contextlib.suppress(OSError):
            if any(_link(file) in inodes for file in process.joinpath("fd").iterdir()):
                return int(process.name)
    return None


def _link(file: Path) -> str | None:
    try:
        return str(file.readlink())
    except OSError:
        return None


def _command(pid: int) -> str | None:
    try:
        words = _PROC.joinpath(str(pid), "cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    return b" ".join(words).decode(errors="replace").strip()[:200]
