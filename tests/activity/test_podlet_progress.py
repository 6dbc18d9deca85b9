"""The podlet's watch over servers that load: progress is told from its appearance."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from podlet import podlet
from tests.activity.podlet_harness import Conversation, Json, Machine, beat_of

LAUNCH = "pod/tiny/1"
MIB = 1 << 20


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with Machine(tmp_path / "machine") as machine:
        yield machine


def watch(machine: Machine) -> Conversation:
    """Watch in a hurry."""
    return machine.start("watch", interval=0.05, beat=0.1)


def silence(conversation: Conversation, seconds: float = 1.0) -> Json:
    """Read until the server has been silent for so long."""
    return beat_of(conversation, LAUNCH, lambda beat: beat["silent_seconds"] > seconds, f"silent for {seconds} s")


def progress(conversation: Conversation, after: Json) -> Json:
    """Read until there was progress."""
    return beat_of(conversation, LAUNCH, lambda beat: beat["silent_seconds"] < after["silent_seconds"], "progress")


def move(machine: Machine, amount: int) -> None:
    """Let the server have moved so many bytes in all."""
    (machine.folder / ".moved").write_text(str(amount))
    (machine.folder / ".moved").rename(machine.folder / "moved")


def test_a_line_that_comes_again_and_again_is_no_progress(machine: Machine) -> None:
    machine.serve(LAUNCH, "--repeat=Waiting for core engine")
    conversation = watch(machine)
    hung = silence(conversation)
    beat_of(conversation, LAUNCH, lambda beat: beat["log_size"] > hung["log_size"] + 200, "its log still grows")
    hung = silence(conversation, hung["silent_seconds"])
    with machine.path(LAUNCH, "output.log").open("a") as log:
        log.write("INFO [core.py:8] Core engine is there\n")
    progress(conversation, hung)


def test_a_bar_has_no_newline_before_it_is_full(machine: Machine) -> None:
    machine.serve(LAUNCH)
    conversation = watch(machine)
    for percent in (25, 50):
        still = silence(conversation)
        with machine.path(LAUNCH, "output.log").open("a") as log:
            log.write(f"Loading safetensors checkpoint shards:  {percent}% Completed | {percent // 25}/4\r")
        assert progress(conversation, still)["stage"] == "load"


def test_bytes_are_progress_and_cpu_time_is_not(machine: Machine) -> None:
    machine.serve(LAUNCH, "--spin", f"--move={machine.folder / 'moved'}")
    conversation = watch(machine)
    hung = silence(conversation)
    move(machine, 20 * MIB)
    progress(conversation, hung)
    silence(conversation)


def test_the_next_watch_goes_on_counting(machine: Machine) -> None:
    machine.serve(LAUNCH, "--repeat=Waiting for core engine", f"--move={machine.folder / 'moved'}")
    first = watch(machine)
    hung = silence(first)
    first.kill()
    second = watch(machine)
    told = beat_of(second, LAUNCH, lambda _: True, "a beat")
    assert told["silent_seconds"] >= hung["silent_seconds"], "the same lines were there before"
    hung = silence(second, told["silent_seconds"] + 1)
    second.kill()
    move(machine, 20 * MIB)
    third = watch(machine)
    progress(third, hung)


def test_a_server_that_is_ready_or_gone_is_not_silent(machine: Machine) -> None:
    machine.run("pod/job/1", "sleep", "1000")
    machine.serve(LAUNCH)
    conversation = watch(machine)
    silence(conversation, 0.0)
    machine.kill("root")
    line = conversation.read_until(lambda line: line["type"] == "beat" and not line["launches"], "it is gone")
    assert line["launches"] == []


def test_where_bytes_are_not_told_cpu_time_stands_in() -> None:
    stat = b"7 (a (b) c) S 1 7 7 0 -1 0 11 12 13 14 250 50 17 18 19 20 1 22 23"
    assert podlet.work_done(None, stat) == 3 * podlet.Progress.STEP
    io = b"rchar: 1000\nwchar: 200\nsyscr: 5\nsyscw: 5\nread_bytes: 30\nwrite_bytes: 7\ncancelled_write_bytes: 0\n"
    assert podlet.work_done(io, stat) == 1230 + 13 * 4096


@pytest.mark.parametrize(
    ("line", "again"),
    [
        (b"INFO 08-03 12:00:01 [core.py:7] Waiting", b"INFO 08-03 12:10:59 [core.py:7] Waiting"),
        (b"No block found in 60 seconds.", b"No block found in 120 seconds."),
        (b"still there after 1.5s", b"still there after 30 s"),
        (b'127.0.0.1:5000 - "GET /health" 503', b'127.0.0.1:50001 - "GET /health" 503'),
        (b"bar:  50%| | 2/4 [00:10<00:30, 5.00s/it]", b"bar:  50%| | 2/4 [01:10<02:30, 15.00s/it]"),
    ],
)
def test_what_only_tells_the_time_is_nothing_new(tmp_path: Path, line: bytes, again: bytes) -> None:
    progress = podlet.Progress(podlet.Kept(str(tmp_path / "kept")))
    assert progress._learn(line + b"\n")
    assert not progress._learn(again + b"\n")


@pytest.mark.parametrize(
    ("line", "next_line"),
    [
        (b"shards:  25% Completed | 1/4", b"shards:  50% Completed | 2/4"),
        (b"Capturing CUDA graphs 3 of 67", b"Capturing CUDA graphs 4 of 67"),
        (b"model.safetensors: 10M/5G", b"model.safetensors: 20M/5G"),
    ],
)
def test_what_counts_on_is_new(tmp_path: Path, line: bytes, next_line: bytes) -> None:
    progress = podlet.Progress(podlet.Kept(str(tmp_path / "kept")))
    assert progress._learn(line + b"\n")
    assert progress._learn(next_line + b"\n")
