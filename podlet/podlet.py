"""The podlet: everything podctl does on a GPU machine, in one file of the standard library (Python ≥ 3.8, Linux).

It is run as ``python3 -I -S podlet.py`` with one JSON object on the first line of stdin and writes JSON lines::

    {"verb": "observe", "root": "~/.podctl", "ids": null}
    {"podlet": 1, "type": "result", "result": {...}}

Lines of type ``change``, ``beat``, ``log`` and ``progress`` may come before the one ``result`` or ``error`` that ends
the output; the exit code is 0 for a result and 1 for an error. End of file on stdin ends what only looks (``watch``,
``read_log`` with ``follow``, the waiting of ``run``), never what was launched.

One launch on disk, ``{root}/launches/{a}/{b}/{c}/``::

    record.json     what was asked for, or found where a server was adopted, without secrets: the launch exists
    process.json    who it is: (boot, pid, start time); written before its exec, so what runs is always known
    exit.json       how its first process ended, as its supervisor saw it
    ended.json      nothing of it lives any more
    noted.json      what a dead supervisor or engine could no longer tell: processes, shared memory
    ready.json      the process that answered a completion, and the shared memory that was in use then
    watched.json    what only watching tells: progress until ready, then counters, last use, unanswered completions
    stop.json       a stop was asked for: what has not been exec'ed never will be
    stopped.json    the result of a verified stop
    timed_out.json  it ran longer than it may, and was stopped for that
    supervisor.lock held (flock) for as long as a launcher or the supervisor is at work
    output.log      all that it prints; of a server the newest 64 MiB, at the offsets at which they were written
    log_start       the first byte of output.log that is still kept, where that is not 0
    log_times       how long output.log was at which time
    api_key, work/

A run's folder is ``{root}/work/{task}/{part}/``; in it ``.podctl/input-{attempt}`` is what the run is told and
``.podctl/output-{attempt}`` what it tells, named to its program by ``$PODCTL_INPUT`` and ``$PODCTL_OUTPUT``.

Of a server's launches that are ended and verified the newest 10 are kept.

Imports stand where they are needed: a supervisor lives as long as its launch, and a thousand of them have to fit.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import sys
import time

TYPE_CHECKING = False  # `typing` itself is not worth its memory in a supervisor
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Callable, Dict, Iterable, List, NoReturn, Optional, Set, Tuple, Type

    Json = Dict[str, Any]
    Identity = Tuple[int, int]

PROTOCOL = 1
MAX_REQUEST_BYTES = 4 * 1024 * 1024
OUTPUT_LIMIT = 256 * 1024  # bytes of what a run may tell its caller in a file
LAUNCHES_KEPT = 10
LOG_CHUNK_BYTES = 256 * 1024
LOG_LOOK_EVERY = 0.2  # seconds between looks at a log that is followed and does not grow
LOG_LIMIT = 64 * 1024 * 1024  # of a server's log on disk; a run's log is a result and kept whole
MARK_EVERY = 10.0
MARKS_KEPT = 4096
TAIL_BYTES = 4096
LAST_LINE_CHARACTERS = 300

SHARED_MEMORY = "/dev/shm/"  # noqa: S108 - looked at, never written to
SIGHUP, SIGKILL, SIGTERM = 1, 9, 15  # the module `signal` costs a supervisor 0.7 MB


class Failure(Exception):
    """Something that was asked for cannot be done; nothing was changed unless the message says so.

    ``code`` is stable and for programs; the message says what happened, to which thing and what to do next.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


# ---------------------------------------------------------------------------------------------------------------------
# The caller: one request in, lines out


class CallerLost(Exception):
    """Nobody reads our output any more."""


class Caller:
    """The other end of stdin and stdout."""

    def __init__(self) -> None:
        self.lost = False
        self.may_be_lost = False  # a verified stop goes on without its caller

    def read_request(self) -> bytes:
        """Return the first line of stdin; what follows it is ignored."""
        line = b""
        while b"\n" not in line:
            piece = os.read(0, 65536)
            if not piece:
                break
            line += piece
            if len(line) > MAX_REQUEST_BYTES:
                raise Failure(
                    "bad_request", f"the request is longer than {MAX_REQUEST_BYTES} bytes; send a shorter one"
                )
        return line.split(b"\n", 1)[0]

    def send(self, kind: str, **fields: object) -> None:
        """Write one line, or raise ``CallerLost``."""
        import json

        self._write(json.dumps({"podlet": PROTOCOL, "type": kind, **fields}).encode() + b"\n")

    def greet(self) -> None:
        """End whatever a login script may have printed without a newline."""
        self._write(b"\n")

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view and not self.lost:
                view = view[os.write(1, view) :]
        except OSError:
            self.lost = True
        if self.lost and not self.may_be_lost:
            raise CallerLost

    def has_left(self, seconds: float) -> bool:
        """Wait up to ``seconds`` and return whether stdin has ended."""
        ready, _, _ = select.select([0], [], [], max(0.0, seconds))
        return bool(ready) and not os.read(0, 65536)


class Request:
    """The fields of a request, each taken once and checked; ``finish`` refuses what nobody asked for."""

    def __init__(self, fields: Json) -> None:
        self._fields = dict(fields)
        self.verb = self.text("verb")
        self.root = os.path.expanduser(self.optional_text("root") or "~/.podctl")

    def finish(self) -> None:
        """Refuse fields that the verb does not know: a misspelt one would otherwise be ignored in silence."""
        if self._fields:
            raise self._bad(f"unknown field {min(self._fields)!r}")

    def text(self, name: str) -> str:
        """Return a field that must be text."""
        value = self.optional_text(name)
        if value is None:
            raise self._bad(f"field {name!r} is missing")
        return value

    def optional_text(self, name: str) -> Optional[str]:
        """Return a field that may be text."""
        value = self._take(name)
        return None if value is None else self._text(name, value)

    def flag(self, name: str) -> bool:
        """Return a field that is true or false (absent: false)."""
        value = self._take(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise self._bad(f"field {name!r} must be true or false, not {value!r:.80}")
        return value

    def number(self, name: str, default: float, least: float, most: float) -> float:
        """Return a number of seconds between ``least`` and ``most``."""
        value = self._take(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
            raise self._bad(f"field {name!r} must be a number from {least:g} to {most:g}, not {value!r:.80}")
        return float(value)

    def moment(self, name: str) -> Optional[float]:
        """Return a point in time in seconds since 1970, or None where there is none."""
        value = self._take(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise self._bad(f"field {name!r} must be seconds since 1970, not {value!r:.80}")
        return value

    def integer(self, name: str) -> Optional[int]:
        """Return a whole number, or None where there is none."""
        value = self._take(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise self._bad(f"field {name!r} must be a whole number, not {value!r:.80}")
        return value

    def texts(self, name: str) -> Optional[List[str]]:
        """Return a list of texts, or None where there is none."""
        value = self._take(name)
        if value is None:
            return None
        if not isinstance(value, list):
            raise self._bad(f"field {name!r} must be a list of texts, not {value!r:.80}")
        return [self._text(name, item) for item in value]

    def ports(self, name: str) -> List[int]:
        """Return a list of TCP ports."""
        value = self._take(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(type(port) is int and 0 < port < 65536 for port in value):
            raise self._bad(f"field {name!r} must be a list of ports (1 to 65535), not {value!r:.80}")
        return value

    def mapping(self, name: str) -> Dict[str, str]:
        """Return an object of texts whose keys are names of environment variables."""
        value = self._take(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._bad(f"field {name!r} must be an object of texts")
        for key, item in value.items():
            if not _is_variable_name(key):
                raise self._bad(f"field {name!r} has a key that no environment variable can have: {key!r:.80}")
            if not isinstance(item, str) or "\0" in item:
                raise self._bad(f"field {name!r}: the value of {key} must be text")  # perhaps a secret: not shown
        return value

    def gpu_shares(self, name: str) -> Dict[str, float]:
        """Return GPU uuid → share of its memory (above 0, at most 1)."""
        value = self._take(name)
        shares: Dict[str, float] = {}
        if value is None:
            return shares
        if not isinstance(value, list):
            raise self._bad(f"field {name!r} must be a list of {{uuid, share}}, not {value!r:.80}")
        for item in value:
            uuid = item.get("uuid") if isinstance(item, dict) and set(item) == {"uuid", "share"} else None
            share = item["share"] if isinstance(uuid, str) else None
            if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1 or uuid in shares:
                raise self._bad(
                    f"field {name!r}: each GPU once as {{uuid, share}}, share above 0 to 1, not {item!r:.80}"
                )
            shares[str(uuid)] = float(share)
        return shares

    def _text(self, name: str, value: object) -> str:
        if not isinstance(value, str) or "\0" in value:
            raise self._bad(f"field {name!r} must be text without zero bytes, not {value!r:.80}")
        return value

    def _take(self, name: str) -> Any:  # noqa: ANN401 - JSON, checked by each caller
        return self._fields.pop(name, None)

    def _bad(self, what: str) -> Failure:
        verb = getattr(self, "verb", None)
        return Failure("bad_request", f"{verb + ': ' if verb else ''}{what}; send it as the podlet's header describes")


def _is_variable_name(text: str) -> bool:
    return text.isascii() and text.replace("_", "a").isalnum() and not text[0].isdigit()


# ---------------------------------------------------------------------------------------------------------------------
# Files


def read_bytes(path: str) -> Optional[bytes]:
    """Return a file's content, or None if it is not there (or went away, as files of /proc do)."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESRCH, errno.EACCES, errno.EPERM):
            return None
        raise
    try:
        pieces: List[bytes] = []
        while True:
            piece = os.read(descriptor, 65536)
            if not piece:
                return b"".join(pieces)
            pieces.append(piece)
    except OSError as error:
        if error.errno in (errno.ESRCH, errno.EACCES, errno.EPERM):
            return None
        raise
    finally:
        os.close(descriptor)


def write_file(path: str, data: bytes) -> None:
    """Replace a file atomically and durably; mode 0600."""
    temporary = f"{path}.{os.getpid()}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(temporary, path)


def write_json(path: str, value: object) -> None:
    """Replace a record file atomically. Takes None, booleans, numbers, texts, lists and dicts.

    The encoder is our own because a supervisor writes records too, and the module `json` would cost it 1 MB.
    """
    write_file(path, _json_text(value).encode("ascii") + b"\n")


def _json_text(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return '"' + "".join(_json_character(character) for character in value) + '"'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_json_text(key)}: {_json_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple, set)):
        return "[" + ", ".join(_json_text(item) for item in value) + "]"
    raise TypeError(type(value).__name__)


def _json_character(character: str) -> str:
    code = ord(character)
    if character in '"\\':
        return "\\" + character
    if 32 <= code < 127:
        return character
    if code > 0xFFFF:
        code -= 0x10000
        return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
    return f"\\u{code:04x}"


def read_json(path: str) -> Optional[Json]:
    """Return a record file's object, or None if there is no such file."""
    import json

    data = read_bytes(path)
    if data is None:
        return None
    try:
        value = json.loads(data)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Failure("broken_record", f"{path} is not a JSON object; look at it, and move it away if nothing needs it")
    return value


def make_private(folder: str) -> None:
    """Make a folder that only we may enter, or refuse one that somebody else has put in its place."""
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        found = os.lstat(folder)
        if found.st_uid != os.getuid() or found.st_mode != 0o040700:
            raise Failure("folder_taken", f"{folder} exists and is not a private folder of ours; remove it") from None


def remove_file(path: str) -> bool:
    """Remove a file and return whether it was there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


class Locked:
    """A flock held for the length of a ``with`` block."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def __enter__(self) -> None:
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)

    def __exit__(
        self, kind: Optional[Type[BaseException]], value: Optional[BaseException], traceback: Optional[TracebackType]
    ) -> None:
        os.close(self.descriptor)


def is_locked(path: str) -> bool:
    """Return whether somebody holds this file's lock. Askers share it, so that they never see each other."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno != errno.EWOULDBLOCK:
            raise
        return True
    finally:
        os.close(descriptor)
    return False


# ---------------------------------------------------------------------------------------------------------------------
# The machine


def machine_boot() -> str:
    """Return the identity of this machine's boot: another one means that every process of before is gone.

    Kernel boot id and the start time of process 1: a container that starts anew keeps the kernel's boot id.
    """
    file = os.environ.get("PODLET_BOOT_FILE")
    if file:
        return (read_bytes(file) or b"").decode().strip()
    kernel = (read_bytes("/proc/sys/kernel/random/boot_id") or b"").decode().strip()
    first = read_process(1)
    return f"{kernel}:{first.start_time if first else 0}"


def loopback() -> str:
    """Return the address on which this machine's servers listen and are asked."""
    return os.environ.get("PODLET_LOOPBACK") or "127.0.0.1"


def hook(point: str, folder: Optional[str] = None) -> None:
    """Wait at a named point for as long as a test wants it to; outside of tests: nothing."""
    folder = folder or os.environ.get("PODLET_HOOKS")
    if not folder or not os.path.exists(f"{folder}/{point}"):
        return
    os.close(os.open(f"{folder}/{point}.reached", os.O_WRONLY | os.O_CREAT, 0o600))
    while os.path.exists(f"{folder}/{point}"):
        time.sleep(0.01)


class Process:
    """One line of /proc/PID/stat. ``start_time`` is in clock ticks since the kernel's boot."""

    __slots__ = ("command", "gone", "has_terminal", "parent", "pid", "session", "start_time")

    def __init__(self, pid: int, stat: bytes) -> None:
        end = stat.rindex(b")")
        fields = stat[end + 2 : end + 512].split()
        self.pid = pid
        self.command = stat[stat.index(b"(") + 1 : end].decode(errors="replace")
        # A zombie holds nothing and counts as gone, unless only its first thread has ended and others go on.
        self.gone = fields[0] in (b"Z", b"X") and int(fields[17]) <= 1
        self.parent = int(fields[1])
        self.session = int(fields[3])
        self.has_terminal = fields[4] != b"0"
        self.start_time = int(fields[19])

    @property
    def identity(self) -> Identity:
        """(pid, start time): unlike a pid alone, never used twice within one boot."""
        return self.pid, self.start_time

    def arguments(self) -> bytes:
        """Return its command line, arguments separated by zero bytes."""
        return read_bytes(f"/proc/{self.pid}/cmdline") or b""


def read_process(pid: int) -> Optional[Process]:
    """Return the process of this pid, zombies included, or None."""
    stat = read_bytes(f"/proc/{pid}/stat")
    return Process(pid, stat) if stat else None


def is_alive(pid: int, start_time: int) -> bool:
    """Return whether exactly this process lives."""
    process = read_process(pid)
    return process is not None and process.start_time == start_time and not process.gone


def send_signal(pid: int, start_time: int, number: int) -> None:
    """Signal exactly this process, or nobody: never one that has its pid by now."""
    if hasattr(os, "pidfd_open"):
        import signal

        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            descriptor = -1
        if descriptor >= 0:
            try:
                if is_alive(pid, start_time):
                    signal.pidfd_send_signal(descriptor, number)
            except ProcessLookupError:
                return
            finally:
                os.close(descriptor)
            return
    if is_alive(pid, start_time):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return


class ProcessTable:
    """All processes at one moment, and the questions that membership asks of them."""

    def __init__(self) -> None:
        self.processes: Dict[int, Process] = {}
        self._children: Dict[int, List[Process]] = {}
        self._sessions: Dict[int, List[Process]] = {}
        self._folders: Optional[Dict[str, List[Process]]] = None
        for name in os.listdir("/proc"):
            process = read_process(int(name)) if name.isdigit() else None
            if process is not None:
                self.processes[process.pid] = process
                self._children.setdefault(process.parent, []).append(process)
                self._sessions.setdefault(process.session, []).append(process)

    def find(self, pid: Optional[int], start_time: Optional[int]) -> Optional[Process]:
        """Return the process of this identity, unless it is gone."""
        process = self.processes.get(pid or 0)
        return process if process and process.start_time == start_time and not process.gone else None

    def children(self, pid: int) -> List[Process]:
        """Return the children of a process."""
        return self._children.get(pid, [])

    def session(self, pid: int, start_time: int) -> List[Process]:
        """Return the session that this process led; empty if its number belongs to a later session by now."""
        leader = self.processes.get(pid)
        if leader is not None and leader.start_time != start_time:
            return []
        return [process for process in self._sessions.get(pid, []) if process.start_time >= start_time]

    def inside(self, folder: str) -> List[Process]:
        """Return the processes that work in a folder. A person's shell has a terminal and is not meant."""
        if self._folders is None:
            self._folders = {}
            for process in self.processes.values():
                if not process.has_terminal:
                    self._folders.setdefault(_link(f"/proc/{process.pid}/cwd"), []).append(process)
        return [
            process
            for path, processes in self._folders.items()
            if path == folder or path.startswith(folder + "/")
            for process in processes
        ]


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def descendants(pid: int) -> List[int]:
    """Return the pids below a process, without a look at the whole machine (which a supervisor can't afford)."""
    found: List[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        for child in (read_bytes(f"/proc/{pid}/task/{thread}/children") or b"").split():
            found.append(int(child))
            found.extend(descendants(int(child)))
    return found


def shared_memory_of(pid: int) -> Set[str]:
    """Return the files below /dev/shm that a process has mapped or open and that still have a name."""
    paths = set()
    for line in (read_bytes(f"/proc/{pid}/maps") or b"").split(b"\n"):
        start = line.find(os.fsencode(SHARED_MEMORY))
        if start >= 0:
            paths.add(os.fsdecode(line[start:]))
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        descriptors = []
    for descriptor in descriptors:
        target = _link(f"/proc/{pid}/fd/{descriptor}")
        if target.startswith(SHARED_MEMORY):
            paths.add(target)
    return {path for path in paths if not path.endswith(" (deleted)")}


def listener_inodes(ports: Iterable[int]) -> Dict[int, Set[str]]:
    """Return port → inodes of the sockets that listen on it at our loopback address or at all addresses."""
    ours = "".join(f"{int(part):02X}" for part in reversed(loopback().split(".")))
    wanted = {f"{port:04X}": port for port in ports}
    found: Dict[int, Set[str]] = {}
    for table in ("tcp", "tcp6"):
        for line in (read_bytes(f"/proc/net/{table}") or b"").decode().splitlines()[1:]:
            fields = line.split()
            address, _, port = fields[1].rpartition(":")
            # IPv6 shows an IPv4 address as its last word; all zeros is 'every address' in both
            here = address[-8:] == ours or not address.strip("0")
            if fields[3] == "0A" and here and port in wanted:
                found.setdefault(wanted[port], set()).add(fields[9])
    return found


def socket_owner(inodes: Set[str], processes: Iterable[Process]) -> Optional[Process]:
    """Return a process that has one of these sockets open, as far as we may look."""
    names = {f"socket:[{inode}]" for inode in inodes}
    for process in processes:
        try:
            descriptors = os.listdir(f"/proc/{process.pid}/fd")
        except OSError:
            continue
        if any(_link(f"/proc/{process.pid}/fd/{descriptor}") in names for descriptor in descriptors):
            return process
    return None


# ---------------------------------------------------------------------------------------------------------------------
# GPUs, as nvidia-smi tells


NVIDIA_SMI_ANSWERS_WITHIN = float(os.environ.get("PODLET_NVIDIA_SMI_SECONDS") or 60.0)


class GpuReport:
    """What nvidia-smi says now. ``state`` is ok, no_nvidia_smi, no_driver or error; ``message`` says more."""

    def __init__(self) -> None:
        self.state = "ok"
        self.message = ""
        self.driver: Optional[str] = None
        self.gpus: List[Json] = []
        self.apps: List[Json] = []
        rows = self._rows("--query-gpu=index,uuid,name,memory.total,memory.used,mig.mode.current,driver_version")
        for row in rows:
            fields = [field.strip() for field in row.split(",")]
            if len(fields) < 7 or not fields[0].isdigit() or not fields[1].startswith("GPU-"):
                self.message = f"nvidia-smi: {row.strip()[:300]}"  # such as a GPU that is lost: the others are told
                continue
            self.driver = None if fields[-1].startswith("[") else fields[-1]
            gpu = {"index": int(fields[0]), "uuid": fields[1], "name": ", ".join(fields[2:-4])}
            gpu.update(memory_total_mib=_mib(fields[-4]), memory_used_mib=_mib(fields[-3]), mig=fields[-2] == "Enabled")
            self.gpus.append(gpu)
        if rows and not self.gpus:
            self.state = "error"
        state, message, self.message = self.state, self.message, ""
        for row in self._rows("--query-compute-apps=pid,gpu_uuid,used_memory") if self.gpus else []:
            fields = [field.strip() for field in row.split(",")]
            if len(fields) == 3 and fields[0].isdigit():
                self.apps.append({"pid": int(fields[0]), "gpu_uuid": fields[1], "used_mib": _mib(fields[2])})
        if self.message:
            message = f"{message + '; ' if message else ''}processes are not listed: {self.message}"
        self.state, self.message = state, message  # GPUs whose processes may not be listed are still GPUs

    def memory_used(self, uuid: str) -> Optional[int]:
        """Return MiB in use on a GPU, None where that can't be told."""
        used: Optional[int] = next((gpu["memory_used_mib"] for gpu in self.gpus if gpu["uuid"] == uuid), None)
        return used

    def _rows(self, query: str) -> List[str]:
        import subprocess

        arguments = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
        pipe = subprocess.PIPE
        try:
            asked = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)
        except OSError as error:
            self.state = "no_nvidia_smi"
            self.message = f"nvidia-smi cannot be started: {error.strerror}"
            return []
        try:
            output, errors = asked.communicate(timeout=NVIDIA_SMI_ANSWERS_WITHIN)
        except subprocess.TimeoutExpired:
            asked.kill()  # and not waited for: one that hangs in the driver cannot even be killed
            self.state = "error"
            self.message = f"nvidia-smi did not answer within {NVIDIA_SMI_ANSWERS_WITHIN:g} s"
            return []
        text = output.decode(errors="replace").strip()
        if asked.returncode == 0:
            return text.splitlines()
        self.message = " ".join((text + " " + errors.decode(errors="replace")).split())[:500]
        self.message = self.message or f"nvidia-smi ended with exit code {asked.returncode}"
        # From nvidia-smi's manual: 6, it finds no GPU; 9, the driver is not loaded; 12, its library can't be found.
        self.state = {6: "ok", 9: "no_driver", 12: "no_driver"}.get(asked.returncode, "error")
        return []


def _mib(text: str) -> Optional[int]:
    return int(text) if text.isdigit() else None  # [N/A], [Not Supported], [Insufficient Permissions]


# ---------------------------------------------------------------------------------------------------------------------
# Launches on disk


def check_id(text: str, parts: int, what: str) -> str:
    """Return an id of ``parts`` names joined by '/', or refuse it: ids become folders."""
    names = text.split("/")
    if len(names) != parts or not all(_is_name(name) for name in names):
        raise Failure(
            "bad_request",
            f"{what} {text[:200]!r} is not valid: {parts} names joined by '/', each 1 to 63 letters, digits, '-', '_' "
            "or '.', beginning with a letter, a digit or '_', without '..'",
        )
    return text


def _is_name(text: str) -> bool:
    plain = text.replace("_", "a").replace(".", "a").replace("-", "a")
    return 0 < len(text) < 64 and text[0] not in "-." and plain.isascii() and plain.isalnum() and ".." not in text


class Root:
    """The folder of ours on this machine."""

    def __init__(self, path: str) -> None:
        self.path = os.path.realpath(path)
        self.boot = machine_boot()
        os.makedirs(f"{self.path}/launches", mode=0o700, exist_ok=True)

    def decisions(self) -> Locked:
        """Return the lock under which launches are admitted and stops are written down."""
        return Locked(f"{self.path}/lock")

    def launch(self, launch_id: str) -> Launch:
        """Return the launch of this id, whether it exists or not."""
        return Launch(self, check_id(launch_id, 3, "launch id"))

    def launches(self) -> List[Launch]:
        """Return every launch that has a record or a stop, by id."""
        base = f"{self.path}/launches"
        found = [""]
        for _ in range(3):
            found = [f"{prefix}{name}/" for prefix in found for name in _listing(f"{base}/{prefix}") if _is_name(name)]
        launches = [Launch(self, prefix[:-1]) for prefix in sorted(found)]
        return [launch for launch in launches if launch.has("record.json") or launch.has("stop.json")]

    def living(self, table: ProcessTable) -> List[Launch]:
        """Return the launches that run or are about to."""
        return [launch for launch in self.launches() if launch.is_living(table)]


def _listing(path: str) -> List[str]:
    try:
        return os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []


class Launch:
    """One launch: its files, and what they and the process table say about it. Nothing is remembered in between."""

    def __init__(self, root: Root, launch_id: str) -> None:
        self.root = root
        self.id = launch_id
        self.folder = f"{root.path}/launches/{launch_id}"
        self.lock = f"{self.folder}/supervisor.lock"
        self.log = Log(self.folder)

    def path(self, name: str) -> str:
        """Return the path of one of its files."""
        return f"{self.folder}/{name}"

    def has(self, name: str) -> bool:
        """Return whether one of its files is there."""
        return os.path.exists(self.path(name))

    def read(self, name: str) -> Optional[Json]:
        """Return the object in one of its record files."""
        return read_json(self.path(name))

    def process(self) -> Optional[Json]:
        """Return process.json if it speaks of this boot."""
        process = self.read("process.json")
        return process if process and process["boot"] == self.root.boot else None

    def socket_folder(self) -> str:
        """Return a folder for its unix sockets. Short, because their paths are limited to 108 bytes."""
        import hashlib

        digest = hashlib.sha256(f"{os.getuid()} {self.folder}".encode()).hexdigest()[:12]
        return f"/tmp/podctl-{digest}"  # noqa: S108 - used only if it is ours and nobody else's: see make_private

    def api_key(self) -> Optional[str]:
        """Return the key that clients of this server need, if it has one."""
        key = read_bytes(self.path("api_key"))
        return key.decode() if key else None

    def secret_marks(self) -> Json:
        """Return what finds its secrets in its log: see ``mark``."""
        marks: Json = (self.read("record.json") or {}).get("secret_marks") or mark(())
        return marks

    def is_living(self, table: ProcessTable) -> bool:
        """Return whether it runs or is about to."""
        if self.has("ended.json") or not self.has("record.json"):
            return False
        return is_locked(self.lock) or bool(self.members(table))

    def members(self, table: ProcessTable) -> List[Process]:
        """Return its living processes: below its supervisor, of its session, at work in its folder, or noted before."""
        process = self.process()
        if not self.has("process.json"):
            # Somebody removed its records, or it has none yet: the kernel knows the folder, ``…/work (deleted)`` too.
            return [one for one in table.inside(self.folder) if not one.gone]
        if process is None or self.has("ended.json"):
            return []
        supervisor = table.find(process["supervisor"], process["supervisor_start_time"])
        found = table.session(process["session"], process.get("session_start_time") or process["start_time"])
        if supervisor:
            found = found + table.children(supervisor.pid)
        if self.has("work"):
            since = process["start_time"]
            found = found + [one for one in table.inside(self.path("work")) if one.start_time >= since]
        for pid, start_time in (self.read("noted.json") or {"processes": []})["processes"]:
            noted = table.find(pid, start_time)
            found = found + ([noted] if noted else [])
        members: Dict[int, Process] = {}
        while found:
            one = found.pop()
            if one.pid not in members and one is not supervisor:
                members[one.pid] = one
                found = found + table.children(one.pid)
        return [member for member in members.values() if not member.gone]

    def exit(self, table: Optional[ProcessTable] = None) -> Optional[Json]:
        """Return how its first process ended: code, signal, error, at; ``unknown`` if nobody was there to see it."""
        process = self.read("process.json")
        supervised = is_locked(self.lock)  # asked first: a supervisor writes exit.json before it lets go
        seen = self.read("exit.json")
        if seen or process is None:
            return seen
        if process["boot"] == self.root.boot:
            pid, start_time = process["pid"], process["start_time"]
            if supervised or (table.find(pid, start_time) if table else is_alive(pid, start_time)):
                return None
        return {"code": None, "signal": None, "error": None, "unknown": True, "at": None}

    def observe(self, table: ProcessTable) -> Json:
        """Return what is true of it now."""
        record = self.read("record.json") or {}
        starting = is_locked(self.lock)  # asked first: what follows can only be newer
        process = self.read("process.json")
        members = self.members(table)
        ending = self.exit(table)
        if not record or (process is None and not starting):
            state = "absent"
        elif process is None or (process["started_at"] is None and starting and not ending):
            state = "starting"
        elif members or not ending:
            state = "running"
        else:
            state = "exited"
            if process["boot"] == self.root.boot and not starting and not self.has("ended.json"):
                write_json(self.path("ended.json"), {"at": time.time()})  # so that no later process is taken for it
                remove_file(self.path("api_key"))
        process = process or {}
        is_server = record.get("kind") == "server"
        return {
            "id": self.id,
            "kind": record.get("kind"),
            "owner": record.get("owner"),
            "state": state,
            "boot": process.get("boot"),
            "pid": process.get("pid"),
            "start_time": process.get("start_time"),
            "created_at": record.get("created_at"),
            "started_at": process.get("started_at"),
            "exit": ending,
            "members": len(members),
            "readiness": self.readiness(process) if is_server and state == "running" and not ending else "none",
            # What only somebody who watches can tell:
            "healthy": None,
            "unhealthy_reason": None,
            "stage": None,
            "idle_seconds": None,
            "silent_seconds": None,
            "log_size": self.log.size(),
            "last_line": self.log.last_line(self.secret_marks()) if is_server else None,
            "ports": record.get("ports", []),
            "internal_ports": record.get("internal_ports", []),
            "gpus": record.get("gpus", []),
            "stop_requested": self.has("stop.json"),
            "stopped": self.read("stopped.json"),
        }

    def readiness(self, process: Json) -> str:
        """Return ready if this very process once was, as far as the disk knows."""
        ready = self.read("ready.json")
        same = ready is not None and (ready["pid"], ready["start_time"]) == (process["pid"], process["start_time"])
        return "ready" if same else "process"


# ---------------------------------------------------------------------------------------------------------------------
# Logs


class Log:
    """All that a launch prints. Bytes keep their offsets for ever; the oldest ones may be gone from the disk."""

    def __init__(self, folder: str) -> None:
        self.path = f"{folder}/output.log"
        self.start_path = f"{folder}/log_start"
        self.times_path = f"{folder}/log_times"

    def size(self) -> int:
        """Return the offset of its end, 0 if there is none."""
        try:
            return os.stat(self.path).st_size
        except FileNotFoundError:
            return 0

    def start(self) -> int:
        """Return the offset of the first byte that is still kept. A record, as not every file system tells of holes."""
        return int(read_bytes(self.start_path) or b"0")

    def read(self, offset: int, limit: int) -> Tuple[int, bytes]:
        """Return the offset and up to ``limit`` bytes from there on, or from the first byte that is still kept."""
        while True:
            offset = max(offset, self.start())
            piece = self._piece(offset, limit)
            if self.start() <= offset:  # it is moved before anything is dropped: these bytes were still there
                return offset, piece

    def offset_at(self, when: float) -> int:
        """Return an offset before everything that was printed at that time (epoch) or later."""
        found = 0
        for marked_at, offset in self.times():
            if marked_at >= when:
                break
            found = offset
        return found

    def times(self) -> List[Tuple[float, int]]:
        """Return (epoch, size at that time), in order."""
        lines = (read_bytes(self.times_path) or b"").split(b"\n")[:-1]  # behind the last newline: half a mark, or none
        return [(float(marked_at), int(offset)) for marked_at, offset in (line.split() for line in lines)]

    def last_line(self, marks: Json) -> str:
        """Return the last line that says something, as it looks on a terminal and without secrets."""
        import re

        start, piece = self._last(TAIL_BYTES)
        lines = re.split(rb"[\r\n]", piece)
        for number in range(len(lines) - 1, -1, -1):
            hidden = hide(lines[number], marks, is_whole=number > 0 or not start)
            line = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", hidden).strip()
            if line:
                return line[:LAST_LINE_CHARACTERS]
        return ""

    def tail(self, marks: Json) -> str:
        """Return the last 4 KiB without secrets."""
        start, piece = self._last(TAIL_BYTES + _longest(marks))
        return hide(piece, marks, is_whole=not start)

    def _last(self, limit: int) -> Tuple[int, bytes]:
        return self.read(max(0, self.size() - limit), limit)

    def _piece(self, offset: int, limit: int) -> bytes:
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return b""
        try:
            return os.pread(descriptor, limit, offset)
        finally:
            os.close(descriptor)


def mark(secrets: Iterable[str]) -> Json:
    """Return what finds secrets in a log without telling them: length and salted digest of each.

    A log is read long after those who knew its server's secrets are gone. One shorter than four bytes hides nothing.
    """
    salt = os.urandom(16)
    values = {secret.encode("utf-8", "surrogatepass") for secret in secrets}
    return {
        "salt": salt.hex(),
        "digests": sorted([len(value), _digest(salt, value)] for value in values if len(value) >= 4),
    }


def hide(piece: bytes, marks: Json, is_whole: bool) -> str:
    """Return a piece of a log with ``***`` for every secret; one that begins before the piece loses its rest too."""
    import re

    hidden = bytearray(piece)
    for length in {length for length, _ in marks["digests"]}:
        digests = {digest for size, digest in marks["digests"] if size == length}
        salt = bytes.fromhex(marks["salt"])
        for start in range(len(piece) - length + 1):
            if _digest(salt, piece[start : start + length]) in digests:
                hidden[start : start + length] = b"\xff" * length  # as long as before, and in no UTF-8 text
    shown = bytes(hidden if is_whole else hidden[_longest(marks) :])
    return re.sub(rb"\xff+", b"***", shown).decode(errors="replace")


def _digest(salt: bytes, value: bytes) -> str:
    import hashlib

    return hashlib.sha256(salt + value).hexdigest()


def _longest(marks: Json) -> int:
    lengths: List[int] = [length for length, _ in marks["digests"]]
    return max(lengths or [0])


# ---------------------------------------------------------------------------------------------------------------------
# launch


class LaunchRequest:
    """The fields of ``launch`` and ``run``."""

    def __init__(self, request: Request, kind: Optional[str] = None) -> None:
        self.id = check_id(request.text("id"), 3, "launch id")
        self.kind = request.optional_text("kind") or kind
        self.arguments = request.texts("argv") or []
        self.environment = request.mapping("environment")
        self.secrets = request.mapping("secrets")
        self.workspace = request.optional_text("workspace")
        self.gpus = request.gpu_shares("gpus")
        self.ports = request.ports("ports")
        self.internal_ports = request.ports("internal_ports")  # [first, count]
        self.wants_api_key = request.flag("api_key")
        self.served_name = request.optional_text("served_name")
        self.server = request.optional_text("server")
        self.owner = request.optional_text("owner")  # whose launch it is: several podctls may use one machine
        self.input = request.optional_text("input")  # what PODCTL_INPUT holds
        self.wants_output = request.flag("output")  # whether what PODCTL_OUTPUT holds is part of the result
        log_limit = request.integer("log_limit")  # bytes of a server's log that are kept, for tests
        if self.kind not in ("server", "run") or (kind and self.kind != kind):
            raise Failure("bad_request", f"launch {self.id}: kind must be {kind or 'server or run'}, not {self.kind!r}")
        if not self.arguments or not self.arguments[0]:
            raise Failure("bad_request", f"launch {self.id}: argv must name a program")
        if self.internal_ports and len(self.internal_ports) != 2:
            raise Failure("bad_request", f"launch {self.id}: internal_ports must be [first, count]")
        if log_limit is not None and (self.kind != "server" or log_limit < 1):
            raise Failure("bad_request", f"launch {self.id}: log_limit must be a number of bytes, and is for servers")
        if (self.input is not None or self.wants_output) and self.kind != "run":
            raise Failure("bad_request", f"launch {self.id}: input and output are for runs")
        if self.workspace is not None:
            check_id(self.workspace, 2, "workspace")
        if self.server is not None:
            check_id(self.server, 3, "server")
        self.log_limit = (log_limit or LOG_LIMIT) if self.kind == "server" else None
        if self.kind == "server":
            self.arguments = [loopback() if word == "{loopback}" else word for word in self.arguments]

    def folder(self, root: "Root") -> str:
        """Return the folder that its program works in."""
        return root.launch(self.id).path("work") if self.workspace is None else f"{root.path}/work/{self.workspace}"

    def exchange(self, root: "Root", name: str) -> str:
        """Return the path of a file by which its program is told something, or tells something: one an attempt."""
        return f"{self.folder(root)}/.podctl/{name}-{self.id.rsplit('/', 1)[1]}"

    def held_ports(self) -> Set[int]:
        """Return every port that belongs to it while it lives, internal ones included."""
        return set(self.ports) | _port_block(self.internal_ports)

    def record(self, boot: str, memory_before: Dict[str, Optional[int]], marks: Json) -> Json:
        """Return what is written down: all but the secrets, of which only the names and their marks are."""
        return {
            "id": self.id,
            "kind": self.kind,
            "argv": self.arguments,
            "environment": self.environment,
            "secret_names": sorted(self.secrets),
            "secret_marks": marks,
            "workspace": self.workspace,
            "gpus": [{"uuid": uuid, "share": share} for uuid, share in self.gpus.items()],
            "ports": self.ports,
            "internal_ports": self.internal_ports,
            "api_key": self.wants_api_key,
            "served_name": self.served_name,
            "server": self.server,
            "owner": self.owner,
            "boot": boot,
            "created_at": time.time(),
            "memory_before": memory_before,
        }


def _port_block(first_and_count: List[int]) -> Set[int]:
    return set(range(first_and_count[0], sum(first_and_count))) if first_and_count else set()


def launch_once(root: Root, wanted: LaunchRequest) -> Tuple[Launch, bool]:
    """Launch what is wanted unless its id has been launched before; return the launch and whether it is new.

    What has a record and no process, and nobody at work on it, has never run: it is done again.
    """
    launch = root.launch(wanted.id)
    report = GpuReport() if wanted.gpus and not launch.has("process.json") else None  # slow: not under the lock
    with root.decisions():
        if launch.has("process.json") or is_locked(launch.lock):
            return launch, False
        if launch.has("stop.json"):
            raise Failure("launch_stopped", f"launch {wanted.id} was stopped before it ran; launch under a new id")
        environment = _environment(root, wanted, report)
        folder = wanted.folder(root)
        program = find_program(wanted.arguments[0], environment.get("PATH"), folder)
        if program is None:
            raise Failure(
                "program_not_found",
                f"launch {wanted.id}: there is no program {wanted.arguments[0]!r} on this machine; install it, or give "
                "its full path",
            )
        _refuse_overlap(root, wanted)
        os.makedirs(launch.folder, mode=0o700, exist_ok=True)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        environment.update(_exchange_files(root, wanted))
        secrets = list(wanted.secrets.values())
        if wanted.server:
            secrets.append(root.launch(wanted.server).api_key() or "")
        if wanted.wants_api_key:
            environment["VLLM_API_KEY"] = _make_api_key(launch)
            secrets.append(environment["VLLM_API_KEY"])
        if wanted.kind == "server":
            environment["VLLM_RPC_BASE_PATH"] = launch.socket_folder()
            # For what it leaves in a folder for temporary files: the rendezvous of its workers, when they are killed.
            environment.setdefault("TMPDIR", launch.socket_folder())
            make_private(environment["VLLM_RPC_BASE_PATH"])
        # Held from before the record until the supervisor ends: a record without process.json whose lock is free
        # can therefore only be one that never ran.
        lock = os.open(launch.lock, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        memory = {uuid: report.memory_used(uuid) for uuid in wanted.gpus} if report else {}
        write_json(launch.path("record.json"), wanted.record(root.boot, memory, mark(secrets)))
        if wanted.kind == "server":
            _set_old_aside(root, launch)
        status = _start_supervisor(
            lock,
            {
                "folder": launch.folder,
                "boot": root.boot,
                "hooks": os.environ.get("PODLET_HOOKS"),
                "program": program,
                "arguments": wanted.arguments,
                "environment": environment,
                "work": folder,
                "umask": ORIGINAL_UMASK,
                "log_limit": wanted.log_limit,
            },
        )
    try:
        if not os.read(status, 1):
            raise Failure(
                "launch_lost", f"launch {wanted.id}: its supervisor ended before the program ran; launch it again"
            )
    finally:
        os.close(status)
    _remove_set_aside(launch)
    return launch, True


def _exchange_files(root: Root, wanted: LaunchRequest) -> Dict[str, str]:
    """Write what a run is told, make room for what it tells, and return where both are, as environment variables."""
    variables: Dict[str, str] = {}
    if wanted.input is not None or wanted.wants_output:
        make_private(f"{wanted.folder(root)}/.podctl")
    if wanted.input is not None:
        variables["PODCTL_INPUT"] = wanted.exchange(root, "input")
        write_file(variables["PODCTL_INPUT"], wanted.input.encode("utf-8", "surrogatepass"))
    if wanted.wants_output:
        variables["PODCTL_OUTPUT"] = wanted.exchange(root, "output")
        remove_file(variables["PODCTL_OUTPUT"])
    return variables


def read_output(path: str, marks: Json) -> Tuple[Optional[str], str]:
    """Return what a program wrote for its caller, without secrets, or None and why there is nothing to be had."""
    import stat

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None, "it wrote nothing to the file that $PODCTL_OUTPUT names"
    except OSError as error:
        return None, f"what $PODCTL_OUTPUT names cannot be read: {error.strerror}"
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None, "what $PODCTL_OUTPUT names is no file"
    with os.fdopen(descriptor, "rb") as file:
        written = file.read(OUTPUT_LIMIT + 1)
    if len(written) > OUTPUT_LIMIT:
        return None, f"it wrote more than {OUTPUT_LIMIT} bytes to the file that $PODCTL_OUTPUT names"
    try:
        written.decode()
    except UnicodeDecodeError as error:
        return None, f"what it wrote to the file that $PODCTL_OUTPUT names is not UTF-8: {error.reason}"
    return hide(written, marks, is_whole=True), ""


def _set_old_aside(root: Root, launch: Launch) -> None:
    """Take a server's older launches of which only records and logs are left from among its launches."""
    server = launch.id.rsplit("/", 1)[0]
    verified = []
    for name in filter(_is_name, _listing(f"{root.path}/launches/{server}")):
        other = root.launch(f"{server}/{name}")
        record, stopped = other.read("record.json") or {}, other.read("stopped.json") or {}
        if record.get("kind") == "server" and other.has("ended.json") and stopped.get("state") == "stopped":
            verified.append((record["created_at"], name))
    for _, name in sorted(verified)[:-LAUNCHES_KEPT]:
        folder = os.path.dirname(launch.folder)
        os.rename(f"{folder}/{name}", f"{folder}/.{name}")  # at once, and to what is no name of a launch


def _remove_set_aside(launch: Launch) -> None:
    import shutil

    folder = os.path.dirname(launch.folder)
    for name in _listing(folder):
        if name.startswith("."):
            shutil.rmtree(f"{folder}/{name}", ignore_errors=True)  # what stays is tried again at the next launch


def find_program(name: str, path: Optional[str], folder: str) -> Optional[str]:
    """Return the full path of a program as a shell in ``folder`` would find it, also in ~/.local/bin."""
    places = [*(path or os.defpath).split(":"), os.path.expanduser("~/.local/bin")]
    candidates = [f"{folder}/{name}" if not name.startswith("/") else name] if "/" in name else []
    for candidate in candidates or [f"{place or folder}/{name}" for place in places]:
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    return None


def _environment(root: Root, wanted: LaunchRequest, report: Optional[GpuReport]) -> Dict[str, str]:
    environment = {**os.environ, **wanted.environment, **wanted.secrets}
    if report:
        indexes = {gpu["uuid"]: gpu["index"] for gpu in report.gpus}
        missing = [uuid for uuid in wanted.gpus if uuid not in indexes]
        if missing:
            there = ", ".join(indexes) or report.message or "none"
            raise Failure(
                "gpu_missing",
                f"launch {wanted.id}: this machine has no GPU {missing[0]} now (there are: {there}); look at the "
                "machine's inventory",
            )
        # By index, because programs that read the variable themselves expect numbers; by PCI order, because only
        # that one agrees with nvidia-smi.
        environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(str(indexes[uuid]) for uuid in wanted.gpus)
    if wanted.internal_ports:
        environment["VLLM_PORT"] = str(wanted.internal_ports[0])
    if wanted.server:
        server = connection(root.launch(wanted.server), f"launch {wanted.id}")
        environment["OPENAI_BASE_URL"] = f"http://{server['host']}:{server['port']}/v1"
        environment["OPENAI_API_KEY"] = server["api_key"] or "none"  # OpenAI's clients refuse to start without one
        environment["OPENAI_MODEL"] = server["served_name"] or ""
    return environment


def connection(server: Launch, who: str) -> Json:
    """Return how a running model server is reached on this machine, with its key."""
    record, process = server.read("record.json") or {}, server.process()
    if not record.get("ports") or not process or not is_alive(process["pid"], process["start_time"]):
        raise Failure("server_not_running", f"{who}: the model server {server.id} is not running; start it first")
    return {
        "host": loopback(),
        "port": record["ports"][0],
        "api_key": server.api_key(),
        "served_name": record["served_name"],
    }


def _make_api_key(launch: Launch) -> str:
    import secrets

    key = launch.api_key() or secrets.token_urlsafe(32)
    write_file(launch.path("api_key"), key.encode())
    return key


def _refuse_overlap(root: Root, wanted: LaunchRequest) -> None:
    if not wanted.gpus and not wanted.held_ports():
        return
    table = ProcessTable()
    shares = dict(wanted.gpus)
    for other in root.living(table):
        record = other.read("record.json") or {}
        taken = wanted.held_ports() & (set(record["ports"]) | _port_block(record["internal_ports"]))
        if taken:
            raise Failure(
                "port_taken",
                f"launch {wanted.id}: port {min(taken)} belongs to launch {other.id}, which is alive; take another "
                "port, or stop that one first",
            )
        for gpu in record["gpus"]:
            uuid = gpu["uuid"]
            if uuid in shares:
                shares[uuid] += gpu["share"]
                if shares[uuid] > 1.0001:  # shares are decimal fractions: 0.1 + 0.9 may be a little above 1
                    raise Failure(
                        "gpu_share_taken",
                        f"launch {wanted.id}: {wanted.gpus[uuid]:g} of {uuid} does not fit beside launch {other.id} "
                        f"({gpu['share']:g}), which is alive; stop that one first, or take another GPU",
                    )
    for port, inodes in listener_inodes(wanted.ports).items():
        owner = socket_owner(inodes, table.processes.values())
        who = f"process {owner.pid} ({owner.command})" if owner else "a process of another user"
        raise Failure(
            "port_taken", f"launch {wanted.id}: {who} listens on port {port}; take another port, or end that process"
        )


# ---------------------------------------------------------------------------------------------------------------------
# adopt: a server that somebody else started becomes a launch of ours, as it is


class Adoption:
    """Takes over the server that listens on a port. It goes on running; nothing but our own folder is written to.

    It has no supervisor: how it ends is never known, and who belongs to it is noted now. ``pid`` is the process that
    whoever started it kept: the server itself, or a wrapper above it, which is not ours to end.
    """

    def __init__(self, root: Root, request: Request) -> None:
        self.root = root
        self.id = check_id(request.text("id"), 3, "launch id")
        self.owner = request.optional_text("owner")
        self.pid, self.port = request.integer("pid") or 0, request.integer("port") or 0
        self.shares = request.gpu_shares("gpus")
        self.served_name = request.optional_text("served_name")
        self.log = request.optional_text("log")
        if self.pid < 1 or not 0 < self.port < 65536:
            raise Failure("bad_request", f"adopt {self.id}: pid and port must be numbers of a process and a port")

    def once(self) -> Tuple[Launch, bool]:
        """Adopt, unless it was done before under this id; return the launch and whether it is new."""
        launch = self.root.launch(self.id)
        report = GpuReport()  # slow: not under the lock
        with self.root.decisions():
            if launch.has("process.json"):
                return launch, False
            if launch.has("stop.json"):
                raise Failure("launch_stopped", f"adopt {self.id}: it was stopped before; adopt under a new id")
            table = ProcessTable()
            started, server = self._find(table)
            for other in self.root.living(table):
                if any(member.pid == server.pid for member in other.members(table)):
                    raise self._refused("process_owned", f"process {server.pid} belongs to launch {other.id}")
            self._write(launch, report, started, server, table)
        return launch, True

    def _find(self, table: ProcessTable) -> Tuple[Process, Process]:
        """Return the process that was named, and the server, which is it or descends from it."""
        started = table.processes.get(self.pid)
        if started is None or started.gone:
            raise self._refused("process_gone", f"no process {self.pid} runs on this machine")
        family = {started.pid: started}
        waiting = [started]
        while waiting:
            one = waiting.pop()
            for process in table.children(one.pid) + table.session(one.pid, one.start_time):
                if process.pid not in family and not process.gone:
                    family[process.pid] = process
                    waiting.append(process)
        inodes = listener_inodes([self.port]).get(self.port, set())
        what = f"process {self.pid} is {_shown(started)}"
        if not inodes:
            raise self._refused(
                "port_not_open", f"nothing listens on port {self.port} (nor does a server that still loads); {what}"
            )
        listeners = [one for one in family.values() if socket_owner(inodes, [one])]
        if not listeners:
            other = socket_owner(inodes, table.processes.values())
            who = f"process {other.pid}, {_shown(other)}," if other else "a process of another user"
            raise self._refused("other_program", f"{who} listens on port {self.port}; {what}")
        pids = {one.pid for one in listeners}
        server = next(one for one in listeners if one.parent not in pids)
        if b"vllm" not in server.arguments().lower():
            raise self._refused(
                "other_program", f"process {server.pid} listens on port {self.port} and is no vLLM: {_shown(server)}"
            )
        return started, server

    def _write(self, launch: Launch, report: GpuReport, started: Process, server: Process, table: ProcessTable) -> None:
        arguments = server.arguments().decode(errors="replace").rstrip("\0").split("\0")
        environment = _environment_of(server.pid)
        keys = [*_values(arguments, "--api-key"), environment.get("VLLM_API_KEY", "")]
        key = next(filter(None, keys), None)
        secrets = [*keys, *_values(arguments, "--hf-token")]
        secrets += [environment.get(name, "") for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")]
        for secret in filter(None, secrets):
            arguments = [argument.replace(secret, "***") for argument in arguments]
        leader = self._leader(started, server, table)
        members = {one.pid: one for one in [server, *table.session(leader.pid, leader.start_time)]}
        members.update((one.pid, one) for one in map(read_process, descendants(server.pid)) if one)
        held = {app["gpu_uuid"] for app in report.apps if app["pid"] in members}
        share = _share(_option(arguments, "--gpu-memory-utilization"))
        # What nvidia-smi shows is true; what was kept of it by whoever started it may be old.
        shares = {uuid: share or self.shares.get(uuid, 0.9) for uuid in sorted(held) or self.shares}
        os.makedirs(launch.folder, mode=0o700, exist_ok=True)
        log = self._log_file(server)
        remove_file(launch.log.path)
        if log:
            os.symlink(log, launch.log.path)
        if key:
            write_file(launch.path("api_key"), key.encode())
        processes = sorted(one.identity for one in members.values() if not one.gone)
        write_json(launch.path("noted.json"), {"processes": processes, "shared_memory": []})
        record = {
            "id": self.id,
            "kind": "server",
            "argv": arguments,
            "environment": {},
            "secret_names": [],
            "secret_marks": mark(filter(None, secrets)),
            "workspace": None,
            "gpus": [{"uuid": uuid, "share": share} for uuid, share in shares.items()],
            "ports": [self.port],
            "internal_ports": [],
            "api_key": bool(key),
            "served_name": self.served_name or _served_name(arguments),
            "server": None,
            "owner": self.owner,
            "boot": self.root.boot,
            "created_at": time.time(),
            "memory_before": dict.fromkeys(shares),
            "adopted": {"pid": started.pid, "start_time": started.start_time},
        }
        write_json(launch.path("record.json"), record)
        hook("adopt.before-process")
        process = {
            "pid": server.pid,
            "start_time": server.start_time,
            "boot": self.root.boot,
            "session": leader.pid,
            "session_start_time": leader.start_time,
            "supervisor": None,
            "supervisor_start_time": None,
            "at": time.time(),
            "started_at": _started_at(server),
        }
        write_json(launch.path("process.json"), process)

    def _leader(self, started: Process, server: Process, table: ProcessTable) -> Process:
        """Return the leader of a session that is all the server's; the server, which may lead none, if in doubt.

        A person's shell leads a session too, with a terminal; below ``started`` it is one that was made for the server.
        """
        leader = table.processes.get(server.session)
        above = server
        while leader and above.pid not in (leader.pid, started.pid) and above.parent in table.processes:
            above = table.processes[above.parent]
        if leader is None or above.pid != leader.pid or (leader is started and leader.has_terminal):
            return server
        return leader

    def _log_file(self, server: Process) -> Optional[str]:
        """Return the file that it writes to, as far as there is one: its output, or the one that was named."""
        for candidate in (_link(f"/proc/{server.pid}/fd/1"), os.path.expanduser(self.log or "")):
            if candidate.startswith("/") and os.path.isfile(candidate) and not candidate.startswith("/dev/"):
                return candidate
        return None

    def _refused(self, code: str, what: str) -> Failure:
        return Failure(code, f"adopt {self.id}: {what}; nothing was touched")


def _shown(process: Process) -> str:
    """Return the program of a process and no more of its command line, which may hold secrets."""
    words = process.arguments().decode(errors="replace").split("\0")[:2]
    return " ".join(word for word in words if word and not word.startswith("-"))[:200] or process.command


def _environment_of(pid: int) -> Dict[str, str]:
    lines = (read_bytes(f"/proc/{pid}/environ") or b"").decode(errors="replace").split("\0")
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _option(arguments: List[str], name: str) -> Optional[str]:
    """Return the last value that a command line gives for an option."""
    return next(filter(None, reversed(_values(arguments, name))), None)


def _values(arguments: List[str], name: str) -> List[str]:
    """Return every value that a command line gives for an option: some take several."""
    values: List[str] = []
    taking = False
    for argument in arguments:
        option, equals, given = argument.partition("=")
        if option.startswith("--"):
            taking = option.replace("_", "-") == name
            values += [given] if taking and equals else []
        elif taking:
            values.append(argument)
    return values


def _share(text: Optional[str]) -> Optional[float]:
    try:
        share = float(text or "")
    except ValueError:
        return None
    return share if 0 < share <= 1 else None


def _served_name(arguments: List[str]) -> Optional[str]:
    model = _option(arguments, "--served-model-name") or _option(arguments, "--model")
    if model is None and "serve" in arguments:
        model = "".join(arguments[arguments.index("serve") + 1 :][:1])
    return model or None


def _started_at(process: Process) -> float:
    """Return when a process began (epoch)."""
    stat = (read_bytes("/proc/stat") or b"").decode()
    booted_at = next((int(line.split()[1]) for line in stat.splitlines() if line.startswith("btime")), 0)
    return booted_at + process.start_time / os.sysconf("SC_CLK_TCK")


# ---------------------------------------------------------------------------------------------------------------------
# The supervisor: one per launch, detached from everybody


ORIGINAL_UMASK = os.umask(0o077)
os.umask(ORIGINAL_UMASK)

# Found through sys.path, not run as a script: only modules have their compiled form kept beside them.
_SUPERVISOR = "import sys; sys.path.append(sys.argv[1]); __import__(sys.argv[2]).supervise(*map(int, sys.argv[4:]))"


def _start_supervisor(lock: int, order: Json) -> int:
    """Start the supervisor and return the pipe on which it says that the program runs (or could not).

    It inherits the lock. It is a fresh interpreter because a forked one would keep all that we have loaded.
    """
    import marshal

    order_read, order_write = os.pipe()
    status_read, status_write = os.pipe()
    module_folder, module = os.path.split(os.path.splitext(os.path.abspath(__file__))[0])
    launch_id = "/".join(order["folder"].split("/")[-3:])
    arguments = [sys.executable, "-I", "-S", "-OO", "-c", _SUPERVISOR, module_folder, module, launch_id]
    kept = (lock, order_read, status_write)
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            if os.fork() == 0:
                _become_supervisor(arguments, kept)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    for descriptor in kept:
        os.close(descriptor)
    with os.fdopen(order_write, "wb") as pipe:
        pipe.write(marshal.dumps(order))
    return status_read


def _become_supervisor(arguments: List[str], kept: Tuple[int, ...]) -> NoReturn:
    import ctypes
    import signal

    # A subreaper inherits the orphans among its descendants, so that no double fork leaves the launch. Kept over exec.
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:
                continue  # the listing's own
    for descriptor in kept:
        os.set_inheritable(descriptor, True)
    environment = {name: os.environ[name] for name in ("LANG", "LC_ALL", "LD_LIBRARY_PATH") if name in os.environ}
    os.execve(arguments[0], [*arguments, *map(str, kept)], environment)  # noqa: S606 - no shell is wanted


def supervise(lock: int, order_read: int, status_write: int) -> None:
    """Run one launch: start its program, keep its exit status, adopt and reap all that descends from it.

    Ends when no descendant is left. Killed at any point it leaves either no exec or a process.json.
    """
    import marshal

    for descriptor in (lock, order_read, status_write):
        os.set_inheritable(descriptor, False)
    os.umask(0o077)
    with os.fdopen(order_read, "rb") as pipe:
        data = pipe.read()
    try:
        order = marshal.loads(data)  # noqa: S302 - from our own launcher, through a pipe
    except (EOFError, ValueError, TypeError):
        return  # the launcher died in the middle of its order
    folder: str = order["folder"]
    keeper = LogKeeper(folder, order["log_limit"])
    child = _start_child(order, status_write)
    del order, data  # the environment has secrets and is long: a supervisor keeps neither
    started = child.release()
    if started:
        _report(status_write)
    _keep_exit(folder, child, keeper)
    if not started:
        _report(status_write)
    _reap_orphans(folder, keeper)


def _report(status: int) -> None:
    """Tell the launcher, who may be gone, that the disk says by now how the launch went."""
    try:
        os.write(status, b".")
    except BrokenPipeError:
        return  # what the launcher would have said stands on disk
    finally:
        os.close(status)


class _Child:
    """The program's process, forked and waiting for its go."""

    def __init__(self, pid: int, folder: str, hooks: Optional[str], boot: str, go: int, failure: int) -> None:
        self.pid = pid
        self.folder = folder
        self.hooks = hooks
        self.error: Optional[str] = None
        self.end: Optional[select.poll] = None
        descriptor = _open_pidfd(pid)
        if descriptor is not None:
            self.end = select.poll()
            self.end.register(descriptor, select.POLLIN)
        self._go = go
        self._failure = failure
        own, process = read_process(os.getpid()), read_process(pid)
        self.record: Json = {
            "pid": pid,
            "start_time": process.start_time if process else 0,
            "boot": boot,
            "session": pid,
            "supervisor": os.getpid(),
            "supervisor_start_time": own.start_time if own else 0,
            "at": time.time(),
            "started_at": None,
        }
        write_json(f"{folder}/process.json", self.record)

    def release(self) -> bool:
        """Let the program run, unless a stop came first; return whether its exec succeeded."""
        hook("launch.before-exec", self.hooks)
        stopped = os.path.exists(f"{self.folder}/stop.json")
        try:
            if not stopped:
                os.write(self._go, b"g")
        except BrokenPipeError:
            stopped = True  # somebody has ended it already
        os.close(self._go)
        problem = os.read(self._failure, 16)
        os.close(self._failure)
        if stopped:
            self.error = "stopped before it ran"
        elif problem:
            self.error = f"the program could not be run: {os.strerror(int(problem))}"
        if self.error is None:
            write_json(f"{self.folder}/process.json", {**self.record, "started_at": time.time()})
        return self.error is None


def _start_child(order: Json, status_write: int) -> _Child:
    go_read, go_write = os.pipe()
    failure_read, failure_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(go_write)
            os.close(status_write)
            _become_program(order, go_read)
        except OSError as error:
            os.write(failure_write, str(error.errno).encode())
        finally:
            os._exit(127)
    os.close(go_read)
    os.close(failure_write)
    return _Child(pid, order["folder"], order["hooks"], order["boot"], go_write, failure_read)


def _become_program(order: Json, go: int) -> None:
    import signal

    os.setsid()
    # What we, Python or whoever started us ignores would stay ignored over the exec.
    for number in set(range(1, signal.NSIG)) - {signal.SIGKILL, signal.SIGSTOP, 32, 33}:  # 32, 33: the C library's
        signal.signal(number, signal.SIG_DFL)
    os.chdir(order["work"])
    log = os.open(f"{order['folder']}/output.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.umask(order["umask"])
    if os.read(go, 1):  # end of file: the supervisor died, or a stop came first
        os.execve(order["program"], order["arguments"], order["environment"])  # noqa: S606 - no shell is wanted


MADE_WITHIN = 600.0  # seconds after which a program that nobody called ready is taken to have made what it makes


def _keep_exit(folder: str, child: _Child, keeper: LogKeeper) -> None:
    """Wait for the program's end and write it down; keep its log, reap adopted orphans and take notes meanwhile."""
    noted: Json = {"processes": [], "shared_memory": []}
    began = time.monotonic()
    pause = 0.1
    next_note = began + pause
    while True:
        ended = _wait(child, min(keeper.look(), max(0.0, next_note - time.monotonic())))
        if ended is None and time.monotonic() >= next_note:
            is_made = os.path.exists(f"{folder}/ready.json") or time.monotonic() - began > MADE_WITHIN
            _note(folder, noted)
            # Often while everything is being made; later only what changes in the long run.
            pause = min(pause * 2, 60.0 if is_made else 1.0)
            next_note = time.monotonic() + pause
        elif ended is not None and ended[0] == child.pid:
            status = ended[1]
            _note(folder, noted)
            code = os.WEXITSTATUS(status) if os.WIFEXITED(status) and child.error is None else None
            number = os.WTERMSIG(status) if os.WIFSIGNALED(status) and child.error is None else None
            ending = {"code": code, "signal": number, "error": child.error, "unknown": False, "at": time.time()}
            write_json(f"{folder}/exit.json", ending)
            return


def _reap_orphans(folder: str, keeper: LogKeeper) -> None:
    """Wait until nothing that descends from us lives, and say so on disk; orphans may print, too."""
    try:
        while True:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                time.sleep(min(0.1, keeper.look()))
    except ChildProcessError:
        pass  # none is left
    keeper.end()
    remove_file(f"{folder}/api_key")
    write_json(f"{folder}/ended.json", {"at": time.time()})


class LogKeeper:
    """Marks how a log grows in time and, where it has a limit, gives the disk space of its oldest part back.

    The hole is punched into the head of the file: nobody who writes or reads has to be told, and offsets stay true.
    """

    QUIET = 2.5  # seconds between two looks at a log that hardly grows: one that begins to roar is seen after as many
    HASTE = 0.02

    def __init__(self, folder: str, limit: Optional[int]) -> None:
        self._log = Log(folder)
        self._limit = limit
        self._start = 0
        self._size = 0
        self._looked_at = time.monotonic()
        self._marks = 0
        self._mark(0)

    def look(self) -> float:
        """Do what is due; return the seconds after which to look again at the latest."""
        size, now = self._log.size(), time.monotonic()
        if size != self._marked_size and now - self._marked_at >= MARK_EVERY:
            self._mark(size)
        if self._limit is not None and size - self._start > self._limit * 3 // 4:
            self._drop(size - self._limit // 2)
        if self._limit is None:
            return MARK_EVERY
        # So soon that, as quickly as it grows now, only a quarter of what is left up to the limit is used until then.
        rate = (size - self._size) / max(now - self._looked_at, self.HASTE)
        self._size, self._looked_at = size, now
        return max(self.HASTE, min(self.QUIET, (self._limit - (size - self._start)) / 4 / max(rate, 1.0)))

    def end(self) -> None:
        """Mark the end: nothing is printed any more."""
        if self._log.size() != self._marked_size:
            self._mark(self._log.size())

    def _mark(self, size: int) -> None:
        self._marked_at, self._marked_size = time.monotonic(), size
        if self._marks >= MARKS_KEPT:  # those of longer ago become sparser: that only lets `since` begin earlier
            kept = [mark for mark in self._log.times() if mark[1] >= self._start][1::2]
            self._marks = len(kept)
            write_file(self._log.times_path, b"".join(_mark_line(*mark) for mark in kept))
        descriptor = os.open(self._log.times_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(descriptor, _mark_line(time.time(), size))
        os.close(descriptor)
        self._marks += 1

    def _drop(self, until: int) -> None:
        """Give back what lies before the first line that begins at ``until`` or later."""
        if not _punch_hole(self._log.path, 1 << 40, 4096):  # where nothing is: only to learn whether it can be done
            self._limit = None
            return
        offset, piece = self._log.read(until, LOG_CHUNK_BYTES)
        self._start = offset + piece.find(b"\n") + 1 if b"\n" in piece else until
        write_file(self._log.start_path, b"%d" % self._start)  # first: a reader must never take a hole for a log
        _punch_hole(self._log.path, 0, self._start)


def _mark_line(at: float, size: int) -> bytes:
    return f"{at!r} {size}\n".encode()  # not rounded: a mark that is too early would hide what was printed


def _punch_hole(path: str, offset: int, length: int) -> bool:
    """Give the disk space of a part of a file back; its size stays. Return whether the file system can do that."""
    import ctypes  # 1 MB, which only the supervisor of a talkative server pays

    descriptor = os.open(path, os.O_RDWR)
    try:
        keep_size_and_punch_hole = 1 | 2
        part = (ctypes.c_int64(offset), ctypes.c_int64(length))
        return bool(ctypes.CDLL(None).fallocate(descriptor, keep_size_and_punch_hole, *part) == 0)
    finally:
        os.close(descriptor)


def _wait(child: _Child, seconds: float) -> Optional[Tuple[int, int]]:
    """Return a child that has ended (pid, status), or None after ``seconds``; the end of ``child`` is seen at once."""
    deadline = time.monotonic() + seconds
    while True:
        ended = os.waitpid(-1, os.WNOHANG)
        if ended[0]:
            return ended
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        if child.end is None:
            time.sleep(min(left, 0.1))
        else:
            child.end.poll(left * 1000)


def _open_pidfd(pid: int) -> Optional[int]:
    """Return a descriptor that is readable when the process ends; None where there is no such thing."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _note(folder: str, noted: Json) -> None:
    """Write down what nobody could find out after a sudden death: which processes, which shared memory."""
    processes = [process for process in map(read_process, descendants(os.getpid())) if process and not process.gone]
    memory = set(noted["shared_memory"])
    for process in processes:
        memory |= shared_memory_of(process.pid)
    now = {"processes": sorted(process.identity for process in processes), "shared_memory": sorted(memory)}
    if now != noted:
        noted.update(now)
        write_json(f"{folder}/noted.json", noted)


# ---------------------------------------------------------------------------------------------------------------------
# stop

TERM_EVERY = 1.0  # vLLM swallows a TERM while its engine starts: it is repeated
ROOT_HANGS_AFTER = 3.0  # a root without an engine has had time enough to leave; vLLM's may wait for a client for ever
ORPHANS_LEAVE_WITHIN = 0.5  # an engine outlives its root by moments, or for ever
TIMEOUT_GRACE = 10.0  # between TERM and KILL for a run that takes longer than it may
DEATH_TAKES_AT_MOST = 30.0  # a process may be busy in the driver; longer than this, a person has to look
MEMORY_DRAINS_WITHIN = 6.0  # nvidia-smi lags behind the end of a process by a second or two
MEMORY_TOLERANCE_MIB = 512


class Stop:
    """One verified stop: ask, insist, and prove that nothing of the launch is left."""

    def __init__(self, launch: Launch, grace: float, caller: Caller) -> None:
        self.launch = launch
        self.grace = grace
        self.caller = caller
        self.began = time.monotonic()
        self.record: Json = {}
        self.killed: Set[Identity] = set()
        self.seen: Set[int] = set()
        self.shared_memory: Set[str] = set()

    def run(self) -> Json:
        """Stop the launch and return the result; a stop that was verified before returns what it found then."""
        with self.launch.root.decisions():
            os.makedirs(self.launch.folder, mode=0o700, exist_ok=True)
            if not self.launch.has("stop.json"):
                write_json(self.launch.path("stop.json"), {"at": time.time(), "grace": self.grace})
            done = self.launch.read("stopped.json")
            if done and done["state"] == "stopped":
                return done
        self.record = self.launch.read("record.json") or {}
        self._await_process()
        hook("stop.before-term")
        self._ask()
        self._insist()
        result = self._verify()
        with self.launch.root.decisions():
            done = self.launch.read("stopped.json")
            if done and done["state"] == "stopped":
                return done  # another stop of the same launch was quicker
            write_json(self.launch.path("stopped.json"), result)
        return result

    def _await_process(self) -> None:
        """Wait until a launch that is under way can be told: from then on it either has a process or never will."""
        while is_locked(self.launch.lock) and not self.launch.has("process.json"):
            self._give_up_after(DEATH_TAKES_AT_MOST, "its supervisor has not started its process")
            time.sleep(0.02)
        noted = self.launch.read("noted.json") or {"processes": [], "shared_memory": []}
        ready = self.launch.read("ready.json") or {}
        self.shared_memory.update(noted["shared_memory"], ready.get("shared_memory", ()))
        if self.launch.process():
            self.seen.update(pid for pid, _ in noted["processes"])

    def _ask(self) -> None:
        """TERM, repeated, until nothing lives, or asking has no point any more, or the grace is over."""
        process = self.launch.process() or {}
        is_server = self.record.get("kind") == "server"
        engine_was_there = False
        alone_since = next_term = next_look = 0.0
        while True:
            members = self._members()
            now = time.monotonic()
            if not members or now - self.began >= self.grace:
                return
            if now >= next_look:
                next_look = now + 1.0
                self._collect(members)
            root = [one for one in members if one.identity == (process.get("pid"), process.get("start_time"))]
            above = _ancestors(root, members)  # what started a server that was adopted ends after it
            engine = [one for one in members if one not in root + above and b"resource_tracker" not in one.arguments()]
            engine_was_there = engine_was_there or bool(engine)
            if is_server and (not root or (engine_was_there and not engine)):
                alone_since = alone_since or now
                if now - alone_since >= (ROOT_HANGS_AFTER if root else ORPHANS_LEAVE_WITHIN):
                    return
            else:
                alone_since = 0.0
            if now >= next_term:
                next_term = now + TERM_EVERY
                self._progress("term", members)
                for one in root if is_server else members:  # a server's root ends its own children in order
                    send_signal(*one.identity, SIGTERM)
            self._pause(now)

    def _insist(self) -> None:
        """KILL, repeated, until two looks in a row find nobody: one look can miss a child that is just being born."""
        insisting_since = time.monotonic()
        empty_looks = 0
        while empty_looks < 2:
            now = time.monotonic()
            members = self._members()
            empty_looks = 0 if members else empty_looks + 1
            if members:
                if not self.killed:
                    self._collect(members)
                    hook("stop.before-kill")
                    self._progress("kill", members)
                names = ", ".join(f"{one.pid} ({one.command})" for one in members[:5])
                self._give_up_after(
                    insisting_since - self.began + DEATH_TAKES_AT_MOST, f"processes survive SIGKILL: {names}"
                )
                for one in members:
                    send_signal(*one.identity, SIGKILL)
                    self.killed.add(one.identity)
            self._pause(now)

    def _verify(self) -> Json:
        self._progress("verify", [])
        ending = self._await_exit()
        memory, explained = self._await_gpus()
        self._await_ports()
        shared_memory = self._remove_shared_memory()
        sockets = self._remove_sockets()
        remove_file(self.launch.path("api_key"))
        if self.launch.process() and not self.launch.has("ended.json"):
            write_json(self.launch.path("ended.json"), {"at": time.time()})
        return {
            "id": self.launch.id,
            "state": "stopped" if explained else "memory_unexplained",
            "exit": ending,
            "killed": len(self.killed),
            "seconds": round(time.monotonic() - self.began, 3),
            "processes_left": 0,
            "gpu_processes_left": 0,
            "ports_closed": True,
            "shared_memory_removed": shared_memory,
            "sockets_removed": sockets,
            "memory": memory,
        }

    def _members(self) -> List[Process]:
        members = self.launch.members(ProcessTable())
        self.seen.update(one.pid for one in members)
        return members

    def _collect(self, members: List[Process]) -> None:
        for one in members:
            self.shared_memory |= shared_memory_of(one.pid)

    def _await_exit(self) -> Optional[Json]:
        """Return the exit status; the supervisor writes it right after the end."""
        deadline = time.monotonic() + 5.0
        while True:
            ending = self.launch.exit()
            if ending or not self.launch.has("process.json") or time.monotonic() > deadline:
                return ending
            time.sleep(0.01)

    def _await_gpus(self) -> Tuple[Json, bool]:
        """Wait until nvidia-smi lists no process of ours; return memory before and now, and whether it is explained."""
        before: Dict[str, Optional[int]] = self.record.get("memory_before", {})
        if not before or self.launch.process() is None:
            return {}, True  # what never ran, or ran before a reboot, holds nothing
        began = time.monotonic()
        while True:
            report, table = GpuReport(), ProcessTable()
            alive = {process.pid for process in table.processes.values() if not process.gone}
            left = {app["pid"] for app in report.apps if app["pid"] in self.seen - alive and app["gpu_uuid"] in before}
            memory = {uuid: {"before": used, "now": report.memory_used(uuid)} for uuid, used in before.items()}
            explained = bool(report.apps) or all(
                self._is_back(uuid, one["before"], one["now"], table) for uuid, one in memory.items()
            )
            if explained and not left:
                return memory, True
            if left:
                self._give_up_after(
                    began - self.began + DEATH_TAKES_AT_MOST, f"nvidia-smi still lists its processes {sorted(left)}"
                )
            elif time.monotonic() - began > MEMORY_DRAINS_WITHIN:
                return memory, False
            time.sleep(0.25)

    def _is_back(self, uuid: str, before: Optional[int], now: Optional[int], table: ProcessTable) -> bool:
        """Return whether the memory in use is as before; where another launch uses the GPU too it can't be told.

        A GPU that told its memory before and does not now is not verified.
        """
        if before is None or (now is not None and now <= before + MEMORY_TOLERANCE_MIB):
            return True
        return any(
            uuid in [gpu["uuid"] for gpu in (other.read("record.json") or {}).get("gpus", [])]
            for other in self.launch.root.living(table)
        )

    def _await_ports(self) -> None:
        """Wait until no socket of ours listens; one that a living process of somebody else's took is not ours."""
        if self.launch.process() is None:
            return
        began = time.monotonic()
        while True:
            listening = listener_inodes(self.record.get("ports", []))
            table = ProcessTable() if listening else None
            if table is None or all(socket_owner(one, table.processes.values()) for one in listening.values()):
                return
            self._give_up_after(began - self.began + 5.0, f"port {min(listening)} is still listened on")
            time.sleep(0.1)

    def _remove_shared_memory(self) -> List[str]:
        """Remove what its processes left in /dev/shm, except what a living process of somebody else's uses."""
        left = {path for path in self.shared_memory if os.path.exists(path)}
        if left:
            for process in ProcessTable().processes.values():
                left -= shared_memory_of(process.pid)
        return sorted(path for path in left if remove_file(path))

    def _remove_sockets(self) -> List[str]:
        if self.record.get("kind") == "run":
            return []
        import shutil

        folder = self.launch.socket_folder()
        left = sorted(f"{place}/{name}" for place, _, names in os.walk(folder) for name in names)
        began = time.monotonic()
        while os.path.isdir(folder):
            shutil.rmtree(folder, ignore_errors=True)  # another stop of the same launch may be at it too
            self._give_up_after(began - self.began + 5.0, f"{folder} cannot be removed")
        return left

    def _progress(self, step: str, members: List[Process]) -> None:
        self.caller.send("progress", step=step, members=len(members))

    def _pause(self, look_began: float) -> None:
        """Wait between two looks, longer on a machine where looking takes long."""
        time.sleep(max(0.03, time.monotonic() - look_began))

    def _give_up_after(self, seconds: float, why: str) -> None:
        if time.monotonic() - self.began > seconds:
            raise Failure(
                "stop_not_verified",
                f"stop of {self.launch.id}: {why} after {time.monotonic() - self.began:.0f} s; nothing is released. "
                "Stop it again; if that does not help, look at the machine",
            )


def _ancestors(root: List[Process], members: List[Process]) -> List[Process]:
    """Return the members above a process."""
    by_pid = {one.pid: one for one in members}
    found: List[Process] = []
    while root and root[0].parent in by_pid:
        root = [by_pid[root[0].parent]]
        found += root
    return found


# ---------------------------------------------------------------------------------------------------------------------
# run, read_log


class Run:
    """A launch whose end is waited for."""

    def __init__(
        self,
        launch: Launch,
        created: bool,
        caller: Caller,
        interval: float,
        timeout: Optional[float],
        output: Optional[str] = None,
    ) -> None:
        self.launch = launch
        self.created = created
        self.caller = caller
        self.interval = interval
        self.timeout = timeout  # seconds since its start, whoever waited meanwhile
        self.output = output  # path of what it tells its caller

    def wait(self) -> Json:
        """Wait for the end of the first process (or of stdin) and return how it went."""
        import hashlib

        ending = self._await_exit()
        hook("run.before-reply")
        digest = hashlib.sha256()
        size = self.launch.log.size()
        offset = 0
        while offset < size:
            _, piece = self.launch.log.read(offset, min(1 << 20, size - offset))
            digest.update(piece)
            offset += len(piece)
        process = self.launch.read("process.json") or {}
        output, problem = read_output(self.output, self.launch.secret_marks()) if self.output else (None, "")
        return {
            "id": self.launch.id,
            "exit": ending,
            "log": self.launch.log.path,
            "size": size,
            "sha256": digest.hexdigest(),
            "tail": self.launch.log.tail(self.launch.secret_marks()),
            "started_at": process.get("started_at"),
            "created": self.created,
            "timed_out": self.launch.has("timed_out.json"),
            "output": output,
            "output_problem": problem,
        }

    def _await_exit(self) -> Optional[Json]:
        next_beat = time.monotonic() + 2.0
        while True:
            ending = self.launch.exit()
            if ending:
                return ending
            process = self.launch.process()
            if process is None and not is_locked(self.launch.lock) and not self.launch.has("process.json"):
                raise Failure(
                    "launch_lost", f"run {self.launch.id}: its supervisor ended before it ran; launch it again"
                )
            if self._is_over_time(process):
                write_json(self.launch.path("timed_out.json"), {"at": time.time(), "timeout": self.timeout})
                Stop(self.launch, TIMEOUT_GRACE, self.caller).run()
                continue
            if self._wait(process, max(0.0, min(self.interval, next_beat - time.monotonic()))):
                return None
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + 2.0
                self.caller.send("beat", **self._beat())

    def _beat(self) -> Json:
        return {"log_size": self.launch.log.size(), "members": len(self.launch.members(ProcessTable()))}

    def _is_over_time(self, process: Optional[Json]) -> bool:
        started_at = process.get("started_at") if process else None
        return self.timeout is not None and started_at is not None and time.time() - started_at > self.timeout

    def _wait(self, process: Optional[Json], seconds: float) -> bool:
        """Wait for the process's end; return whether stdin ended."""
        descriptor = _open_pidfd(process["pid"]) if process else None
        if descriptor is None or not process or not is_alive(process["pid"], process["start_time"]):
            seconds = min(seconds, 0.05)  # it ends or starts in this moment, or the machine can't tell us
        sources = [0] if descriptor is None else [0, descriptor]
        ready, _, _ = select.select(sources, [], [], seconds)
        if descriptor is not None:
            os.close(descriptor)
            if descriptor in ready:
                time.sleep(0.005)  # its supervisor has seen it too and writes exit.json now
        return 0 in ready and not os.read(0, 65536)


def read_log(
    launch: Launch, offset: int, limit: Optional[int], since: Optional[float], follow: bool, caller: Caller
) -> Json:
    """Send a log from ``offset`` on (negative: from its end) or from ``since`` on, at most ``limit`` bytes of it.

    A ``log`` line's offset is behind the one before it where bytes in between are no longer kept. Its ``data`` is
    compressed: a log shrinks to a tenth, and what every byte costs on its way is more than that takes.
    """
    import base64
    import zlib

    log = launch.log
    if not launch.has("record.json"):
        raise Failure(
            "unknown_launch", f"there is no launch {launch.id} on this machine; observe lists those there are"
        )
    if since is not None:
        offset = log.offset_at(since)
    elif offset < 0:
        offset = max(0, log.size() + offset)
    left = sys.maxsize if limit is None else limit
    pause = 0.0
    while True:
        ended = has_ended(launch)  # asked first: what it wrote before its end is then seen below
        size = log.size()
        # A log that grew grows on.
        pause = 0.0 if offset < size else min(LOG_LOOK_EVERY, 2 * pause + 0.005)
        while left and offset < size:
            offset, piece = log.read(offset, min(LOG_CHUNK_BYTES, left))
            if not piece:
                break  # its folder was removed in this moment
            caller.send("log", offset=offset, data=base64.b64encode(zlib.compress(piece, 1)).decode())
            offset += len(piece)
            left -= len(piece)
        if not follow or ended or not left or caller.has_left(pause):
            return {"offset": offset, "start": log.start(), "size": log.size(), "ended": ended}


def has_ended(launch: Launch) -> bool:
    """Return whether a launch writes no more."""
    if launch.has("ended.json"):
        return True
    if is_locked(launch.lock):
        return False
    return not launch.members(ProcessTable())


# ---------------------------------------------------------------------------------------------------------------------
# watch: probes that never wait for one another


class Exchange:
    """One HTTP exchange on a socket that never blocks: small, because a machine's servers are asked all the time."""

    def __init__(self, port: int, method: str, path: str, key: Optional[str], body: bytes, seconds: float) -> None:
        import socket

        self.deadline = time.monotonic() + seconds
        self.status: Optional[int] = None
        self.problem: Optional[str] = None  # refused, broken, timeout
        self.body = b""
        self._received = b""
        headers = [f"{method} {path} HTTP/1.0", f"Host: {loopback()}:{port}", "Connection: close"]
        headers += [f"Authorization: Bearer {key}"] if key else []
        headers += ["Content-Type: application/json", f"Content-Length: {len(body)}"] if body else []
        self._to_send = "\r\n".join([*headers, "", ""]).encode() + body
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self._connected = False
        if self.socket.connect_ex((loopback(), port)) not in (0, errno.EINPROGRESS):
            self._end("refused")

    @property
    def is_done(self) -> bool:
        """Return whether there is an answer or a problem."""
        return self.status is not None or self.problem is not None

    @property
    def wants(self) -> int:
        """Return the poll events that it waits for."""
        return select.POLLOUT if self._to_send else select.POLLIN

    def go_on(self) -> None:
        """Do what can be done without waiting."""
        import socket

        try:
            if not self._connected:
                if self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    self._end("refused")
                    return
                self._connected = True
            if self._to_send:
                self._to_send = self._to_send[self.socket.send(self._to_send) :]
                return
            piece = self.socket.recv(262144)
        except BlockingIOError:
            return
        except OSError:
            self._end("broken")
            return
        self._received += piece
        if not self._is_complete(at_end=not piece) and not piece:
            self._end("broken")
        if len(self._received) > 4_000_000:
            self._end("broken")

    def expire(self) -> None:
        """Give up if its time is over."""
        if not self.is_done and time.monotonic() >= self.deadline:
            self._end("timeout")

    def _is_complete(self, at_end: bool) -> bool:
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return False
        lines = head.split(b"\r\n")
        words = lines[0].split()
        lengths = [line.split(b":")[1].strip() for line in lines if line.lower().startswith(b"content-length:")]
        length = int(lengths[0]) if lengths and lengths[0].isdigit() else None
        if len(words) < 2 or not words[1].isdigit() or (len(body) < length if length is not None else not at_end):
            return False
        self.body = body
        self.status = int(words[1])
        self.socket.close()
        return True

    def _end(self, problem: str) -> None:
        self.problem = problem
        self.socket.close()


HEALTH_EVERY = 2.0
HEALTH_TIMEOUT = 5.0
SUSPECT_EVERY = 0.1  # after the end of one of its processes, for so long
SUSPECT_FOR = 3.0
FIRST_COMPLETION_TIMEOUT = 120.0  # the first one may compile kernels
TIMEOUTS_UNTIL_UNHEALTHY = 3  # a busy server answers late; a refused connection needs no second try
METRICS = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:generation_tokens_total": "generation_tokens",
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:kv_cache_usage_perc": "kv_cache_usage",
    "vllm:request_success_total": "finished",
}
CANARY_ADDS = {"generation_tokens": 1.0, "prompt_tokens": 8.0, "finished": 1.0}  # to the counters, at most
# For progress only; readiness never depends on them. From vLLM's log lines, in the order in which they come.
STAGES = (
    ("download", (b"Downloading", b"downloading", b"Fetching ", b".safetensors: ")),  # not download_dir=None
    ("load", (b"Starting to load model", b"Loading safetensors", b"Loading weights")),
    ("compile", (b"Warming up", b"torch.compile", b"Capturing CUDA graph", b"KV cache size")),
    ("serve", (b"Starting vLLM server", b"Application startup complete")),
)


class Pace:
    """How often a watch does what, in seconds; tests are in a greater hurry than the defaults."""

    def __init__(self, request: Request) -> None:
        self.interval = request.number("interval", 0.5, 0.01, 60.0)
        self.beat = request.number("beat", 5.0, 0.05, 3600.0)
        self.canary_every = request.number("canary_every", 30.0, 0.05, 3600.0)
        self.canary_timeout = request.number("canary_timeout", 20.0, 0.05, 3600.0)
        self.canary_retry = request.number("canary_retry", 5.0, 0.05, 3600.0)


class Kept:
    """What a watch has found out about a launch over time, from which the next watch goes on.

    Written in place and without waiting for the disk, because it is written often: what is lost makes a count begin
    anew, no more. Times are kept as seconds since 1970, and reckoned here by a clock that nobody sets.
    """

    SIZE = 512  # whatever was written before is covered

    def __init__(self, path: str) -> None:
        import json

        self.path = path
        self.values: Json = {}
        try:
            self.values = dict(json.loads(read_bytes(path) or b"{}"))
        except (ValueError, TypeError):
            return

    def save(self, values: Json) -> None:
        """Keep these values, too."""
        import json

        merged = {**self.values, **values}
        if merged == self.values:
            return
        self.values = merged
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(descriptor, json.dumps(merged).encode().ljust(self.SIZE), 0)
        finally:
            os.close(descriptor)

    def moment(self, name: str, default: float) -> float:
        """Return a kept time on the clock of ``time.monotonic``, not later than now."""
        kept = self.values.get(name)
        return default if kept is None else from_epoch(kept)


def to_epoch(moment: float) -> float:
    """Return a time of ``time.monotonic`` as seconds since 1970."""
    return round(moment + time.time() - time.monotonic(), 2)


def from_epoch(seconds: float) -> float:
    """Return seconds since 1970 as a time of ``time.monotonic``, not later than now."""
    return min(time.monotonic(), seconds - time.time() + time.monotonic())


class Progress:
    """Whether a server that is not ready yet is getting there, and for how long it has not.

    Progress is a log line that says something new, or 4 MiB that its processes have read, written or paged in. A line
    that comes again and again ('Waiting for core engine') is none, whatever the clock, the port or the waiting time in
    it. Nor is CPU time: vLLM's processes spin while they wait for one another, so a hung one may burn all it can get,
    and one that compiles for long is given its time by the budget of that stage. Only where the kernel does not tell
    the bytes does CPU time stand in for them: better a hang that is not found than a load that is ended.
    """

    STEP = 4 << 20
    TICKS = 100  # of CPU time in a second, as /proc counts on every machine that vLLM runs on
    LINES = 1000  # that are remembered

    def __init__(self, kept: Kept) -> None:
        self._at = kept.moment("progress_at", time.monotonic())
        self._moved: int = kept.values.get("moved", 0)
        self._read: int = kept.values.get("read", 0)
        self._lines: Dict[bytes, None] = {}

    def silent_seconds(self) -> float:
        """Return for how long there has been none."""
        return round(time.monotonic() - self._at, 3)

    def read(self, offset: int, piece: bytes) -> None:
        """Take in whole lines of the log; those that an earlier watch has read are only remembered."""
        known = max(0, self._read - offset)
        self._learn(piece[:known])
        if self._learn(piece[known:]):
            self._at = time.monotonic()
        self._read = max(self._read, offset + len(piece))

    def look(self, moved: int) -> None:
        """Take in how much its processes have moved; a process that came or went is progress as well."""
        if abs(moved - self._moved) >= self.STEP:
            self._at, self._moved = time.monotonic(), moved

    def values(self) -> Json:
        """Return what the next watch has to know."""
        return {"progress_at": to_epoch(self._at), "moved": self._moved, "read": self._read}

    def _learn(self, piece: bytes) -> bool:
        import re

        found_new = False
        for line in re.split(rb"[\r\n]+", piece):
            # Clocks, ports, and how long something has taken, but not '50% Completed | 2/4'.
            plain = re.sub(
                rb"\d*(:\d+)+([.,]\d+)?|\d+([.,]\d+)? ?(ms|s|sec|seconds?|min|minutes?)\b", b"", line
            ).strip()
            if plain:
                found_new = found_new or plain not in self._lines
                self._lines.pop(plain, None)
                self._lines[plain] = None
        while len(self._lines) > self.LINES:
            del self._lines[next(iter(self._lines))]
        return found_new


def bytes_moved(process: Process) -> int:
    """Return how much a process has read, written and paged in; see ``Progress`` for where that can't be told."""
    stat = read_bytes(f"/proc/{process.pid}/stat")
    return work_done(read_bytes(f"/proc/{process.pid}/io"), stat) if stat else 0


def work_done(io: Optional[bytes], stat: bytes) -> int:
    """Return the bytes that /proc/PID/io and the major page faults of /proc/PID/stat count, or CPU time for bytes."""
    fields = stat[stat.rindex(b")") + 2 :].split()
    if io is None:
        return (int(fields[11]) + int(fields[12])) * Progress.STEP // Progress.TICKS
    counters = dict(line.split(b": ") for line in io.splitlines())
    # Weights are mapped: from a disk that shows as read_bytes, from a network's file system as page faults only.
    return sum(int(counters[name]) for name in (b"rchar", b"wchar", b"read_bytes")) + int(fields[9]) * 4096


class Pulse:
    """Whether the engine of a ready server works, and since when nobody has used it.

    /health looks at one flag and answers 200 while the engine hangs. Counters that move prove an engine that works,
    however late a busy one answers. Only where they stand still a completion of one token is asked for, the canary;
    three in a row without an answer, and not one counter moved meanwhile, are the verdict, until one is answered or
    a counter moves.
    """

    STRIKES = 3
    COUNTERS = ("generation_tokens", "prompt_tokens", "finished")

    def __init__(self, pace: Pace, kept: Kept, ready_at: float) -> None:
        now = time.monotonic()
        self.metrics: Optional[Json] = None
        self.next_canary = now + pace.canary_every
        self._pace = pace
        self._strikes: int = kept.values.get("strikes", 0)
        self._counters: Json = kept.values.get("counters") or {}
        self._active_at = kept.moment("active_at", ready_at)
        self._own = dict(CANARY_ADDS)  # what counters may have moved by us and not by others: who made it ready asked
        self._moved_at = now
        self._read_at: Optional[float] = None
        self._cache_usage: Optional[float] = None
        self._asking_since: Optional[float] = None
        self._unanswered_since: Optional[float] = None
        if self._strikes:
            self.next_canary = now + pace.canary_retry

    @property
    def problem(self) -> Optional[str]:
        """Why its engine counts as hung."""
        return f"{self.STRIKES} completions in a row had no answer" if self._strikes >= self.STRIKES else None

    def wants_canary(self, now: float) -> bool:
        """Return whether a completion has to tell. Where there are no counters no verdict could follow."""
        waits = self._asking_since is not None or self._unanswered_since is not None
        return now >= self.next_canary and not waits and self._tells()

    def begin_canary(self, now: float) -> None:
        """Note that a completion was asked for."""
        self._asking_since = now
        self._own = dict(CANARY_ADDS)

    def end_canary(self, is_answered: bool, now: float) -> None:
        """Note how it went; one without an answer is judged once the counters have been read again."""
        began, self._asking_since = self._asking_since, None
        if is_answered:
            self._lives(now)
        else:
            self._unanswered_since = began

    def take(self, found: Json, now: float) -> None:
        """Take in what /metrics says now."""
        grown = {name: _growth(self._counters.get(name), found[name]) for name in self.COUNTERS}
        self._counters = {name: found[name] for name in self.COUNTERS}
        by_others = {}
        for name, amount in grown.items():
            own = min(amount, self._own[name])
            self._own[name] -= own
            by_others[name] = amount - own
        # Not `finished`, which clients that give up move too; a long prompt moves only the cache's usage for a while.
        cache_moved = self._cache_usage is not None and self._cache_usage != found["kv_cache_usage"]
        if grown["generation_tokens"] or grown["prompt_tokens"] or cache_moved:
            self._lives(now)
        self._cache_usage = found["kv_cache_usage"]
        queued = (found["running"] or 0.0) + (found["waiting"] or 0.0) - (self._asking_since is not None)
        if queued > 0 or any(by_others.values()):
            self._active_at = now
        rate = None
        if self._read_at is not None and found["generation_tokens"] is not None and now > self._read_at:
            rate = round(by_others["generation_tokens"] / (now - self._read_at), 3)
        self._read_at = now
        self.metrics = {name: value for name, value in found.items() if name != "finished"}
        self.metrics["tokens_per_second"] = rate
        self._judge(now)

    def idle_seconds(self) -> Optional[float]:
        """Return for how long nobody but us has asked for anything; None while that is not known."""
        return round(time.monotonic() - self._active_at, 3) if self._tells() else None

    def idle_since(self) -> Optional[float]:
        """Return since when (epoch) nobody has."""
        return to_epoch(self._active_at) if self._tells() else None

    def values(self) -> Json:
        """Return what the next watch has to know."""
        return {"active_at": to_epoch(self._active_at), "counters": self._counters, "strikes": self._strikes}

    def _tells(self) -> bool:
        """Return whether /metrics has been read and has vLLM's counters: --disable-log-stats leaves them out."""
        return self.metrics is not None and self._counters["generation_tokens"] is not None

    def _lives(self, now: float) -> None:
        self._moved_at = now
        self._strikes = 0
        self.next_canary = now + self._pace.canary_every

    def _judge(self, now: float) -> None:
        if self._unanswered_since is None:
            return
        if self._moved_at < self._unanswered_since:
            self._strikes = min(self._strikes + 1, self.STRIKES)
            is_sure = self._strikes == self.STRIKES  # then asked less often: each one stays in the engine's queue
            self.next_canary = now + (self._pace.canary_every if is_sure else self._pace.canary_retry)
        self._unanswered_since = None


def _growth(before: Optional[float], now: Optional[float]) -> float:
    """Return by how much a counter grew; one that is less than before began anew."""
    if before is None or now is None:
        return 0.0
    return now - before if now >= before else now


class Probe:
    """What asking one server over HTTP tells: readiness until it is ready, then its health, metrics and pulse.

    One exchange at a time, and a canary beside it, which takes its time where it matters. The ladder is /health,
    /v1/models with the served name, one completion of one token.
    """

    def __init__(self, launch: Launch, record: Json, kept: Kept, pace: Pace) -> None:
        self.launch = launch
        self.readiness = "process"
        self.pulse: Optional[Pulse] = None
        self.may_ask = True  # a server that was told to stop refuses completions while it drains
        self._exchange: Optional[Exchange] = None
        self._canary: Optional[Exchange] = None
        self._port = record["ports"][0] if record["ports"] else None
        self._model: Optional[str] = record["served_name"]
        self._key = launch.api_key()
        self._kept = kept
        self._pace = pace
        self._asked = "health"
        self._next_health = 0.0
        self._next_metrics = 0.0
        self._timeouts = 0
        self._suspect_until = 0.0
        self._health: Optional[bool] = None
        self._health_problem: Optional[str] = None

    def be_ready(self, since: float) -> None:
        """Go on with a server that has answered a completion: from then on it is its health that counts."""
        self.readiness = "ready"
        self.pulse = Pulse(self._pace, self._kept, since)

    @property
    def unhealthy_reason(self) -> Optional[str]:
        """Why a ready server counts as unhealthy."""
        return self._health_problem or (self.pulse.problem if self.pulse else None)

    @property
    def healthy(self) -> Optional[bool]:
        """Whether a ready server does its work; None while that is not known."""
        return False if self.unhealthy_reason else self._health

    def suspect(self) -> None:
        """Ask for the health at once, and often for a while: a server needs a moment to notice its engine's end."""
        self._next_health = 0.0
        self._suspect_until = time.monotonic() + SUSPECT_FOR

    def exchanges(self) -> List[Exchange]:
        """Return what is under way."""
        return [one for one in (self._exchange, self._canary) if one and not one.is_done]

    def step(self, now: float) -> float:
        """Take in what has come, start what is due; return when to be called next at the latest."""
        if self._port is None:
            return now + 60.0
        for exchange in self.exchanges():
            exchange.expire()
        if self._exchange and self._exchange.is_done:
            done, self._exchange = self._exchange, None
            self._take_in(done, now)
        if self.pulse and self._canary and self._canary.is_done:
            done, self._canary = self._canary, None
            self.pulse.end_canary(done.status is not None, now)
            self._next_metrics = now
        if self._exchange is None:
            self._ask_next(now)
        if self.pulse and self.may_ask and self._health and self._canary is None and self.pulse.wants_canary(now):
            self.pulse.begin_canary(now)
            self._canary = self._completion(self._pace.canary_timeout)
        return self._next_step(now)

    def close(self) -> None:
        """End what is under way."""
        for exchange in self.exchanges():
            exchange.socket.close()

    def _next_step(self, now: float) -> float:
        moments = [exchange.deadline for exchange in self.exchanges()]
        if any(one and one.is_done for one in (self._exchange, self._canary)):
            return now
        if self._exchange is None:
            moments += [self._next_health] + ([self._next_metrics] if self.pulse else [])
        if self.pulse and self._canary is None and self.pulse.next_canary > now:
            moments.append(self.pulse.next_canary)  # one that is due waits for metrics or health, which are awaited
        return min(moments)

    def _ask_next(self, now: float) -> None:
        if now >= self._next_health:
            self._ask_for_health()
        elif self.pulse and now >= self._next_metrics:
            self._next_metrics = now + self._pace.beat
            self._ask("metrics", "/metrics")

    def _ask_for_health(self) -> None:
        if self.readiness == "health":
            self._ask("models", "/v1/models")
        elif self.readiness == "models":
            self._asked = "completion"
            self._exchange = self._completion(FIRST_COMPLETION_TIMEOUT)
        else:
            self._ask("health", "/health")

    def _ask(self, what: str, path: str) -> None:
        self._asked = what
        self._exchange = Exchange(self._port or 0, "GET", path, self._key, b"", HEALTH_TIMEOUT)

    def _completion(self, seconds: float) -> Exchange:
        import json

        body = json.dumps({"model": self._model, "prompt": "1", "max_tokens": 1}).encode()
        return Exchange(self._port or 0, "POST", "/v1/completions", self._key, body, seconds)

    def _take_in(self, exchange: Exchange, now: float) -> None:
        good = exchange.status == 200
        if self._asked == "metrics":
            if self.pulse and good:
                self.pulse.take(parse_metrics(exchange.body), now)
        elif self.readiness == "ready":
            self._next_health = now + (SUSPECT_EVERY if good and now < self._suspect_until else HEALTH_EVERY)
            self._timeouts = self._timeouts + 1 if exchange.problem == "timeout" else 0
            if exchange.problem != "timeout" or self._timeouts >= TIMEOUTS_UNTIL_UNHEALTHY:
                self._health = good
                self._health_problem = None if good else _health_problem(exchange)
        elif good and (self._asked != "models" or self._is_listed(exchange.body)):
            self._next_health = now
            if self._asked == "completion":
                self._health = True
                self.be_ready(now)
            else:
                self.readiness = self._asked
        else:
            self._next_health = now + 0.25
            if exchange.problem == "refused":
                self.readiness = "process"

    def _is_listed(self, body: bytes) -> bool:
        import json

        try:
            names = [str(model["id"]) for model in json.loads(body)["data"]]
        except (ValueError, KeyError, TypeError):
            return False
        self._model = self._model or (names[0] if names else None)
        return self._model in names


def _health_problem(exchange: Exchange) -> str:
    if exchange.status is not None:
        return f"/health answered {exchange.status}"
    if exchange.problem == "timeout":
        return f"/health had no answer within {HEALTH_TIMEOUT:g} s, {TIMEOUTS_UNTIL_UNHEALTHY} times in a row"
    return "/health: the connection was " + ("refused" if exchange.problem == "refused" else "broken off")


def parse_metrics(text: bytes) -> Json:
    """Return the figures of ``METRICS`` in Prometheus text: sums over engines, the fullest KV cache (0 to 1)."""
    found: Json = dict.fromkeys(METRICS.values())
    for line in text.decode(errors="replace").splitlines():
        name = METRICS.get(line.split("{", 1)[0].split(" ", 1)[0])
        try:
            value = float(line.rsplit("}", 1)[-1].split()[-1 if "}" not in line else 0]) if name else 0.0
        except (ValueError, IndexError):
            continue
        if name and value - value == 0:  # neither NaN nor infinite
            before = found[name] or 0.0
            found[name] = max(before, value) if name == "kv_cache_usage" else before + value
    return found


class Watched:
    """One launch of a model server under watch."""

    def __init__(self, launch: Launch, pace: Pace) -> None:
        self.launch = launch
        self.observation: Json = {}
        self.probe: Optional[Probe] = None
        self.pidfd: Optional[int] = None
        self.member_pidfds: Dict[int, int] = {}  # descriptor by pid: of all its other processes
        self.changed_at = -1  # modification time of its folder when it was last looked at
        self._secret_marks: Json = {}  # as of the last look: its record is read when its folder changes
        self._pace = pace
        self._kept = Kept(launch.path("watched.json"))
        self._progress = Progress(self._kept)
        self._stage = "start"
        self._log_offset = 0

    def look(self, table: ProcessTable) -> None:
        """Look at it anew, and begin or end its probe as its first process begins or ends."""
        self.changed_at = _changed_at(self.launch.folder)
        self.observation = self.launch.observe(table)
        self._secret_marks = self.launch.secret_marks()
        if self.observation["state"] == "running" and not self.observation["exit"]:
            if self.probe is None:
                self.probe = Probe(self.launch, self.launch.read("record.json") or {}, self._kept, self._pace)
                if self.observation["readiness"] == "ready":
                    self.probe.be_ready(from_epoch((self.launch.read("ready.json") or {"at": time.time()})["at"]))
                self.pidfd = _open_pidfd(self.observation["pid"])
            self.probe.may_ask = not self.observation["stop_requested"]
            self._watch_members(table)
        else:
            self.close()

    def _watch_members(self, table: ProcessTable) -> None:
        """Be told when one of its processes ends. A server's engine and workers are there when it is ready."""
        for member in self.launch.members(table):
            if member.pid != self.observation["pid"] and member.pid not in self.member_pidfds:
                descriptor = _open_pidfd(member.pid)
                if descriptor is not None:
                    self.member_pidfds[member.pid] = descriptor

    def lose_member(self, descriptor: int) -> None:
        """Take in that one of its processes has ended: what that means its health will tell, within moments."""
        for pid, found in list(self.member_pidfds.items()):
            if found == descriptor:
                os.close(self.member_pidfds.pop(pid))
        if self.probe:
            self.probe.suspect()

    def needs_look(self) -> bool:
        """Return whether something may have changed: records are renamed into its folder, so the folder tells."""
        changed = _changed_at(self.launch.folder)
        if changed != self.changed_at or time.time_ns() - changed < 100_000_000:  # coarse clock of file systems
            return True
        state, ending = self.observation["state"], self.observation["exit"]
        if state == "running" and ending is None:
            return not is_alive(self.observation["pid"], self.observation["start_time"])
        return state in ("starting", "running")

    @property
    def is_loading(self) -> bool:
        """Whether its first process lives and has not answered a completion yet."""
        return self.probe is not None and self.probe.pulse is None

    def shown(self) -> Json:
        """Return its observation with what the probe knows."""
        return {**self.observation, **self._moving(), **self._probed(), "stage": self._stage}

    def beat(self) -> Json:
        """Return what a beat says of it."""
        log, pulse = self.launch.log, self.probe.pulse if self.probe else None
        return {
            "id": self.launch.id,
            "stage": self._stage,
            "readiness": self._probed().get("readiness", self.observation["readiness"]),
            "log_size": log.size(),
            "log_start": log.start(),
            "last_line": log.last_line(self._secret_marks),
            "metrics": pulse.metrics if pulse else None,
            "idle_since": pulse.idle_since() if pulse else None,
            **self._moving(),
        }

    def _probed(self) -> Json:
        names = ("readiness", "healthy", "unhealthy_reason")
        return {name: getattr(self.probe, name) for name in names} if self.probe else {}

    def _moving(self) -> Json:
        pulse = self.probe.pulse if self.probe else None
        return {
            "idle_seconds": pulse.idle_seconds() if pulse else None,
            "silent_seconds": self._progress.silent_seconds() if self.is_loading else None,
        }

    def keep(self) -> None:
        """Leave to the next watch what only watching tells."""
        if self.probe:
            self._kept.save(self.probe.pulse.values() if self.probe.pulse else self._progress.values())

    def measure(self, table: ProcessTable) -> None:
        """Look how much the processes of a server that is not ready yet have moved, but for what they printed."""
        self._progress.look(sum(map(bytes_moved, self.launch.members(table))) - self.launch.log.size())

    def follow_log(self) -> None:
        """Take stage and progress from the lines that came since the last call; who is ready needs no reading."""
        if self.probe and self.probe.pulse:
            self._stage = "serve"
            return
        offset, piece = self.launch.log.read(self._log_offset, 1 << 20)
        end = max(piece.rfind(b"\n"), piece.rfind(b"\r")) + 1
        end = end or (len(piece) if len(piece) == 1 << 20 else 0)
        self._log_offset = offset + end
        self._progress.read(offset, piece[:end])
        for stage, marks in STAGES:
            if any(mark in piece[:end] for mark in marks):
                self._stage = stage

    def close(self) -> None:
        """End its probe."""
        if self.probe:
            self.probe.close()
        self.probe = None
        if self.pidfd is not None:
            os.close(self.pidfd)
        self.pidfd = None
        for descriptor in self.member_pidfds.values():
            os.close(descriptor)
        self.member_pidfds = {}


def _changed_at(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except FileNotFoundError:
        return 0


class Watch:
    """All model servers of a machine in one loop: a line when something changes, a beat in between."""

    def __init__(self, root: Root, caller: Caller, pace: Pace) -> None:
        self.root = root
        self.caller = caller
        self.pace = pace
        self.servers: Dict[str, Watched] = {}
        self._folders: Dict[str, int] = {}
        self._told: object = None

    def run(self) -> Json:
        """Watch until stdin ends."""
        next_look = 0.0
        next_beat = 0.0
        while True:
            now = time.monotonic()
            if now >= next_look:
                next_look = now + self.pace.interval
                self._look()
            next_step = min([server.probe.step(now) for server in self.servers.values() if server.probe] or [next_look])
            self._remember_ready()
            for server in self._alive():
                server.follow_log()
            self._tell_changes()
            if now >= next_beat:
                next_beat = now + self.pace.beat
                self._beat()
            wake = min(next_look, next_step, next_beat)
            stdin_ended, process_ended = self._wait(max(0.0, wake - time.monotonic()))
            if stdin_ended:
                return {"ended": "stdin"}
            if process_ended:
                time.sleep(0.005)  # its supervisor has seen it too and writes exit.json now
                next_look = 0.0

    def _beat(self) -> None:
        loading = [server for server in self._alive() if server.is_loading]
        table = ProcessTable() if loading else None
        for server in self._alive():
            if table and server in loading:
                server.measure(table)
            server.keep()
        self.caller.send("beat", launches=[server.beat() for server in self._alive()])

    def _look(self) -> None:
        table: Optional[ProcessTable] = None
        if self._folders_changed():
            for launch in self.root.launches():
                if launch.id not in self.servers and not self._is_run(launch):
                    self.servers[launch.id] = Watched(launch, self.pace)
        for server in self.servers.values():
            if not server.observation or server.needs_look():
                table = table or ProcessTable()
                server.look(table)
        self._leave_out_old()

    def _is_run(self, launch: Launch) -> bool:
        return (launch.read("record.json") or {}).get("kind") != "server"

    def _folders_changed(self) -> bool:
        """Return whether a launch may have been added: only then are all of them listed."""
        before = self._folders
        base = f"{self.root.path}/launches"
        folders = [base] + [f"{base}/{name}" for name in _listing(base)]
        folders += [f"{folder}/{name}" for folder in folders[1:] for name in _listing(folder)]
        self._folders = {folder: _changed_at(folder) for folder in folders}
        newest = max(self._folders.values())
        return self._folders != before or time.time_ns() - newest < 2_000_000_000  # a record follows its folder

    def _alive(self) -> List[Watched]:
        return [
            server for server in self.servers.values() if server.observation.get("state") in ("starting", "running")
        ]

    def _leave_out_old(self) -> None:
        """Forget finished launches of servers that have a newer one."""
        newest: Dict[str, float] = {}
        for server in self.servers.values():
            name = server.launch.id.rsplit("/", 1)[0]
            newest[name] = max(newest.get(name, 0.0), server.observation["created_at"] or 0.0)
        for launch_id, server in list(self.servers.items()):
            if server.observation["state"] in ("exited", "absent"):
                is_newest = server.observation["created_at"] == newest[launch_id.rsplit("/", 1)[0]]
                if not is_newest:
                    server.close()
                    del self.servers[launch_id]

    def _remember_ready(self) -> None:
        """Write down who is ready: a later watch then need not ask for a completion again."""
        for server in self.servers.values():
            seen = server.observation
            if server.probe and server.probe.readiness == "ready" and seen["readiness"] != "ready":
                seen["readiness"] = "ready"
                # An engine that is killed cannot tell any more what it left in memory: noted before anybody may know.
                memory = [shared_memory_of(one.pid) for one in server.launch.members(ProcessTable())]
                ready = {"pid": seen["pid"], "start_time": seen["start_time"], "at": time.time()}
                ready["shared_memory"] = sorted(set().union(*memory))
                write_json(server.launch.path("ready.json"), ready)

    def _tell_changes(self) -> None:
        launches = [server.shown() for server in self.servers.values()]
        fields = ("id", "state", "exit", "pid", "readiness", "healthy", "unhealthy_reason", "stage", "stop_requested")
        telling = [[launch[field] for field in (*fields, "stopped")] for launch in launches]
        if telling != self._told:
            self._told = telling
            for server in self._alive():
                server.keep()  # whoever hears of it may begin another watch at once
            if any(launch["readiness"] == "ready" for launch in launches):
                hook("watch.before-change")
            self.caller.send("change", boot=self.root.boot, launches=launches)

    def _wait(self, seconds: float) -> Tuple[bool, bool]:
        """Wait for stdin, sockets and ends of processes; return whether stdin ended and whether a process did."""
        poller = select.poll()
        poller.register(0, select.POLLIN)
        exchanges: Dict[int, Exchange] = {}
        members: Dict[int, Watched] = {}
        for server in self.servers.values():
            for exchange in server.probe.exchanges() if server.probe else []:
                poller.register(exchange.socket, exchange.wants)
                exchanges[exchange.socket.fileno()] = exchange
            if server.pidfd is not None:
                poller.register(server.pidfd, select.POLLIN)
            for descriptor in server.member_pidfds.values():
                poller.register(descriptor, select.POLLIN)
                members[descriptor] = server
        stdin_ended = process_ended = False
        for descriptor, _ in poller.poll(seconds * 1000):
            if descriptor == 0:
                stdin_ended = not os.read(0, 65536)
            elif descriptor in exchanges:
                exchanges[descriptor].go_on()
            elif descriptor in members:
                members[descriptor].lose_member(descriptor)
            else:
                process_ended = True
        return stdin_ended, process_ended


# ---------------------------------------------------------------------------------------------------------------------
# inventory


def inventory(root: Root, program: Optional[str], wants_version: bool) -> Json:
    """Return what this machine is and has, and whose the processes on its GPUs are."""
    import socket

    report = GpuReport()
    if report.apps:
        table = ProcessTable()
        owners = {one.pid: launch.id for launch in root.living(table) for one in launch.members(table)}
        report.apps = [{**app, "launch": owners.get(app["pid"])} for app in report.apps]
    disk = os.statvfs(root.path)
    program = find_program(os.path.expanduser(program or "vllm"), os.environ.get("PATH"), "/")
    return {
        "boot": root.boot,
        "hostname": socket.gethostname(),
        "os": _os_name(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "home": os.path.expanduser("~"),
        "root": root.path,
        "disk_free_bytes": disk.f_bavail * disk.f_frsize,
        "driver": report.driver,
        "gpus": report.gpus,
        "gpu_state": report.state,
        "gpu_message": report.message,
        "compute_apps": report.apps,
        "vllm": {"program": program, "version": _vllm_version(program, wants_version) if program else None},
    }


def _os_name() -> str:
    for line in (read_bytes("/etc/os-release") or b"").decode(errors="replace").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.split("=", 1)[1].strip().strip("\"'")
    return os.uname().sysname


def _vllm_version(program: str, may_ask: bool) -> Optional[str]:
    """Return the version that is installed beside the program, or else (``may_ask``) the one that it says it is."""
    import re
    import subprocess

    first_line = (read_bytes(program) or b"").split(b"\n", 1)[0].decode(errors="replace")
    interpreter = first_line[2:].strip() if first_line.startswith("#!") else ""
    libraries = os.path.dirname(os.path.dirname(interpreter)) + "/lib"
    for python in sorted(_listing(libraries)) if interpreter.startswith("/") else []:
        for name in _listing(f"{libraries}/{python}/site-packages"):
            if name.startswith("vllm-") and name.endswith(".dist-info"):
                return name[len("vllm-") : -len(".dist-info")]
    if not may_ask:
        return None
    try:  # it imports torch first: a cold disk may take a minute
        done = subprocess.run(
            [program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=180, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    versions = re.findall(rb"\b\d+\.\d+[\w.+-]*", done.stdout)
    return versions[-1].decode() if versions and done.returncode == 0 else None


# ---------------------------------------------------------------------------------------------------------------------
# setup: its steps are launches whose program comes with the request, see setup_steps.py; Hugging Face's token


class SetupStep(Run):
    """A step of a setup, waited for like any run; what it prints is ours and may be told."""

    def outcome(self) -> Json:
        """Wait for its end and return how it went: what the step says of itself, and the end of its log."""
        result = self.wait()
        return {**result, "tail": without_credentials(result["tail"]), "outcome": self.launch.read("result.json")}

    def _beat(self) -> Json:
        return {
            **super()._beat(),
            "last_line": without_credentials(self.launch.log.last_line(self.launch.secret_marks())),
        }


def setup_step_request(request: Request, root: Root) -> LaunchRequest:
    """Return the launch that does one step: the program that was sent along, kept under its content's hash."""
    import hashlib
    import json

    launch = root.launch(request.text("id"))
    step, program = request.text("step"), request.text("program").encode()
    order = {
        "root": root.path,
        "result": launch.path("result.json"),
        "mount": request.texts("mount") or [],
        "models_path": request.optional_text("models_path") or "",
        "spec": request.optional_text("spec") or "",
        "version": request.optional_text("version") or "",
    }
    path = f"{root.path}/setup/steps_{hashlib.sha256(program).hexdigest()[:16]}.py"
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    if not os.path.exists(path):
        write_file(path, program)
    argv = [sys.executable, "-I", "-S", path, step, json.dumps(order)]
    return LaunchRequest(Request({"verb": "setup_step", "id": launch.id, "argv": argv}), kind="run")


def without_credentials(text: str) -> str:
    """Return a text without the passwords that URLs of package indexes may hold."""
    import re

    return re.sub(r"://[^/\s@]+@", "://***@", text)


def hf_token_path() -> str:
    """Return where Hugging Face's own programs look for their token."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = os.environ.get("HF_TOKEN_PATH") or f"{os.environ.get('HF_HOME') or cache + '/huggingface'}/token"
    return os.path.expanduser(path)


def keep_hf_token(token: str) -> Json:
    """Write a token where Hugging Face's own programs look for it; another one that is there stays."""
    path = hf_token_path()
    before = (read_bytes(path) or b"").strip()
    if before and before != token.encode():
        raise Failure(
            "hf_token_exists",
            f"{path} holds another token, which stays; remove that file on the machine to have this one there",
        )
    if not before:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_file(path, token.encode())
    return {"path": path, "written": not before}


# ---------------------------------------------------------------------------------------------------------------------
# Whether a machine is fit


def examine(root: Root, folder: Optional[str]) -> Json:
    """Return what may be in the way on this machine and no inventory tells; nothing of it stays."""
    import tempfile

    problem, bounded = "", False
    try:
        with tempfile.NamedTemporaryFile(dir=root.path) as file:
            file.write(b" " * 4096)
            file.flush()
            bounded = _punch_hole(file.name, 0, 4096)
    except OSError as error:
        problem = f"{root.path}: {error.strerror}"
    home = os.statvfs(os.path.expanduser("~"))
    return {
        "write_problem": problem,
        "disk_free_bytes": home.f_bavail * home.f_frsize,
        "bounds_logs": bounded,
        "reaps_orphans": _reaps_orphans(),
        # Whether there is one, never what it is.
        "hf_token": bool(os.environ.get("HF_TOKEN")) or os.path.exists(hf_token_path()),
        "folder_writable": None if folder is None else os.access(os.path.expanduser(folder), os.W_OK | os.X_OK),
    }


def _reaps_orphans() -> bool:
    """Return whether whoever adopts orphans here (PID 1 of a container, often) takes their exit codes."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        orphan = os.fork()
        if orphan:
            os.write(writing, b"%d" % orphan)
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    orphan = int(os.read(reading, 32))
    os.close(reading)
    deadline = time.monotonic() + 1.0
    while os.path.exists(f"/proc/{orphan}"):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


# ---------------------------------------------------------------------------------------------------------------------
# Verbs


def do_examine(request: Request, root: Root, caller: Caller) -> Json:
    """Answer ``examine``."""
    del caller
    folder = request.optional_text("folder")
    request.finish()
    return examine(root, folder)


def do_inventory(request: Request, root: Root, caller: Caller) -> Json:
    """Answer ``inventory``."""
    del caller
    program, wants_version = request.optional_text("vllm"), request.flag("vllm_version")
    request.finish()
    return inventory(root, program, wants_version)


def do_launch(request: Request, root: Root, caller: Caller) -> Json:
    """Answer ``launch``."""
    del caller
    wanted = LaunchRequest(request)
    request.finish()
    launch, created = launch_once(root, wanted)
    hook("launch.before-reply")
    return {**launch.observe(ProcessTable()), "created": created}


def do_adopt(request: Request, root: Root, caller: Caller) -> Json:
    """Answer ``adopt``."""
    del caller
    adoption = Adoption(root, request)
    request.finish()
    launch, created = adoption.once()
    hook("adopt.before-reply")
    return {**launch.observe(ProcessTable()), "created": created}


def do_observe(request: Request, root: Root, caller: Caller) -> Json:
    """Answer ``observe``."""
    del caller
    ids = request.texts("ids")
    request.finish()
    launches = root.launches() if ids is None else [root.launch(launch_id) for launch_id in ids]
    table = ProcessTable()
    return {"boot": root.boot, "now": time.time(), "launches": [launch.observe(table) for launch in launches]}


def do_watch(request: Request, root: Root, caller: Caller) -> Json:
    """Answer ``watch``."""
    pace = Pace(request)
    request.finish()
    return Watch(root, caller, pace).run()


def do_stop(request: Request, root: Root, caller: Caller) -> Json:
    """Answer ``stop``; it goes on when its caller is lost."""
    import signal

    launch, grace = root.launch(request.text("id")), request.number("grace", 10.0, 0.0, 86400.0)
    request.finish()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    caller.may_be_lost = True
    result = Stop(launch, grace, caller).run()
    hook("stop.before-reply")
    return result


def do_run(request: Request, root: Root, caller: Caller) -> Json:
    """Answer ``run``."""
    wanted, interval = LaunchRequest(request, kind="run"), request.number("interval", 0.5, 0.01, 60.0)
    timeout = request.number("timeout", 0.0, 0.0, 365 * 86400.0) or None
    request.finish()
    launch, created = launch_once(root, wanted)
    output = wanted.exchange(root, "output") if wanted.wants_output else None
    return Run(launch, created, caller, interval, timeout, output).wait()


def do_read_log(request: Request, root: Root, caller: Caller) -> Json:
    """Answer ``read_log``."""
    launch, offset, limit = root.launch(request.text("id")), request.integer("offset") or 0, request.integer("limit")
    since, follow = request.moment("since"), request.flag("follow")
    request.finish()
    if limit is not None and limit < 0:
        raise Failure("bad_request", f"read_log of {launch.id}: limit must not be negative, but is {limit}")
    return read_log(launch, offset, limit, since, follow, caller)


def do_connection(request: Request, root: Root, caller: Caller) -> Json:
    """Answer ``connection``: where a model server listens, and its key, for whoever may log in here."""
    del caller
    launch = root.launch(request.text("id"))
    request.finish()
    return connection(launch, "connection")


def do_log_tail(request: Request, root: Root, caller: Caller) -> Json:
    """Answer ``log_tail``: the last 4 KiB of a log as they may be kept anywhere, without the launch's secrets."""
    del caller
    launch = root.launch(request.text("id"))
    request.finish()
    return {"text": launch.log.tail(launch.secret_marks())}


def do_setup_step(request: Request, root: Root, caller: Caller) -> Json:
    """Answer ``setup_step``: do a step, or find the step of this id again."""
    timeout = request.number("timeout", 0.0, 0.0, 86400.0) or None
    wanted = setup_step_request(request, root)
    request.finish()
    launch, created = launch_once(root, wanted)
    return SetupStep(launch, created, caller, 0.5, timeout).outcome()


def do_hf_token(request: Request, root: Root, caller: Caller) -> Json:
    """Answer ``hf_token``."""
    del root, caller
    token = request.text("token")
    request.finish()
    return keep_hf_token(token)


VERBS: Dict[str, Callable[[Request, Root, Caller], Json]] = {
    "inventory": do_inventory,
    "launch": do_launch,
    "adopt": do_adopt,
    "observe": do_observe,
    "watch": do_watch,
    "stop": do_stop,
    "run": do_run,
    "read_log": do_read_log,
    "connection": do_connection,
    "examine": do_examine,
    "log_tail": do_log_tail,
    "setup_step": do_setup_step,
    "hf_token": do_hf_token,
}


def answer(caller: Caller) -> Json:
    """Do what the request on stdin asks for."""
    import json

    try:
        fields = json.loads(caller.read_request())
    except (ValueError, RecursionError) as error:
        raise Failure("bad_request", f"the request is not JSON ({error}); send one object on one line") from None
    if not isinstance(fields, dict):
        raise Failure("bad_request", "the request must be a JSON object; send one object on one line")
    request = Request(fields)
    if request.verb not in VERBS:
        raise Failure("unknown_verb", f"there is no verb {request.verb[:80]!r}; there are {', '.join(VERBS)}")
    return VERBS[request.verb](request, Root(request.root), caller)


def main() -> int:
    """Answer one request; return the exit code."""
    os.umask(0o077)
    caller = Caller()
    try:
        caller.greet()
        try:
            result = answer(caller)
        except Failure as failure:
            caller.send("error", code=failure.code, message=failure.message)
            return 1
        except OSError as error:
            message = f"{error}; look at the machine's disk and permissions, then ask again"
            is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            caller.send("error", code="disk_full" if is_full else "machine_error", message=message)
            return 1
        except CallerLost:
            raise
        except Exception as error:  # noqa: BLE001 - a caller must never be left without an answer
            import traceback

            traceback.print_exc()
            message = (
                f"the podlet has a bug: {type(error).__name__}: {error}; its traceback is on stderr, please report it"
            )
            caller.send("error", code="internal", message=message)
            return 1
        caller.send("result", result=result)
    except CallerLost:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
