"""podctl at a terminal: a real one, of which the test holds the other end."""

import asyncio
import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator

from tests.workflow.cli.support import PATIENCE, CommandLine


class AtTerminal:
    """A podctl that runs at a terminal."""

    def __init__(self, outside: int, process: subprocess.Popen[bytes]) -> None:
        self._outside = outside
        self.process = process
        self.seen = ""
        asyncio.get_running_loop().add_reader(outside, self._read)
        self._more = asyncio.Event()

    def type(self, text: str) -> None:
        os.write(self._outside, text.encode())

    def resize(self, columns: int, lines: int) -> None:
        """Do what a window manager does; the kernel tells the programs."""
        fcntl.ioctl(self._outside, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    @property
    def raw(self) -> bool:
        return not termios.tcgetattr(self._outside)[3] & (termios.ICANON | termios.ECHO)

    async def shows(self, text: str) -> None:
        """Wait until ``text`` has been shown since the last call."""
        try:
            async with asyncio.timeout(PATIENCE):
                while text not in self.seen:
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            raise AssertionError(f"{text!r} was never shown, only {self.seen!r}") from None
        self.seen = self.seen.partition(text)[2]

    async def ended(self) -> int:
        """Wait for its end and return its exit code."""
        try:
            return await asyncio.wait_for(asyncio.to_thread(self.process.wait, PATIENCE), PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it has not ended; it showed {self.seen!r}") from None

    def _read(self) -> None:
        try:
            data = os.read(self._outside, 65536)
        except OSError:
            asyncio.get_running_loop().remove_reader(self._outside)
            return
        self.seen += data.decode(errors="replace")
        self._more.set()


@contextlib.asynccontextmanager
async def at_terminal(podctl: CommandLine, *arguments: str) -> AsyncIterator[AtTerminal]:
    """Run podctl at a terminal of its own, 80 columns by 24 lines, while the context lasts."""
    outside, inside = pty.openpty()
    process = subprocess.Popen(  # noqa: ASYNC220 - asyncio's own would reap it behind the terminal's back
        [sys.executable, "-c", _AT_TERMINAL, *arguments],
        env={**os.environ, **podctl.environment, "TERM": "xterm"},
        stdin=inside,
        stdout=inside,
        stderr=inside,
        start_new_session=True,
    )
    terminal = AtTerminal(outside, process)
    terminal.resize(80, 24)
    try:
        yield terminal
    finally:
        asyncio.get_running_loop().remove_reader(outside)
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(inside)
        os.close(outside)


#: Takes the terminal as the controlling one, as a login does, and becomes podctl.
_AT_TERMINAL = """
import fcntl, runpy, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("cli", run_name="__main__", alter_sys=True)
"""
