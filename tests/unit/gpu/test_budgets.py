"""What time alone decides: starts without progress, servers that nobody uses. And grace, and exposure."""

import pytest

from domain.gpu.budgets import STAGE_BUDGETS, UNRESPONSIVE_AFTER, is_due
from domain.gpu.models import Belief
from domain.gpu.observation import Observation
from domain.gpu.schedule import Stop, Watch
from tests.unit.gpu.pod import Pod, inventory, running, stopped, types

LAUNCH = "box/qwen/1"


def loading_pod(stage: str = "load") -> Pod:
    pod = Pod(inventory(1))
    pod.start()
    pod.launched()
    pod.observe(running(LAUNCH, stage=stage, silent_seconds=0.0))
    return pod


def watch_of(pod: Pod) -> Watch:
    [watch] = [action for action in pod.actions().values() if isinstance(action, Watch)]
    return watch


def due(pod: Pod, seen: Observation, unhealthy_seconds: float = 0.0) -> bool:
    watch = watch_of(pod)
    return is_due(
        watch.beliefs[seen.id],
        seen,
        unhealthy_seconds=unhealthy_seconds,
        loading=watch.loading,
        idle_ttls=watch.idle_ttls,
        impatient=watch.impatient,
    )


# --- starts


@pytest.mark.parametrize(("stage", "budget"), STAGE_BUDGETS.items())
def test_a_start_without_progress_is_ended_with_the_stage_and_its_last_word(stage: str, budget: float) -> None:
    pod = loading_pod(stage)
    quiet = running(LAUNCH, stage=stage, silent_seconds=budget - 1)
    assert not due(pod, quiet)
    assert pod.observe(quiet) == []
    stalled = running(LAUNCH, stage=stage, silent_seconds=budget, last_line="Loading weights 3 of 9")
    assert due(pod, stalled)
    events = pod.observe(stalled, log_tails={LAUNCH: "first\nLoading weights 3 of 9"})
    assert types(events) == ["server_failed", "server_stopping"]
    failure = pod.server().failure
    assert failure is not None
    assert failure.type == "load_stalled"
    assert f"no progress for {budget:.0f} s in stage {stage!r}" in failure.message
    assert failure.message.endswith("the last line of its log: Loading weights 3 of 9")
    assert failure.log_tail == "first\nLoading weights 3 of 9"
    assert f"stop/{LAUNCH}/0" in pod.actions()
    assert not due(pod, stalled), "it is said once"
    assert pod.observe(stalled) == []
    pod.do(stopped(LAUNCH))
    assert pod.server().state == "failed"


def test_a_slow_start_that_makes_progress_may_take_days() -> None:
    pod = loading_pod()
    for _ in range(1_000):
        pod.later(599)
        moving = running(LAUNCH, stage="load", silent_seconds=599.0)
        assert not due(pod, moving)
        assert pod.observe(moving) == []
    assert pod.server().state == "loading"


def test_the_stage_that_counts_is_the_latest_that_was_seen() -> None:
    pod = loading_pod("compile")
    back = running(LAUNCH, stage="load", silent_seconds=700.0)
    assert not due(pod, back)
    assert pod.observe(back) == []


def test_nobody_is_stalled_who_is_ready_or_of_whom_nothing_is_said() -> None:
    pod = loading_pod()
    assert pod.observe(running(LAUNCH, stage="load")) == []
    pod.observe(running(LAUNCH, ready=True, silent_seconds=9_000.0))
    assert pod.server().state == "ready"


# --- idle


def idle_pod(*, holders: tuple[str, ...] = ()) -> Pod:
    pod = Pod(inventory(1))
    pod.start(idle_ttl=1_800)
    for task in holders:
        pod.attach(task)
    pod.ready()
    return pod


def idle(seconds: float) -> Observation:
    return running(LAUNCH, ready=True, idle_seconds=seconds)


def test_a_server_that_nobody_uses_is_stopped_and_that_is_no_failure() -> None:
    pod = idle_pod()
    assert not due(pod, idle(1_799))
    assert pod.observe(idle(1_799)) == []
    assert due(pod, idle(1_800))
    events = pod.observe(idle(1_800))
    assert types(events) == ["server_stopping"]
    assert events[0].payload["reason"] == "idle: no request for 1800 s"
    stop = pod.actions()[f"stop/{LAUNCH}/30"]
    assert isinstance(stop, Stop)
    pod.do(stopped(LAUNCH))
    assert (pod.server().state, pod.server().failure) == ("stopped", None)


def test_an_idle_stop_is_final_whatever_the_policy() -> None:
    pod = Pod(inventory(1))
    pod.start(idle_ttl=60, restart="always")
    pod.ready()
    pod.observe(idle(60))
    pod.do(stopped(LAUNCH))
    assert pod.server().finished


def test_it_is_not_idle_while_it_loads_or_while_a_task_holds_it() -> None:
    pod = Pod(inventory(1))
    pod.start(idle_ttl=60)
    pod.launched()
    assert pod.observe(running(LAUNCH, idle_seconds=9_000.0)) == []
    pod = idle_pod(holders=("task",))
    assert pod.observe(idle(9_000)) == []
    assert watch_of(pod).idle_ttls == {}


def test_the_watch_begins_anew_when_the_last_task_lets_go() -> None:
    pod = idle_pod(holders=("task",))
    before = watch_of(pod)
    pod.detach("task")
    after = watch_of(pod)
    assert after.idle_ttls == {LAUNCH: 1_800}
    assert before.key != after.key


def test_an_unhealthy_server_is_reported_again_where_its_end_is_wanted() -> None:
    for policy, reported in (("never", False), ("on-failure", True)):
        pod = Pod(inventory(1))
        pod.start(restart=policy)
        pod.ready()
        bad = running(LAUNCH, ready=True, healthy=False)
        pod.observe(bad)
        assert not due(pod, bad, UNRESPONSIVE_AFTER - 1)
        assert due(pod, bad, UNRESPONSIVE_AFTER) == reported


def test_what_is_not_known_of_a_launch_is_no_reason() -> None:
    nothing = Observation(id=LAUNCH, state="running")
    assert not is_due(
        Belief(state="running"), nothing, unhealthy_seconds=0, loading=(LAUNCH,), idle_ttls={LAUNCH: 1}, impatient=()
    )


# --- grace


def test_the_drain_that_vllm_is_given_follows_from_the_grace() -> None:
    for grace, drain in ((30.0, "25"), (600.0, "595"), (3.0, "0")):
        pod = Pod(inventory(1))
        pod.start(grace=grace)
        plan = pod.server().plan
        assert plan is not None
        assert plan.argv[plan.argv.index("--shutdown-timeout") + 1] == drain
        pod.stop()
        assert f"stop/{LAUNCH}/{grace:g}" in pod.actions()


def test_a_second_stop_with_a_shorter_grace_shortens_it_and_a_longer_one_changes_nothing() -> None:
    pod = Pod(inventory(1))
    pod.start(grace=600.0)
    pod.ready()
    pod.stop()
    assert types(pod.stop(grace=5)) == ["server_stopping"]
    assert list(pod.actions()) == ["watch/0", f"stop/{LAUNCH}/5"]
    assert pod.stop(grace=60) == []
    assert list(pod.actions()) == ["watch/0", f"stop/{LAUNCH}/5"]


def test_who_is_exposed_listens_everywhere_and_says_so() -> None:
    pod = Pod(inventory(1))
    events = pod.start(expose=True)
    plan = pod.server().plan
    assert plan is not None
    assert plan.argv[plan.argv.index("--host") + 1] == "0.0.0.0"  # noqa: S104 - that is what was asked for
    assert [event.payload.get("exposed") for event in events] == [True, None, True]
