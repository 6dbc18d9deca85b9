"""The podlet's logs of model servers: bounded on disk, at offsets that stay true, readable from a point in time on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from podlet import podlet
from remote.podlet import log_piece
from tests.activity.podlet_harness import Conversation, Json, Machine, PodletError, wait_until

LIMIT = 1024 * 1024
LINE = b"line %015d of a log that is full of lines like this\n"
#: Prints as many lines as the file named first says, adding to what it has printed whenever that number grows.
TALKER = """
import os, sys, time
printed = 0
while True:
    try:
        wanted = int(open(sys.argv[1]).read() or 0)
    except FileNotFoundError:
        wanted = 0
    while printed < wanted:
        piece = b"".join(b"line %015d of a log that is full of lines like this\\n" % n
                         for n in range(printed, min(wanted, printed + 1000)))
        while piece:
            piece = piece[os.write(1, piece):]
        printed = min(wanted, printed + 1000)
    time.sleep(0.01)
"""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with Machine(tmp_path / "machine") as machine:
        yield machine


def talk(machine: Machine, launch_id: str = "pod/talks/1", **fields: object) -> None:
    """Launch a server that prints what ``say`` wants."""
    argv = [sys.executable, "-I", "-S", "-c", TALKER, str(machine.folder / "lines")]
    machine.call("launch", id=launch_id, kind="server", argv=argv, log_limit=LIMIT, **fields)


def say(machine: Machine, lines: int) -> None:
    """Let the server have printed ``lines`` lines in all, and wait until it has."""
    (machine.folder / ".lines").write_text(str(lines))
    (machine.folder / ".lines").rename(machine.folder / "lines")
    log = machine.path("pod/talks/1", "output.log")
    wait_until(lambda: log.exists() and log.stat().st_size == lines * len(LINE % 0), f"{lines} lines are printed")


def on_disk(machine: Machine) -> int:
    """Return the bytes that the log takes on disk."""
    return machine.path("pod/talks/1", "output.log").stat().st_blocks * 512


def rotated(machine: Machine, above: int = 0) -> int:
    """Wait until the log begins above an offset and fits its limit; return where it begins."""
    log = podlet.Log(str(machine.path("pod/talks/1")))

    def dropped() -> bool:
        # With more than three quarters left it is about to drop again.
        return log.start() > above and log.size() - log.start() <= LIMIT * 3 // 4 and on_disk(machine) <= LIMIT

    wait_until(dropped, "the oldest part is dropped")
    return log.start()


def read(machine: Machine, **fields: object) -> tuple[Json, list[tuple[int, bytes]]]:
    """Read the log; return the result and (offset, bytes) of every line of the answer."""
    conversation = machine.start("read_log", id="pod/talks/1", **fields)
    return conversation.result(), pieces(conversation)


def pieces(conversation: Conversation) -> list[tuple[int, bytes]]:
    """Return (offset, bytes) of every log line that came so far."""
    logs = [line for line in conversation.lines if line["type"] == "log"]
    return [(line["offset"], log_piece(line)) for line in logs]


def read_to(follow: Conversation, end: int) -> None:
    """Read until everything before an offset has come."""
    follow.read_until(
        lambda line: line["type"] == "log" and line["offset"] + len(log_piece(line)) == end,
        f"everything up to {end}",
    )


def expected(first: int, end: int) -> bytes:
    """Return what was printed between two offsets."""
    width = len(LINE % 0)
    printed = b"".join(LINE % number for number in range(first // width, -(-end // width)))
    return printed[first % width :][: end - first]


def test_the_oldest_part_is_dropped_and_offsets_stay_true(machine: Machine) -> None:
    talk(machine)
    lines = 10 * LIMIT // len(LINE % 0)
    say(machine, lines)
    start = rotated(machine)
    result, parts = read(machine, offset=0)
    size = lines * len(LINE % 0)
    assert (result["size"], result["offset"]) == (size, size)
    assert result["start"] == start == parts[0][0]
    assert size - start >= LIMIT // 4, "not more is dropped than has to be"
    assert b"".join(data for _, data in parts) == expected(start, size)
    assert start % len(LINE % 0) == 0, "what is kept begins with a whole line"


@pytest.mark.parametrize(("offset", "limit"), [(0, 100), (5, 100), (-1000, None), (-10 * LIMIT, 7)])
def test_a_dropped_place_is_read_from_the_first_byte_that_is_kept(
    machine: Machine, offset: int, limit: int | None
) -> None:
    talk(machine)
    say(machine, 40_000)
    start = rotated(machine)
    size = 40_000 * len(LINE % 0)
    result, parts = read(machine, offset=offset, limit=limit)
    begin = max(start, offset if offset >= 0 else size + offset)
    end = size if limit is None else begin + limit
    assert (result["offset"], result["start"]) == (end, start)
    assert parts[0][0] == begin
    assert b"".join(data for _, data in parts) == expected(begin, end)


def test_a_follower_that_keeps_up_gets_every_byte_across_rotations(machine: Machine) -> None:
    talk(machine)
    follow = machine.start("read_log", id="pod/talks/1", follow=True)
    lines = end = 0
    for _ in range(4):
        lines += LIMIT // 2 // len(LINE % 0)
        say(machine, lines)
        end = lines * len(LINE % 0)
        read_to(follow, end)
    assert rotated(machine) > 0
    parts = pieces(follow)
    assert b"".join(data for _, data in parts) == expected(0, end)
    assert [offset for offset, _ in parts[1:]] == [offset + len(data) for offset, data in parts[:-1]]


def test_a_follower_that_was_overtaken_goes_on_at_what_is_kept(machine: Machine) -> None:
    talk(machine)
    say(machine, 1000)
    follow = machine.start("read_log", id="pod/talks/1", follow=True)
    follow.read_until(lambda line: line["type"] == "log", "the first lines")
    last = pieces(follow)[-1]
    follow.process.send_signal(19)  # SIGSTOP: a follower whose connection takes nothing
    say(machine, 1000 + 4 * LIMIT // len(LINE % 0))
    start = rotated(machine, above=last[0] + len(last[1]))
    follow.process.send_signal(18)
    size = machine.path("pod/talks/1", "output.log").stat().st_size
    read_to(follow, size)
    after = [part for part in pieces(follow) if part[0] >= start]
    assert after[0][0] == start
    assert b"".join(data for _, data in after) == expected(start, size)
    assert all(data == expected(offset, offset + len(data)) for offset, data in pieces(follow)), "no byte of a hole"


def test_an_orphans_log_is_bounded_too(machine: Machine) -> None:
    """Its root is gone, and it goes on printing."""
    script = 'echo $$ > "$0"; "$@" & exec sleep 1000'
    argv = ["sh", "-c", script, str(machine.notes / "root"), sys.executable, "-I", "-S", "-c", TALKER]
    argv.append(str(machine.folder / "lines"))
    machine.call("launch", id="pod/talks/1", kind="server", argv=argv, log_limit=LIMIT)
    say(machine, 10)
    machine.kill("root")
    say(machine, 4 * LIMIT // len(LINE % 0))
    rotated(machine)


def test_a_runs_log_is_kept_whole(machine: Machine) -> None:
    script = "i=0; while [ $i -lt 20000 ]; do echo $i of a run whose digest is a result; i=$((i+1)); done"
    result = machine.call("run", id="pod/talks/1", argv=["sh", "-c", script])
    assert podlet.Log(str(machine.path("pod/talks/1"))).start() == 0
    assert on_disk(machine) >= result["size"]
    with pytest.raises(PodletError, match="log_limit"):
        machine.run("pod/talks/2", "true", log_limit=LIMIT)


def test_where_no_hole_can_be_punched_the_log_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on NFS before 4.2: the file system itself says no."""
    monkeypatch.setattr(podlet, "_punch_hole", lambda *_: False)
    content = (LINE % 0) * 10_000
    (tmp_path / "output.log").write_bytes(content)
    keeper = podlet.LogKeeper(str(tmp_path), 1000)
    keeper.look()
    log = podlet.Log(str(tmp_path))
    assert (log.start(), log.read(0, len(content))) == (0, (0, content))
    assert keeper.look() == podlet.MARK_EVERY, "it is not tried again and again"


def test_a_log_is_read_from_a_point_in_time_on(machine: Machine) -> None:
    talk(machine)
    width = len(LINE % 0)
    say(machine, 5_000)
    times = machine.path("pod/talks/1", "log_times")
    launched = float(times.read_text().split()[0])
    times.write_text(f"{launched} 0\n4000000000 {4000 * width}\n41000")  # the last one is only half there
    for since, first in ((launched - 1, 0), (4e9, 0), (5e9, 4000)):
        result, parts = read(machine, since=since, offset=77)
        assert (parts[0][0], result["offset"]) == (first * width, 5000 * width)
    times.write_text(f"1000000100.0 {1000 * width}\n1000000200.5 {3000 * width}\n")
    for since, first in ((0, 0), (1000000100.0, 0), (1000000150, 1000), (1000000200.5, 1000), (1000000201, 3000)):
        _, parts = read(machine, since=since, limit=10)
        assert parts[0] == (first * width, expected(first * width, first * width + 10)), since


def test_growth_is_marked_and_marks_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podlet, "MARK_EVERY", 0.0)
    monkeypatch.setattr(podlet, "MARKS_KEPT", 64)
    keeper = podlet.LogKeeper(str(tmp_path), None)
    log = podlet.Log(str(tmp_path))
    for number in range(1, 500):
        with (tmp_path / "output.log").open("ab") as file:
            file.write(b"x\n")
        keeper.look()
        times = log.times()
        assert len(times) <= 64
        assert times[-1][1] == 2 * number
        assert times == sorted(times)
        assert all(log.offset_at(at) < offset <= log.offset_at(at + 1e6) for at, offset in times if offset)
    keeper.look()
    assert log.times() == times, "a log that does not grow adds nothing"


def test_of_a_servers_old_launches_the_newest_ten_are_kept(machine: Machine) -> None:
    machine.run("pod/tiny/run", "true")
    machine.await_state("pod/tiny/run", "exited")
    machine.call("stop", id="pod/tiny/run", grace=0)
    for number in range(1, 13):
        machine.call("launch", id=f"pod/tiny/{number}", kind="server", argv=["true"])
        machine.await_state(f"pod/tiny/{number}", "exited")
        if number != 2:
            machine.call("stop", id=f"pod/tiny/{number}", grace=0)
    machine.call("launch", id="pod/other/1", kind="server", argv=["true"])
    machine.call("launch", id="pod/tiny/13", kind="server", argv=["sleep", "1000"])
    kept = sorted(path.name for path in machine.path("pod/tiny/x").parent.iterdir())
    # 1 is beyond the newest ten, 2 was never verified, 3 to 12 are the newest ten; a run's result stays
    assert kept == sorted(["run", "2", *map(str, range(3, 14))])
