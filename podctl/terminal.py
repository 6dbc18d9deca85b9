"""This process's terminal, joined to a command or a login shell on a pod.

Where stdin, stdout and stderr are a terminal, one is asked for on the other side, too: here it is put into raw mode, so
that every key, Ctrl-C included, is the remote side's, its size is passed on whenever it changes, and it is put back
whatever happens. Where one of them is a file or a pipe, all three pass bytes unchanged, and Ctrl-C is sent as a signal;
a second one gives up.
"""

import asyncio
import contextlib
import os
import select
import signal
import termios
import threading
import tty
from collections.abc import Callable, Iterator

import asyncssh

from domain.gpu.models import PodAddress
from remote.errors import Unreachable
from remote.ssh import connect
from remote.ssh_keys import Passphrases

_CHUNK = 65_536
#: Signals that would leave the terminal in raw mode if they ended us at once.
_ENDING = (signal.SIGTERM, signal.SIGHUP)

_Process = asyncssh.SSHClientProcess[bytes]


async def run_in_terminal(
    address: PodAddress, command: str | None, passphrases: Passphrases | None, tell: Callable[[str], None]
) -> int:
    """Run ``command`` by the remote login shell (None: that shell itself); return its exit code, 128 + n for a signal.

    ``tell`` hears that Ctrl-C was sent on as a signal. Raises what ``remote.ssh.connect`` raises, and ``Unreachable``
    if the connection is lost before the end.
    """
    terminal = all(os.isatty(number) for number in ((0, 1, 2) if command is not None else (0, 1)))
    connection = await connect(address, passphrases)
    try:
        process = await _start(connection, address, command, terminal=terminal)
        with _raw_mode(process) if terminal else _interrupts(process, tell):
            return await _joined(process, address)
    finally:
        connection.abort()


async def _start(
    connection: asyncssh.SSHClientConnection, address: PodAddress, command: str | None, *, terminal: bool
) -> _Process:
    try:
        if not terminal:
            return await connection.create_process(command, encoding=None, request_pty=False)
        return await connection.create_process(
            command,
            encoding=None,
            request_pty="force",
            term_type=os.environ.get("TERM", "dumb"),
            term_size=tuple(os.get_terminal_size(0)),
        )
    except (OSError, asyncssh.Error) as error:
        raise Unreachable(address.pod, f"it opened no {'terminal' if terminal else 'channel'}: {error}") from error


async def _joined(process: _Process, address: PodAddress) -> int:
    """Pass bytes both ways until the remote side has ended; return how."""
    loop = asyncio.get_running_loop()
    # A thread of our own: it may stand in a read of stdin for ever, and must not be waited for.
    threading.Thread(target=_pass_on_input, args=(process, loop), daemon=True).start()
    try:
        await asyncio.gather(_copy(process.stdout, 1), _copy(process.stderr, 2))
        await process.wait_closed()
    except (asyncssh.Error, ConnectionError) as error:
        if isinstance(error, BrokenPipeError):
            raise  # our own output, which nobody reads any more
        raise _lost(address) from error
    code = process.returncode
    if code is None:
        raise _lost(address)
    return code if code >= 0 else 128 - code


def _lost(address: PodAddress) -> Unreachable:
    return Unreachable(address.pod, "the connection was lost; what ran in it may go on there or not")


async def _copy(source: asyncssh.SSHReader[bytes], number: int) -> None:
    while data := await source.read(_CHUNK):
        await asyncio.to_thread(_write, number, data)


def _write(number: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(number, view) :]


def _pass_on_input(process: _Process, loop: asyncio.AbstractEventLoop) -> None:
    async def send(data: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionError, asyncssh.Error):
            if data:
                process.stdin.write(data)
                await process.stdin.drain()
            else:
                process.stdin.write_eof()

    # A loop that is closed has no more use for input.
    with contextlib.suppress(RuntimeError, OSError):
        while True:
            select.select([0], [], [])
            data = os.read(0, _CHUNK)
            asyncio.run_coroutine_threadsafe(send(data), loop).result()
            if not data:
                return


@contextlib.contextmanager
def _raw_mode(process: _Process) -> Iterator[None]:
    before = termios.tcgetattr(0)
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - we are in one

    def resized() -> None:
        process.change_terminal_size(*os.get_terminal_size(0))

    with _handlers({signal.SIGWINCH: resized, **dict.fromkeys(_ENDING, task.cancel)}):
        try:
            # What was typed ahead is kept, as ssh does.
            tty.setraw(0, termios.TCSADRAIN)
            yield
        finally:
            termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _interrupts(process: _Process, tell: Callable[[str], None]) -> Iterator[None]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - we are in one
    count = 0

    def interrupted() -> None:
        nonlocal count
        count += 1
        if count > 1:
            task.cancel()
        else:
            # OpenSSH's sshd passes signals on to a user's command, but not to root's.
            tell(
                "Ctrl-C is sent to the command; a second one leaves it alone, still running if its sshd passed none on"
            )
            process.send_signal("INT")

    with _handlers({signal.SIGINT: interrupted}):
        yield


@contextlib.contextmanager
def _handlers(handlers: dict[signal.Signals, Callable[[], object]]) -> Iterator[None]:
    """Handle signals in the event loop; outside of the main thread, which gets no signals, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in handlers}
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number, handler_before in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler_before)
