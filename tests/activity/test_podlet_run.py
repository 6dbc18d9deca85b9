"""The podlet's run and read_log: done once, waited for by whoever asks, read without losing a byte."""

from __future__ import annotations

import hashlib
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from remote.podlet import log_piece
from tests.activity.podlet_harness import Conversation, Machine, PodletError, free_port, wait_until


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with Machine(tmp_path / "machine") as machine:
        yield machine


def start(machine: Machine, script: str, *arguments: str, **fields: object) -> Conversation:
    """Begin a run of a shell script."""
    return machine.start("run", id="task/ws/1", argv=["sh", "-c", script, "sh", *arguments], **fields)


def data(conversation: Conversation) -> bytes:
    """Return the bytes of all log lines, which must follow one another without a gap."""
    pieces = [line for line in conversation.lines if line["type"] == "log"]
    raw = [log_piece(line) for line in pieces]
    for piece, before, line in zip(raw[1:], raw, pieces, strict=False):
        assert len(before) + line["offset"] == pieces[pieces.index(line) + 1]["offset"]
        assert 0 < len(piece) <= 262_144
    return b"".join(raw)


def test_a_run_returns_how_it_went(machine: Machine) -> None:
    result = start(machine, "echo out; echo err >&2; exit 3", workspace="task/ws").result()
    assert (result["exit"]["code"], result["exit"]["signal"], result["exit"]["unknown"]) == (3, None, False)
    assert result["tail"] == "out\nerr\n"
    assert (result["size"], result["sha256"]) == (8, hashlib.sha256(b"out\nerr\n").hexdigest())
    assert Path(result["log"]).read_text() == "out\nerr\n"
    assert result["created"]


def test_a_run_is_told_and_tells_in_files_of_its_own(machine: Machine) -> None:
    script = 'test -O "$PODCTL_INPUT" && stat -c %a "$PODCTL_INPUT"; tr a-z A-Z < "$PODCTL_INPUT" > "$PODCTL_OUTPUT"'
    for attempt, told in (("1", "first"), ("2", "sécond")):
        run = machine.start(
            "run",
            id=f"task/_planner-1/{attempt}",
            argv=["sh", "-c", script],
            workspace="task/_planner-1",
            input=told,
            output=True,
        )
        result = run.result()
        assert (result["tail"], result["output_problem"]) == ("600\n", "")
        assert result["output"].casefold() == told
    assert (machine.root / "work/task/_planner-1/.podctl/input-1").read_text() == "first", "one an attempt"


def test_what_a_run_does_not_ask_for_it_is_not_given(machine: Machine) -> None:
    result = start(machine, 'echo "${PODCTL_INPUT-none} ${PODCTL_OUTPUT-none}"', workspace="task/ws").result()
    assert (result["tail"], result["output"], result["output_problem"]) == ("none none\n", None, "")


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("true", "it wrote nothing to the file"),
        ('mkdir "$PODCTL_OUTPUT"', "is no file"),
        ('mkfifo "$PODCTL_OUTPUT"; true', "is no file"),
        ('ln -s /etc/passwd "$PODCTL_OUTPUT"', "cannot be read"),
        ('head -c 262145 /dev/zero > "$PODCTL_OUTPUT"', "more than 262144 bytes"),
        (r'printf "\377\376" > "$PODCTL_OUTPUT"', "is not UTF-8"),
    ],
)
def test_output_that_cannot_be_used_is_told_as_such(machine: Machine, script: str, problem: str) -> None:
    result = start(machine, script, workspace="task/ws", output=True).result()
    assert result["output"] is None
    assert problem in result["output_problem"]


def test_secrets_are_not_in_the_output(machine: Machine) -> None:
    script = 'echo "it is $TOKEN" > "$PODCTL_OUTPUT"'
    result = start(machine, script, workspace="task/ws", output=True, secrets={"TOKEN": "t0ken-value"}).result()
    assert result["output"] == "it is ***\n"


def test_a_run_is_told_nothing_through_a_link_out_of_its_folder(machine: Machine) -> None:
    elsewhere = machine.folder / "elsewhere"
    elsewhere.mkdir()
    start(machine, 'ln -s "$1" .podctl', str(elsewhere), workspace="task/ws").result()
    with pytest.raises(PodletError, match="folder_taken"):
        machine.start("run", id="task/ws/2", argv=["true"], workspace="task/ws", input="told").result()
    assert not list(elsewhere.iterdir())


def test_a_run_beats_while_it_lasts(machine: Machine) -> None:
    run = start(machine, "echo hello; exec sleep 1000")
    beat = run.read_until(lambda line: line.get("log_size"), "a beat after its first line")
    assert beat == {"podlet": 1, "type": "beat", "log_size": 6, "members": 1}
    os.kill(machine.observe("task/ws/1")["pid"], signal.SIGKILL)
    assert run.result()["exit"]["signal"] == 9


@pytest.mark.parametrize("end", ["kill", "end_stdin"])
def test_a_run_is_attached_to_again_and_not_repeated(machine: Machine, end: str) -> None:
    script = 'echo started; while ! [ -e "$1" ]; do sleep 0.02; done; echo done'
    go = machine.folder / "go"
    first = start(machine, script, str(go))
    wait_until(lambda: machine.observe("task/ws/1")["log_size"] == 8, "it runs")
    getattr(first, end)()
    second = start(machine, script, str(go))
    go.touch()
    result = second.result()
    assert (result["exit"]["code"], result["tail"], result["created"]) == (0, "started\ndone\n", False)
    assert start(machine, script, str(go)).result() == result, "also after its end"


def test_a_run_that_ended_unreported_is_not_repeated(machine: Machine) -> None:
    machine.hold("run.before-reply")
    first = start(machine, "echo once; exit 4")
    machine.reached("run.before-reply")
    first.kill()
    machine.release("run.before-reply")
    result = start(machine, "echo once; exit 4").result()
    assert (result["exit"]["code"], result["tail"], result["created"]) == (4, "once\n", False)


def test_a_run_without_its_supervisor_ends_unknown(machine: Machine) -> None:
    run = start(machine, "exec sleep 1000")
    seen = machine.await_state("task/ws/1", "running")
    machine.kill_supervisor("task/ws/1")
    os.kill(seen["pid"], signal.SIGKILL)
    assert run.result()["exit"]["unknown"]


def test_a_run_ended_by_a_stop_says_so(machine: Machine) -> None:
    run = start(machine, "exec sleep 1000")
    machine.await_state("task/ws/1", "running")
    machine.call("stop", id="task/ws/1", grace=5)
    assert run.result()["exit"]["signal"] == signal.SIGTERM


def test_a_run_does_not_wait_for_what_it_left_behind(machine: Machine) -> None:
    result = start(machine, "sleep 1000 & exit 0").result()
    assert result["exit"]["code"] == 0
    assert machine.observe("task/ws/1")["members"] == 1


def test_secrets_are_not_in_the_tail(machine: Machine) -> None:
    port = free_port()
    machine.call("launch", **machine.server("pod/tiny/1", f"--port={port}", ports=[port], api_key=True))
    key = machine.path("pod/tiny/1", "api_key").read_text()
    script = 'echo "$OPENAI_API_KEY $TOKEN $TOKEN"'
    result = start(machine, script, server="pod/tiny/1", secrets={"TOKEN": "t0ken-value", "EMPTY": ""}).result()
    assert result["tail"] == "*** *** ***\n"
    assert key in Path(result["log"]).read_text(), "the log itself stays on the machine as it is"


@pytest.mark.parametrize("seed", range(5))
def test_no_part_of_a_secret_is_in_a_cut_tail(machine: Machine, seed: int) -> None:
    """Wherever the last 4 KiB begin: not even the end of a secret shows."""
    secret = "S3CRET" * 7
    padding = random.Random(seed).randint(4096 - len(secret) * 3, 4096)  # noqa: S311 - a test's choice
    script = 'printf "%s" "$1$TOKEN$2"'
    result = start(machine, script, "a" * 5000, "b" * padding, secrets={"TOKEN": secret}).result()
    assert len(result["tail"]) <= 4096
    assert set(result["tail"]) <= set("ab*")


def test_a_log_is_read_from_any_place(machine: Machine) -> None:
    content = b"".join(b"line %d\n" % number for number in range(40000))
    (machine.folder / "content").write_bytes(content)
    start(machine, 'cat "$1"', str(machine.folder / "content")).result()
    wait_until(machine.path("task/ws/1", "ended.json").exists, "nothing of it is left")
    everything = machine.start("read_log", id="task/ws/1", offset=0)
    assert everything.result() == {"offset": len(content), "start": 0, "size": len(content), "ended": True}
    assert data(everything) == content
    for offset, limit in ((5, 100), (-20, None), (-20, 5), (len(content), None), (len(content) + 9, None), (0, 0)):
        part = machine.start("read_log", id="task/ws/1", offset=offset, limit=limit)
        begin = offset if offset >= 0 else len(content) + offset
        expected = content[begin:] if limit is None else content[begin : begin + limit]
        assert part.result()["offset"] == begin + len(expected)
        assert data(part) == expected


def test_a_log_is_followed_to_its_end(machine: Machine) -> None:
    go = machine.folder / "go"
    machine.run("task/ws/1", "sh", "-c", 'echo one; while ! [ -e "$0" ]; do sleep 0.02; done; echo two', str(go))
    follow = machine.start("read_log", id="task/ws/1", follow=True)
    follow.read_until(lambda line: line["type"] == "log", "the first line")
    go.touch()
    assert follow.result() == {"offset": 8, "start": 0, "size": 8, "ended": True}
    assert data(follow) == b"one\ntwo\n"


def test_following_ends_with_stdin_or_at_the_limit(machine: Machine) -> None:
    machine.run("task/ws/1", "sh", "-c", "echo one; exec sleep 1000")
    follow = machine.start("read_log", id="task/ws/1", follow=True)
    follow.read_until(lambda line: line["type"] == "log", "the first line")
    follow.end_stdin()
    assert follow.result() == {"offset": 4, "start": 0, "size": 4, "ended": False}
    limited = machine.start("read_log", id="task/ws/1", follow=True, limit=2)
    assert limited.result()["offset"] == 2


def test_the_log_of_nothing_is_an_error(machine: Machine) -> None:
    with pytest.raises(PodletError, match="task/none/1") as refused:
        machine.call("read_log", id="task/none/1")
    assert refused.value.code == "unknown_launch"


def test_a_run_that_takes_too_long_is_stopped_also_by_whoever_attaches_later(machine: Machine) -> None:
    first = start(machine, "echo started; exec sleep 1000", timeout=1000)
    wait_until(lambda: machine.observe("task/ws/1")["log_size"] == 8, "it runs")
    first.process.kill()
    first.process.wait()
    result = start(machine, "echo never", timeout=0.1).result()
    assert (result["timed_out"], result["exit"]["signal"], result["tail"]) == (True, 15, "started\n")
    again = start(machine, "echo never").result()
    assert again["timed_out"]
    assert machine.observe("task/ws/1")["members"] == 0
