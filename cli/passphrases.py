"""Passphrases of encrypted SSH keys, typed by a person at the terminal, once for each key; kept in memory only."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from remote.ssh_keys import Passphrases


@cache
def passphrases() -> Passphrases:
    """Return what every SSH connection of this process asks for passphrases."""
    from remote.ssh_keys import Passphrases

    return Passphrases(_ask)


async def _ask(prompt: str) -> str | None:
    """Return a line typed at the terminal, whatever stdin is, without showing it; None where there is no terminal.

    Not by ``getpass``, which would have to wait in a thread: Ctrl-C could not end that.
    """
    import asyncio
    import os
    import termios

    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return None
    loop = asyncio.get_running_loop()
    line: asyncio.Future[bytes] = loop.create_future()
    before = termios.tcgetattr(terminal)
    silent = [*before]
    silent[3] &= ~termios.ECHO
    try:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, silent)
        os.write(terminal, prompt.encode())
        # A terminal gives whole lines.
        loop.add_reader(terminal, lambda: None if line.done() else line.set_result(os.read(terminal, 4096)))
        return (await line).decode(errors="replace").rstrip("\r\n")
    finally:
        loop.remove_reader(terminal)
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
        os.write(terminal, b"\n")
        os.close(terminal)
