"""The SSH server of a simulated machine: public keys only, commands run for real as sshd runs them.

A client that goes away closes the pipes of its command and nothing more: what the command started goes on. As with
OpenSSH, a session ends when the command has ended and nobody holds its output open.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import struct
import subprocess
import termios
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, cast

import asyncssh

from simulator.folder import USER, MachineFolder

_LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1", ""}


class Processes(Protocol):
    """Starts the processes of sessions and waits for them; a negative exit code is a signal."""

    def start(self, command: str | None, terminal: Terminal | None = None) -> subprocess.Popen[bytes]:
        """Start ``command`` by the shell, a shell that reads stdin for None, with pipes or in the terminal."""

    def wait(self, process: subprocess.Popen[bytes]) -> asyncio.Future[int]:
        """Return a future of its exit code."""


class Terminal:
    """A terminal of the machine: the session reads and writes one end, the command has the other."""

    def __init__(self, kind: str, size: tuple[int, int, int, int]) -> None:
        self.kind = kind
        self.outside, self.inside = os.openpty()
        self.resize(size)

    def resize(self, size: tuple[int, int, int, int]) -> None:
        """Take a size (columns, lines, both in pixels); the kernel tells the command."""
        columns, lines, width, height = size
        fcntl.ioctl(self.outside, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, width, height))


class SshServer:
    """Serves SSH on sockets that are handed to it."""

    def __init__(self, folder: MachineFolder, loopback: str, processes: Processes) -> None:
        self._folder = folder
        self._loopback = loopback
        self._processes = processes
        self.load_host_key()

    def load_host_key(self) -> None:
        """Show the host key that the folder has now, from the next connection on."""
        self._options = asyncssh.SSHServerConnectionOptions(
            server_factory=lambda: _Server(self._folder, self._loopback, self._processes),
            server_host_keys=[str(self._folder.host_key)],
            server_version="podctl_simulation",
            password_auth=False,
            kbdint_auth=False,
            agent_forwarding=False,
            encoding=None,
            line_editor=False,
        )

    async def serve(self, connected: socket.socket) -> None:
        """Serve one connection until it ends."""
        try:
            connection = await asyncssh.run_server(connected, options=self._options)
        except (asyncssh.Error, OSError):
            return  # it ended before it was authenticated
        await connection.wait_closed()


class _Server(asyncssh.SSHServer):
    def __init__(self, folder: MachineFolder, loopback: str, processes: Processes) -> None:
        self._folder = folder
        self._loopback = loopback
        self._processes = processes

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn

    def begin_auth(self, username: str) -> bool:
        if username == USER:
            self._connection.set_authorized_keys(str(self._folder.authorized_keys))
        return True

    def session_requested(self) -> asyncssh.SSHServerSession[bytes]:
        return _Session(self._processes, self._folder.settings.login_output)

    def connection_requested(
        self, dest_host: str, dest_port: int, _orig_host: str, _orig_port: int
    ) -> bool | Awaitable[asyncssh.SSHTCPSession[bytes]]:
        """Forward to the machine's own loopback, which is its 127.x address, and nowhere else."""
        if dest_host not in _LOOPBACK_NAMES | {self._loopback}:
            return False
        return self._forward(dest_port)

    async def _forward(self, port: int) -> asyncssh.SSHTCPSession[bytes]:
        # what asyncssh itself does when True is returned, to another host; its types say less than it takes
        return cast(asyncssh.SSHTCPSession[bytes], await self._connection.forward_connection(self._loopback, port))


class _Session(asyncssh.SSHServerSession[bytes]):
    """One command: its pipes on this side, the channel on the other."""

    def __init__(self, processes: Processes, login_output: str) -> None:
        self._processes = processes
        self._login_output = login_output
        self._command: str | None = None
        self._terminal: Terminal | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._input = _Input(self)
        self._outputs: list[asyncio.ReadTransport] = []
        self._running: asyncio.Task[None] | None = None
        self._gone = False

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self.channel = chan

    def shell_requested(self) -> bool:
        return True

    def exec_requested(self, command: str) -> bool:
        self._command = command
        return True

    def pty_requested(self, term_type: str, term_size: tuple[int, int, int, int], _modes: Mapping[int, int]) -> bool:
        self._terminal = Terminal(term_type, term_size)
        return True

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        if self._terminal is not None and not self._gone:
            self._terminal.resize((width, height, pixwidth, pixheight))

    def session_started(self) -> None:
        self._running = asyncio.create_task(self._run())

    async def _run(self) -> None:
        self.channel.write(self._login_output.encode())
        self._process = process = self._processes.start(self._command, self._terminal)
        ended = self._processes.wait(process)
        loop = asyncio.get_running_loop()
        writing, reading = process.stdin, [(process.stdout, None), (process.stderr, asyncssh.EXTENDED_DATA_STDERR)]
        if self._terminal is not None:
            os.close(self._terminal.inside)
            writing = os.fdopen(os.dup(self._terminal.outside), "wb", buffering=0)
            reading = [(os.fdopen(self._terminal.outside, "rb", buffering=0), None)]
        stdin, _ = await loop.connect_write_pipe(lambda: self._input, writing)
        self._input.connect(stdin)
        closed = []
        for pipe, kind in reading:
            output = _Output(self._write_to(kind))
            transport, _ = await loop.connect_read_pipe(lambda output=output: output, pipe)  # type: ignore[misc] # mypy cannot type defaults of a lambda
            self._outputs.append(transport)
            closed.append(output.closed)
        if self._gone:
            self._close_pipes()
        code = await ended
        await asyncio.gather(*closed)
        if self._gone:
            return
        if code < 0:
            self.channel.exit_with_signal(signal.Signals(-code).name.removeprefix("SIG"))
        else:
            self.channel.exit(code)

    def _write_to(self, kind: int | None) -> Callable[[bytes], None]:
        def write(data: bytes) -> None:
            # Closed by the client, which `connection_lost` tells a moment later.
            if not self._gone and not self.channel.is_closing():
                self.channel.write(data, kind)

        return write

    def data_received(self, data: bytes, _datatype: asyncssh.DataType) -> None:
        self._input.write(data)

    def eof_received(self) -> bool:
        # A terminal has no end: what reads from it is told by the key for it, which is data like every other.
        if self._terminal is None:
            self._input.end()
        return True

    def signal_received(self, signame: str) -> None:
        if self._process is not None and self._process.returncode is None:
            os.killpg(self._process.pid, signal.Signals[f"SIG{signame}"])

    def pause_writing(self) -> None:
        for output in self._outputs:
            output.pause_reading()

    def resume_writing(self) -> None:
        for output in self._outputs:
            output.resume_reading()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._gone = True
        self._close_pipes()

    def _close_pipes(self) -> None:
        self._input.end()
        for output in self._outputs:
            output.close()


class _Input(asyncio.BaseProtocol):
    """The command's stdin; what comes before the pipe is connected waits."""

    def __init__(self, session: _Session) -> None:
        self._session = session
        self._transport: asyncio.WriteTransport | None = None
        self._waiting = b""
        self._ended = False

    def write(self, data: bytes) -> None:
        if self._transport is None:
            self._waiting += data
        elif not self._transport.is_closing():
            self._transport.write(data)

    def end(self) -> None:
        self._ended = True
        if self._transport is not None:
            self._transport.close()

    def connect(self, transport: asyncio.WriteTransport) -> None:
        # not in connection_made: asyncio has not finished making the transport there, and closing it then fails
        self._transport = transport
        transport.write(self._waiting)
        if self._ended:
            transport.close()

    def pause_writing(self) -> None:
        self._session.channel.pause_reading()

    def resume_writing(self) -> None:
        # not at once: what follows may be data and its end, and asyncio's pipe would lose what is written in here
        asyncio.get_running_loop().call_soon(self._session.channel.resume_reading)


class _Output(asyncio.Protocol):
    """The command's stdout or stderr."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self._write(data)

    def connection_lost(self, _exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)


def in_terminal(
    command: list[str], environment: dict[str, str], folder: str, terminal: Terminal
) -> subprocess.Popen[bytes]:
    """Start ``command`` with the terminal as its controlling one; the first word may carry a login shell's dash."""
    inside = terminal.inside
    return subprocess.Popen(
        command,
        executable=command[0].removeprefix("-"),
        env={**environment, "TERM": terminal.kind},
        cwd=folder,
        stdin=inside,
        stdout=inside,
        stderr=inside,
        start_new_session=True,
        # stdin is the terminal here
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0) and None,  # noqa: PLW1509 - a machine has one thread
    )


def pipes(command: list[str], environment: dict[str, str], folder: str) -> subprocess.Popen[bytes]:
    """Start ``command`` with pipes, a session of its own and nothing else of ours."""
    return subprocess.Popen(
        command,
        env=environment,
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
