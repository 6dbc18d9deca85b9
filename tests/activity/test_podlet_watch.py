"""The podlet's watch: what changes is told at once, what does not costs nothing."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.activity.podlet_harness import (
    DEADLINE,
    Conversation,
    Json,
    Machine,
    free_port,
    lives,
    say,
    seen,
    serve,
    wait_until,
)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with Machine(tmp_path / "machine") as machine:
        yield machine


def test_the_first_line_comes_at_once_and_the_end_with_stdin(machine: Machine) -> None:
    watch = machine.start("watch")
    first = watch.read()
    assert first == {"podlet": 1, "type": "change", "boot": "first", "launches": []}
    watch.end_stdin()
    assert watch.result() == {"ended": "stdin"}


def test_a_launch_under_watch_is_told_and_runs_are_not(machine: Machine) -> None:
    watch = machine.start("watch", interval=0.05)
    watch.read()
    machine.run("task/ws/1", "sleep", "1000")
    machine.serve("pod/tiny/1")
    observation = seen(watch, "pod/tiny/1", state="running")
    assert (observation["readiness"], observation["healthy"], observation["stage"]) == ("process", None, "start")
    assert all(launch["kind"] == "server" for line in watch.lines for launch in line["launches"])


def test_readiness_is_a_ladder_that_ends_in_a_completion(machine: Machine) -> None:
    for what in ("health", "models", "completion"):
        say(machine, what, 503)
    serve(machine, "pod/tiny/1")
    watch = machine.start("watch", interval=0.05)
    seen(watch, "pod/tiny/1", readiness="process")
    say(machine, "health", 200)
    seen(watch, "pod/tiny/1", readiness="health")
    say(machine, "models", 200)
    seen(watch, "pod/tiny/1", readiness="models")
    say(machine, "completion", 200)
    ready = seen(watch, "pod/tiny/1", readiness="ready")
    assert ready["healthy"] is True
    assert machine.observe("pod/tiny/1")["readiness"] == "ready"


def test_another_served_name_is_not_ready(machine: Machine) -> None:
    serve(machine, "pod/tiny/1", "--served-name=other")
    watch = machine.start("watch", interval=0.05, beat=0.3)
    seen(watch, "pod/tiny/1", readiness="health")
    watch.read_until(lambda line: line["type"] == "beat", "a beat")
    assert "completion" not in machine.path("pod/tiny/1", "output.log").read_text()


def test_a_second_watch_knows_who_is_ready_without_another_completion(machine: Machine) -> None:
    serve(machine, "pod/tiny/1")
    first = machine.start("watch", interval=0.05)
    seen(first, "pod/tiny/1", readiness="ready")
    first.kill()
    second = machine.start("watch", interval=0.05)
    line = second.read()
    assert line
    assert line["launches"][0]["readiness"] == "ready"
    seen(second, "pod/tiny/1", healthy=True)
    assert machine.path("pod/tiny/1", "output.log").read_text().count("completion asked") == 1


def test_the_end_of_a_process_is_told_with_its_status(machine: Machine) -> None:
    launched = serve(machine, "pod/tiny/1")
    watch = machine.start("watch", interval=30, beat=30)
    seen(watch, "pod/tiny/1", readiness="ready")
    os.kill(launched["pid"], signal.SIGSEGV)
    observation = seen(watch, "pod/tiny/1", state="exited")
    assert observation["exit"]["signal"] == signal.SIGSEGV
    assert observation["readiness"] == "none"


def test_an_orphaned_engine_keeps_the_launch_running_with_an_exit(machine: Machine) -> None:
    serve(machine, "pod/tiny/1", "--engine")
    watch = machine.start("watch", interval=0.05)
    seen(watch, "pod/tiny/1", readiness="ready")
    machine.kill("root")
    observation = seen(watch, "pod/tiny/1", state="running", readiness="none")
    assert (observation["exit"]["signal"], observation["members"]) == (9, 2)
    machine.kill("engine")
    machine.kill("worker")
    seen(watch, "pod/tiny/1", state="exited", members=0)


def test_the_end_is_seen_without_a_supervisor_too(machine: Machine) -> None:
    launched = serve(machine, "pod/tiny/1")
    watch = machine.start("watch", interval=0.05)
    seen(watch, "pod/tiny/1", readiness="ready")
    machine.kill_supervisor("pod/tiny/1")
    os.kill(launched["pid"], signal.SIGKILL)
    assert seen(watch, "pod/tiny/1", state="exited")["exit"]["unknown"]


def test_health_after_ready_is_told_both_ways(machine: Machine) -> None:
    serve(machine, "pod/tiny/1")
    watch = machine.start("watch", interval=0.05)
    seen(watch, "pod/tiny/1", readiness="ready", healthy=True)
    say(machine, "health", 503)
    seen(watch, "pod/tiny/1", readiness="ready", healthy=False, unhealthy_reason="/health answered 503")
    say(machine, "health", 200)
    seen(watch, "pod/tiny/1", readiness="ready", healthy=True, unhealthy_reason=None)


def test_a_server_that_hangs_does_not_delay_another(machine: Machine) -> None:
    say(machine, "completion", 0)
    serve(machine, "pod/hangs/1")
    watch = machine.start("watch", interval=0.05)
    seen(watch, "pod/hangs/1", readiness="models")
    hanging = machine.path("pod/hangs/1", "output.log")
    wait_until(lambda: "completion asked" in hanging.read_text(), "the completion hangs")
    say(machine, "completion", 200)
    serve(machine, "pod/tiny/1")
    seen(watch, "pod/tiny/1", readiness="ready")
    assert seen_last(watch, "pod/hangs/1")["readiness"] == "models"


def seen_last(watch: Conversation, launch_id: str) -> Json:
    """Return what the last change told of a launch."""
    last = [line for line in watch.lines if line["type"] == "change"][-1]
    observation: Json = next(launch for launch in last["launches"] if launch["id"] == launch_id)
    return observation


def test_the_stage_follows_the_log(machine: Machine) -> None:
    machine.serve("pod/tiny/1", "--say=Starting to load model tiny...", "--say=Warming up model for the compilation")
    watch = machine.start("watch", interval=0.05)
    seen(watch, "pod/tiny/1", stage="compile")
    with machine.path("pod/tiny/1", "output.log").open("a") as log:
        log.write("INFO: Application start")
        log.flush()
        log.write("up complete.\n")
    seen(watch, "pod/tiny/1", stage="serve")


def test_beats_carry_log_and_metrics_and_no_change(machine: Machine) -> None:
    serve(machine, "pod/tiny/1", "--say=\x1b[32mloading 99%\rloading 100%\x1b[0m")
    watch = machine.start("watch", interval=0.05, beat=0.2)
    seen(watch, "pod/tiny/1", readiness="ready")
    with machine.path("pod/tiny/1", "output.log").open("a") as log:
        key = machine.path("pod/tiny/1", "api_key").read_text()
        log.write(f"\x1b[32mloading 99%\rloading with {key}\x1b[0m\n\n")
    beat = watch.read_until(
        lambda line: line["type"] == "beat" and "loading" in line["launches"][0]["last_line"] and
        (line["launches"][0]["metrics"] or {}).get("tokens_per_second") is not None, "metrics were read twice",
    )  # fmt: skip
    [told] = beat["launches"]
    assert told.pop("idle_seconds") < DEADLINE, "requests are running"
    assert told.pop("idle_since") > machine.observe("pod/tiny/1")["started_at"]
    assert told == {
        "id": "pod/tiny/1",
        "stage": "serve",
        "readiness": "ready",
        "silent_seconds": None,
        "log_size": machine.path("pod/tiny/1", "output.log").stat().st_size,
        "log_start": 0,
        "last_line": "loading with ***",
        "metrics": {
            "running": 3.0,
            "waiting": None,
            "generation_tokens": 1500.0,
            "prompt_tokens": None,
            "kv_cache_usage": 0.25,
            "tokens_per_second": 0.0,
        },
    }
    changes = [line for line in watch.lines if line["type"] == "change"]
    states = [
        (launch["readiness"], launch["healthy"], launch["stage"]) for line in changes for launch in line["launches"]
    ]
    assert len(states) == len(set(states)), "no change is told twice"


def test_a_stop_is_told_when_asked_for_and_when_verified(machine: Machine) -> None:
    serve(machine, "pod/tiny/1", "--ignore-term")
    watch = machine.start("watch", interval=0.05)
    seen(watch, "pod/tiny/1", readiness="ready")
    machine.hold("stop.before-kill")
    stop = machine.start("stop", id="pod/tiny/1", grace=0)
    seen(watch, "pod/tiny/1", stop_requested=True, state="running")
    machine.release("stop.before-kill")
    result = stop.result()
    assert seen(watch, "pod/tiny/1", state="exited", stopped=result)["members"] == 0


def test_finished_launches_are_left_out_when_a_newer_one_exists(machine: Machine) -> None:
    machine.serve("pod/tiny/1")
    machine.call("stop", id="pod/tiny/1", grace=0)
    watch = machine.start("watch", interval=0.05)
    seen(watch, "pod/tiny/1", state="exited")
    machine.serve("pod/tiny/2")
    line = watch.read_until(
        lambda one: [launch["id"] for launch in one["launches"]] == ["pod/tiny/2"], "only the newer"
    )
    assert line["type"] == "change"


def test_a_watch_killed_before_it_tells_is_no_loss(machine: Machine) -> None:
    serve(machine, "pod/tiny/1")
    machine.hold("watch.before-change")
    first = machine.start("watch", interval=0.05)
    machine.reached("watch.before-change")
    first.kill()
    machine.release("watch.before-change")
    second = machine.start("watch", interval=0.05)
    observation = seen(second, "pod/tiny/1", readiness="ready")
    assert lives(observation["pid"])


def test_a_watch_whose_reader_left_ends(machine: Machine) -> None:
    watch = machine.start("watch", interval=0.05, beat=0.05)
    watch.read()
    assert watch.process.stdout
    watch.process.stdout.close()
    assert watch.process.wait(30) == 1


@pytest.mark.parametrize("before", ["", "x" * 290, "x" * 5000])
def test_no_part_of_a_servers_secrets_is_told_while_it_runs_or_after(machine: Machine, before: str) -> None:
    """Also where what is told is cut: a secret at the end of a long line, and one longer than what is left of it."""
    secret = "S3CRET" * 7
    says = 'printf "%s" "$1 $HF_TOKEN $VLLM_API_KEY"; exec sleep 1000'
    request = machine.server("pod/tiny/1", ports=[free_port()], api_key=True, secrets={"HF_TOKEN": secret})
    request["argv"] = ["sh", "-c", says, "sh", before]
    machine.call("launch", **request)
    key = machine.path("pod/tiny/1", "api_key").read_text()
    log = machine.path("pod/tiny/1", "output.log")
    wait_until(lambda: log.exists() and key in log.read_text(), "it has told them")

    watch = machine.start("watch", interval=0.05, beat=0.1)
    watch.read_until(lambda line: line["type"] == "beat" and line["launches"], "a beat")
    told = [json.dumps(line) for line in watch.lines] + [json.dumps(machine.observe("pod/tiny/1"))]
    machine.call("stop", id="pod/tiny/1", grace=5)
    text = machine.call("log_tail", id="pod/tiny/1")["text"]
    assert text.endswith("*** ***")
    told += [text, json.dumps(machine.observe("pod/tiny/1"))]
    for told_now in told:
        assert "S3C" not in told_now
        assert key[:5] not in told_now
