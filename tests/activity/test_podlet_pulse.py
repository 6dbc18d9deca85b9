"""The podlet's watch over ready servers: hung is found, busy is left alone, and nobody's use is nobody's."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from podlet import podlet
from tests.activity.podlet_harness import Conversation, Json, Machine, beat_of, say, seen, serve, wait_until

LAUNCH = "pod/tiny/1"
#: A hurry that still leaves a loaded machine the time to answer what is answered.
QUICK: dict[str, Any] = {"interval": 0.05, "beat": 0.1, "canary_every": 0.4, "canary_timeout": 0.5, "canary_retry": 0.1}
HUNG = "3 completions in a row had no answer"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with Machine(tmp_path / "machine") as machine:
        count(machine)
        yield machine


def count(
    machine: Machine,
    generated: float = 100,
    prompt: float = 100,
    finished: float = 10,
    running: float = 0,
    **more: float | dict[str, float],
) -> None:
    """Let /metrics tell this, and the completions that were answered on top; ``moves``: by how much each time."""
    values = {"generation_tokens_total": generated, "prompt_tokens_total": prompt, "request_success_total": finished}
    say(machine, "counters", json.dumps({**values, "num_requests_running": running, "num_requests_waiting": 0, **more}))


def watch_ready(machine: Machine, **pace: object) -> Conversation:
    """Watch a new server until it is ready."""
    serve(machine, LAUNCH)
    watch = machine.start("watch", **{**QUICK, **pace})
    seen(watch, LAUNCH, readiness="ready")
    return watch


def asked(machine: Machine, how: str = "completion asked") -> int:
    """Return how often the server was asked for a completion."""
    return machine.path(LAUNCH, "output.log").read_text().count(how)


def moving(name: str) -> Callable[[Json], bool]:
    """Return whether a beat tells more of a metric than the one before it, if that told of it."""
    told: list[float] = []

    def moved(beat: Json) -> bool:
        metric = (beat["metrics"] or {}).get(name)
        told.extend([] if metric is None else [metric])
        return len(told) > 1 and told[-1] > told[-2]

    return moved


def idle_for(seconds: float) -> Callable[[Json], bool]:
    """Return whether a beat tells that nobody has used the server for so long."""
    return lambda beat: (beat["idle_seconds"] or 0) > seconds


def was_unhealthy(watch: Conversation) -> bool:
    """Return whether a watch has ever told that the server is not healthy."""
    changes = [line for line in watch.lines if line["type"] == "change"]
    return any(launch["healthy"] is False for line in changes for launch in line["launches"])


@pytest.mark.parametrize("running", [0, 7], ids=["idle", "with requests"])
def test_a_hung_engine_is_found_behind_a_good_health_and_so_is_its_recovery(machine: Machine, running: int) -> None:
    watch = watch_ready(machine)
    count(machine, running=running)
    say(machine, "completion", 0)
    hung = seen(watch, LAUNCH, healthy=False)
    assert (hung["readiness"], hung["unhealthy_reason"]) == ("ready", HUNG)
    assert asked(machine, "never answered") >= 3, "three strikes"
    say(machine, "completion", 200)
    assert seen(watch, LAUNCH, healthy=True)["unhealthy_reason"] is None


def test_a_busy_server_is_not_a_dead_one(machine: Machine) -> None:
    watch = watch_ready(machine)
    count(machine, running=200, moves={"generation_tokens_total": 1})
    say(machine, "completion", 0)
    for _ in range(30):
        beat_of(watch, LAUNCH, moving("generation_tokens"), "the counter moved")
    assert not was_unhealthy(watch)


def test_a_long_prompt_fills_the_cache_and_nothing_else(machine: Machine) -> None:
    watch = watch_ready(machine)
    count(machine, running=1, moves={"kv_cache_usage_perc": 0.0001})
    say(machine, "completion", 0)
    for _ in range(30):
        beat_of(watch, LAUNCH, moving("kv_cache_usage"), "the cache fills")
    assert not was_unhealthy(watch)


def test_an_answer_is_an_answer(machine: Machine) -> None:
    """A server that refuses, overloaded say, does not hang."""
    watch = watch_ready(machine, canary_timeout=30)
    say(machine, "completion", 503)
    beat_of(watch, LAUNCH, lambda _: asked(machine) >= 6, "it was asked again and again")
    assert not was_unhealthy(watch)


def test_without_counters_there_is_no_verdict(machine: Machine) -> None:
    """As with --disable-log-stats: nobody can tell a busy server from a hung one."""
    say(machine, "counters", "{}")
    watch = watch_ready(machine)
    say(machine, "completion", 0)
    for _ in range(30):
        told = beat_of(watch, LAUNCH, lambda beat: beat["metrics"], "metrics were read")
        assert told["idle_seconds"] is None
    assert asked(machine) == 1
    assert not was_unhealthy(watch)


def test_who_was_told_to_stop_is_asked_for_nothing_more(machine: Machine) -> None:
    """It drains: running requests are answered, new ones are not."""
    watch = watch_ready(machine)
    machine.hold("stop.before-term")
    stop = machine.start("stop", id=LAUNCH, grace=0)
    seen(watch, LAUNCH, stop_requested=True)
    say(machine, "completion", 0)
    before = asked(machine)
    for _ in range(30):
        beat_of(watch, LAUNCH, lambda beat: beat["metrics"], "metrics were read")
    assert asked(machine) <= before + 1, "one may have been under way"
    assert not was_unhealthy(watch)
    machine.release("stop.before-term")
    assert stop.result()["state"] == "stopped"


def test_the_verdict_outlives_the_watch(machine: Machine) -> None:
    """Who hears of it ends the watch and begins another one, which must not tell of a healthy server first."""
    first = watch_ready(machine)
    say(machine, "completion", 0)
    seen(first, LAUNCH, healthy=False)
    first.kill()
    second = machine.start("watch", **QUICK)
    line = second.read()
    assert line
    assert [(one["healthy"], one["unhealthy_reason"]) for one in line["launches"]] == [(False, HUNG)]
    say(machine, "completion", 200)
    seen(second, LAUNCH, healthy=True)
    assert [line["launches"][0]["healthy"] for line in second.lines if line["type"] == "change"] == [False, True]


def test_counters_that_move_again_are_a_recovery(machine: Machine) -> None:
    """So many requests waited that no canary is answered in time."""
    watch = watch_ready(machine)
    count(machine, running=500)
    say(machine, "completion", 0)
    seen(watch, LAUNCH, healthy=False)
    count(machine, generated=200, running=499)
    seen(watch, LAUNCH, healthy=True)


def test_our_own_completions_are_nobodys_use(machine: Machine) -> None:
    watch = watch_ready(machine, canary_timeout=30)
    first = beat_of(watch, LAUNCH, lambda beat: beat["idle_since"], "it tells since when it is idle")
    # Written down right after it became ready; how long that takes is the machine's affair.
    assert machine.observe(LAUNCH)["started_at"] < first["idle_since"] < machine.read(LAUNCH, "ready.json")["at"] + 0.1
    later = beat_of(watch, LAUNCH, lambda _: asked(machine) >= 5, "some canaries came and went")
    assert later["idle_since"] == pytest.approx(first["idle_since"], abs=0.1)
    assert later["idle_seconds"] > first["idle_seconds"]
    assert later["metrics"]["tokens_per_second"] == 0.0


@pytest.mark.parametrize(
    "use",
    [{"generated": 150}, {"prompt": 150}, {"finished": 12}, {"running": 1}, {"num_requests_waiting": 1}],
    ids=lambda use: next(iter(use)),
)
def test_requests_are_use(machine: Machine, use: dict[str, float]) -> None:
    watch = watch_ready(machine)
    idle = beat_of(watch, LAUNCH, idle_for(0.5), "it was left alone")
    count(machine, **use)
    used = beat_of(watch, LAUNCH, lambda beat: beat["idle_seconds"] < idle["idle_seconds"], "it was used")
    assert used["idle_since"] > idle["idle_since"]


def test_the_next_watch_goes_on_counting(machine: Machine) -> None:
    first = watch_ready(machine, canary_timeout=30)
    idle = beat_of(first, LAUNCH, idle_for(0.5), "it was left alone")
    count(machine, generated=500)
    used = beat_of(first, LAUNCH, lambda beat: beat["idle_seconds"] < idle["idle_seconds"], "it was used")
    beat_of(first, LAUNCH, idle_for(1), "it was left alone again")
    first.kill()
    second = machine.start("watch", **{**QUICK, "canary_timeout": 30})
    after = beat_of(second, LAUNCH, lambda beat: beat["idle_since"], "it tells since when it is idle")
    assert after["idle_since"] == pytest.approx(used["idle_since"], abs=0.1)
    second.kill()
    count(machine, generated=900, finished=99)  # while nobody watched
    third = machine.start("watch", **QUICK)
    beat_of(third, LAUNCH, lambda beat: (beat["idle_since"] or 0) > used["idle_since"] + 0.5, "that was seen")


def test_a_server_that_is_not_ready_is_not_idle(machine: Machine) -> None:
    say(machine, "completion", 500)
    serve(machine, LAUNCH)
    watch = machine.start("watch", **QUICK)
    told = beat_of(watch, LAUNCH, lambda beat: beat["readiness"] == "models", "it is asked for a completion")
    assert (told["idle_seconds"], told["idle_since"], told["metrics"]) == (None, None, None)
    assert told["silent_seconds"] is not None


def test_tokens_per_second_survive_counters_that_begin_anew(machine: Machine) -> None:
    watch = watch_ready(machine, canary_every=3600)
    rates: list[float] = []

    def rate(beat: Json) -> bool:
        rates.append((beat["metrics"] or {}).get("tokens_per_second") or 0.0)
        return rates[-1] > 0

    beat_of(watch, LAUNCH, lambda beat: beat["metrics"], "counters were read")
    for generated in (5000, 40, 900):
        # Until a beat has told of it: counters may be read twice between two beats.
        count(machine, generated=generated, moves={"generation_tokens_total": 1})
        beat_of(watch, LAUNCH, rate, "tokens were generated")
        count(machine, generated=generated)
        beat_of(watch, LAUNCH, lambda beat: beat["metrics"]["tokens_per_second"] == 0, "and then no more")
    assert min(rates) >= 0


def test_what_a_watch_keeps_may_be_broken(machine: Machine) -> None:
    first = watch_ready(machine)
    beat_of(first, LAUNCH, lambda beat: beat["idle_since"], "it tells since when it is idle")
    first.kill()
    wait_until(machine.path(LAUNCH, "watched.json").exists, "it was kept")
    machine.path(LAUNCH, "watched.json").write_text("{")
    second = machine.start("watch", **QUICK)
    beat_of(second, LAUNCH, lambda beat: beat["idle_since"], "a count begins anew")


def test_a_strike_needs_counters_that_stand_still(tmp_path: Path) -> None:
    now = time.monotonic()
    pulse = podlet.Pulse(
        podlet.Pace(podlet.Request({"verb": "watch"})), podlet.Kept(str(tmp_path / "kept")), ready_at=now
    )

    def metrics(generated: int) -> None:
        pulse.take(podlet.parse_metrics(b"vllm:generation_tokens_total %d" % generated), now)

    metrics(1)
    for generated in (2, 2, 2):  # after the first canary was asked for, one token more, and then none
        assert pulse.problem is None
        now = pulse.next_canary
        assert pulse.wants_canary(now)
        pulse.begin_canary(now)
        metrics(generated)
        pulse.end_canary(is_answered=False, now=now + 20)
        now += 21
        metrics(2)
    assert pulse.problem is None, "two strikes"
    now = pulse.next_canary
    pulse.begin_canary(now)
    pulse.end_canary(is_answered=False, now=now + 20)
    assert pulse.problem is None, "not before the counters were read again"
    metrics(2)
    assert pulse.problem == HUNG
