"""``podctl logs -f``, against ``ssh HOST tail -f`` over the same sshd; and what it loses with dropped connections."""

import asyncio
import itertools
import os
import random
import select
import shlex
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

from simulator.api import Settings, SimulatedMachine
from tests.bench.figure import Figure, by_turns
from tests.bench.site import PODCTL, Site

_SPEED_POD, _DROPS_POD = "bench-logs", "bench-drops"
_SERVER = "talkative"
_ROUNDS = 5
#: Bytes that the log grows by while it is followed, and how far it is ahead of its reader at most: of a server's log
#: the newest 64 MiB are kept, and who reads so slowly that he misses some is not what is measured here.
_BURST = 128 * 2**20
_AHEAD = 16 * 2**20
_PIECE = 2**20
_DROPS = 50
#: Bytes by which the log grows at a time, and seconds in between.
_STEP = 2_000
_PAUSE = 0.005
_LINE = 100
#: Seconds for what has been printed to arrive.
_PATIENCE = 60.0


async def logs(site: Site) -> list[Figure]:
    """Return our share of tail's bytes per second, and the bytes that were lost or doubled over dropped connections."""
    return [await _speed(site), await _drops(site)]


async def _speed(site: Site) -> Figure:
    name = "podctl logs -f, bytes per second / ssh HOST tail -f"
    if not shutil.which("ssh"):
        missing = "no OpenSSH here (Debian, Ubuntu: apt-get install openssh-server openssh-client)"
        return Figure(name=name, value=None, unit="ratio", bound=">=", limit=0.9, measured=missing)
    text = b"".join(_line(number) for number in range(_BURST // _LINE))
    async with site.pod(_SPEED_POD, Settings(load_seconds=0.2), openssh=True) as machine:
        await site.run(_podctl_start(_SPEED_POD))
        log = _log(machine)
        podctl = _podctl_logs(_SPEED_POD)
        tail = [*_ssh(machine), f"exec tail -c 0 -f {shlex.quote(str(log))}"]
        turns = await by_turns(
            lambda: asyncio.to_thread(_follow_burst, site, podctl, log, text),
            lambda: asyncio.to_thread(_follow_burst, site, tail, log, text),
            rounds=_ROUNDS,
        )
        await site.run([PODCTL, "stop", _SERVER, "--pod", _SPEED_POD])
    ours, theirs = (len(text) / seconds / 1e6 for seconds in turns.medians)
    return Figure(
        name=name,
        value=1 / turns.ratio,
        unit="ratio",
        bound=">=",
        limit=0.9,
        measured=f"{ours:.0f} MB/s / {theirs:.0f} MB/s, {_ROUNDS} times {len(text) / 1e6:.0f} MB each, over OpenSSH",
    )


def _follow_burst(site: Site, follower: Sequence[str], log: Path, text: bytes) -> float:
    """Return the seconds that a follower takes for ``text``, from its first byte written to its last one received."""
    with _following(site, follower, log) as output, log.open("ab", buffering=0) as file:
        started = perf_counter()
        written = received = 0
        while received < len(text):
            while written < len(text) and written - received < _AHEAD:
                written += file.write(text[written : written + _PIECE])
            piece = os.read(output, _PIECE)
            if not piece or piece != text[received : received + len(piece)]:
                raise RuntimeError(f"{shlex.join(follower)} gave something else than the log at byte {received}")
            received += len(piece)
        return perf_counter() - started


async def _drops(site: Site) -> Figure:
    received = bytearray()
    written = 0

    async def grow() -> None:
        nonlocal written
        for number in itertools.count(0, _STEP // _LINE):
            written += file.write(b"".join(_line(one) for one in range(number, number + _STEP // _LINE)))
            await asyncio.sleep(_PAUSE)

    async with site.pod(_DROPS_POD, Settings(load_seconds=0.2)) as machine:
        await site.run(_podctl_start(_DROPS_POD))
        log = _log(machine)
        with _following(site, _podctl_logs(_DROPS_POD), log) as output, log.open("ab", buffering=0) as file:
            receiving = asyncio.create_task(asyncio.to_thread(_receive, output, received))
            growing = asyncio.create_task(grow())
            for _ in range(_DROPS):
                before = written
                await _until_received(received, before + _STEP)
                await asyncio.sleep(random.uniform(0, 0.1))  # noqa: S311 - only to fall into any moment
                await machine.drop_connections()
            growing.cancel()
            await asyncio.gather(growing, return_exceptions=True)
            await _until_received(received, written)
        await receiving
        await site.run([PODCTL, "stop", _SERVER, "--pod", _DROPS_POD])
    return Figure(
        name="bytes of podctl logs -f lost or doubled over dropped connections",
        value=_lost_or_doubled(written, bytes(received)),
        unit="bytes",
        bound="<=",
        limit=0,
        measured=f"{_DROPS} drops while the log grew by {written / 1e6:.1f} MB",
    )


def _receive(output: int, received: bytearray) -> None:
    while piece := os.read(output, _PIECE):
        received += piece


async def _until_received(received: bytearray, size: int) -> None:
    """Wait until so much has arrived; that too little does within a minute is for the figure to tell."""
    deadline = perf_counter() + _PATIENCE
    while len(received) < size and perf_counter() < deadline:  # noqa: ASYNC110 - a thread receives
        await asyncio.sleep(0.005)


def _lost_or_doubled(written: int, received: bytes) -> int:
    """Return how many bytes of whole lines are missing, came more than once, or belong to no line."""
    wanted = Counter(_line(number) for number in range(written // _LINE))
    got = Counter(received.splitlines(keepends=True))
    return sum(len(line) * count for line, count in ((wanted - got) + (got - wanted)).items())


@contextmanager
def _following(site: Site, follower: Sequence[str], log: Path) -> Iterator[int]:
    """Run a follower; give its output once it is known to follow."""
    process = subprocess.Popen(
        follower,
        env=dict(site.environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
    )
    with process:
        try:
            if process.stdout is None:
                raise AssertionError("it was asked for")
            output = process.stdout.fileno()
            _await_following(output, log)
            yield output
        finally:
            process.kill()


def _await_following(output: int, log: Path) -> None:
    """Add lines to the log until one arrives, and take in all of them."""
    seen = b""
    with log.open("ab", buffering=0) as file:
        for number in itertools.count():
            mark = b"mark %d\n" % number
            file.write(mark)
            if select.select([output], [], [], 0.2)[0]:
                seen += os.read(output, _PIECE)
            if b"mark" in seen:
                break
    while not seen.endswith(mark):
        seen += os.read(output, _PIECE)


def _line(number: int) -> bytes:
    """Return a line as vLLM prints them, unlike any other."""
    tokens = number * 7919 % 100_000
    line = b"(APIServer pid=4711) INFO 11-21 10:00:00 [loggers.py:127] Engine 000: request %d, %d tokens" % (
        number,
        tokens,
    )
    return line[: _LINE - 1].ljust(_LINE - 1, b".") + b"\n"


def _log(machine: SimulatedMachine) -> Path:
    return machine.folder / "home" / ".podctl" / "launches" / machine.name / _SERVER / "1" / "output.log"


def _podctl_start(pod: str) -> list[str]:
    """Return what starts a server that prints nothing of its own while its log is measured."""
    return [PODCTL, "start", "bench/pretend", "--name", _SERVER, "--pod", pod, "--vllm", "--disable-uvicorn-access-log"]


def _podctl_logs(pod: str) -> list[str]:
    return [PODCTL, "logs", _SERVER, "--pod", pod, "--tail", "0", "-f"]


def _ssh(machine: SimulatedMachine) -> list[str]:
    known_hosts = machine.folder / "known_hosts"
    known_hosts.write_text(f"[{machine.address}]:{machine.port} {machine.host_key}\n")
    options = ["-F", "none", "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={known_hosts}"]
    return ["ssh", *options, *shlex.split(machine.ssh_command)[1:]]
