"""What the three kinds of process of a pretend vLLM have in common: titles, log lines, hooks, forks, settings."""

from __future__ import annotations

import _socket
import os
import sys
import time

from simulator import lean_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from typing import Any
else:
    import _signal as signal  # the public module builds enums: 0.7 MiB in each pretend model server

# the release whose manners this one has; the local part of the version says what it is
VERSION = "0.32.0+simulated"

_OVERRIDE = "PRETEND_VLLM_"


class StartFailed(Exception):
    """The engine cannot come up; the log has said why."""


def settings(folder: str) -> dict[str, Any]:
    """Return the machine's settings for pretend model servers, each overridden by PRETEND_VLLM_{NAME}."""
    values: dict[str, Any] = lean_json.read(f"{folder}/settings.json")
    for name in values:
        text = os.environ.get(_OVERRIDE + name.upper())
        if text is not None:
            try:
                values[name] = lean_json.parse(text)
            except ValueError:
                values[name] = text
    return values


class Log:
    """Writes log lines as vLLM does: to stdout, each with the process that says it."""

    def __init__(self, process: str) -> None:
        self._process = process

    def info(self, place: str, text: str) -> None:
        """Write one line of level INFO; ``place`` is the source file that vLLM would name."""
        self._write("INFO", place, text)

    def warning(self, place: str, text: str) -> None:
        """Write one line of level WARNING."""
        self._write("WARNING", place, text)

    def error(self, place: str, text: str) -> None:
        """Write each line of ``text`` with level ERROR."""
        for line in text.splitlines():
            self._write("ERROR", place, line)

    def plain(self, text: str) -> None:
        """Write lines without level and time, as uvicorn, tqdm and tracebacks have them."""
        write(f"({self._process} pid={os.getpid()}) {text}\n")

    def _write(self, level: str, place: str, text: str) -> None:
        now = time.strftime("%m-%d %H:%M:%S")
        write(f"({self._process} pid={os.getpid()}) {level} {now} [{place}] {text}\n")


def write(text: str) -> None:
    """Write to the log in one piece; a log that nobody can take any more stops nobody."""
    try:
        os.write(1, text.encode())
    except OSError:
        return


def set_title(title: str) -> None:
    """Show as ``title`` in ps, as vLLM's children do, which erases command line and environment from /proc.

    The memory of both lies where /proc/self/stat says; it is written over in place, as setproctitle does.
    """
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - lean
        fields = file.read().rpartition(")")[2].split()
    # fields 48 to 51 of proc(5): where arguments and environment begin and end
    first, _, _, last = (int(field) for field in fields[45:49])
    # unbuffered: a buffered file reads ahead, into pages that are not there
    with open("/proc/self/mem", "r+b", buffering=0) as memory:  # noqa: PTH123 - lean
        memory.seek(first)
        memory.write(title.encode()[: last - first].ljust(last - first, b"\0"))
    with open("/proc/self/comm", "w", encoding="utf-8") as file:  # noqa: PTH123 - lean
        file.write(title[:15])


def fork(run: Callable[[], int]) -> int:
    """Run ``run`` in a child that ends with the exit code it returns; return its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        code = run()
    except StartFailed:
        code = 1
    except BaseException:  # noqa: BLE001 - shown, and this process ends
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def catch_signals(*numbers: int) -> int:
    """Turn signals into bytes (the signal's number) on the file descriptor that is returned."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, _noted)
    return reading


def _noted(_number: int, _frame: object) -> None:
    """Do nothing: the wake-up file descriptor has the signal already."""


def ignore_signals(*numbers: int) -> None:
    """Ignore ``numbers`` from now on."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def default_signals(*numbers: int) -> None:
    """Let ``numbers`` end the process again."""
    signal.set_wakeup_fd(-1)
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)


def pass_hook(folder: str, point: str) -> None:
    """Wait at ``point`` while a file of that name is in the machine's hooks folder; ``{point}.reached`` says so."""
    path = f"{folder}/hooks/{point}"
    if os.path.exists(path):  # noqa: PTH110 - lean
        with open(f"{path}.reached", "w", encoding="utf-8"):  # noqa: PTH123 - lean
            pass
    while os.path.exists(path):  # noqa: PTH110 - lean
        time.sleep(0.01)


def leave_behind(folder: str, path: str) -> None:
    """Note a file to be made outside the machine's folder, which goes when the machine is rebooted or ended."""
    # whole or not at all: whoever is killed in between must not leave a note that names nothing
    written = f"{folder}/.note-{os.getpid()}"
    with open(written, "w", encoding="utf-8") as file:  # noqa: PTH123 - lean
        file.write(path)
    os.rename(written, f"{folder}/shm/{os.path.basename(path)}")  # noqa: PTH104, PTH119 - lean


def take_away(folder: str, path: str) -> None:
    """Remove a file that ``leave_behind`` noted, and the note."""
    for name in (path, f"{folder}/shm/{os.path.basename(path)}"):  # noqa: PTH119 - lean
        try:
            os.unlink(name)  # noqa: PTH108 - lean
        except FileNotFoundError:
            continue


def accept(listener: _socket.socket) -> tuple[_socket.socket, Any]:
    """Accept a connection, without the public socket module, which costs memory; raises OSError."""
    descriptor, address = listener._accept()  # type: ignore[attr-defined] # noqa: SLF001 - not in typeshed either
    return _socket.socket(fileno=descriptor), address


def peer(link: _socket.socket) -> int:
    """Return the pid of the process at the other end of a Unix socket."""
    return int.from_bytes(link.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)[:4], "little")
