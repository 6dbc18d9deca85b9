from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import Rejected
from domain.gpu.commands import LaunchFailed, PodUnreachable, Remove, ServerDue
from domain.gpu.models import FailureType, shown_state
from domain.gpu.observation import MemoryReading
from domain.gpu.request import RestartPolicy
from domain.gpu.restarts import MAXIMUM_RESTARTS, MAXIMUM_TRIES
from domain.gpu.schedule import Notify, WakeAt, detail
from domain.gpu.summary import memo, search_attributes, summary_markdown
from tests.unit.gpu.pod import EPOCH, Pod, exited, inventory, running, stopped, types

LOGS: dict[str, FailureType] = {
    "error: unrecognized arguments: --x": "bad_arguments",
    "GatedRepoError": "model_gated",
    "RepositoryNotFoundError": "model_missing",
    "The NVIDIA driver on your system is too old": "driver_mismatch",
    "No available memory for the cache blocks": "kv_cache",
}
DRAINING = "Free memory on device cuda:0 on startup is less than desired GPU memory utilization"


def ready_pod(restart: RestartPolicy = "on-failure") -> Pod:
    pod = Pod(inventory(1))
    pod.start(restart=restart)
    pod.ready()
    return pod


def crash(pod: Pod, name: str = "qwen", log: str = "", code: int = 1) -> list[str]:
    """Let the current launch of a server end by itself; return the types of the events."""
    launch_id = pod.launch_id(name)
    return types(pod.observe_one(exited(launch_id, code=code), log_tails={launch_id: log}))


def clean(pod: Pod, name: str = "qwen") -> list[str]:
    return types(pod.do(stopped(pod.launch_id(name))))


def ready_again(pod: Pod, name: str = "qwen") -> None:
    """Answer a look at the machine if one is wanted, and let the launch that follows become ready."""
    if "inspect/0" in pod.actions():
        pod.do_inspect()
    pod.ready(name)


def test_a_crash_is_followed_by_another_launch_after_a_verified_end() -> None:
    pod = ready_pod()
    assert crash(pod) == ["server_failed", "server_stopping"]
    assert pod.server().state == "stopping"
    assert pod.server().holds_lease
    assert clean(pod) == ["server_stopped", "lease_released", "server_restarting"]
    server = pod.server()
    assert (server.state, server.finished, server.holds_lease) == ("restarting", False, False)
    assert server.retry_at == pod.now + timedelta(seconds=5)
    assert detail(pod.state, server) == (
        "exited with code 1, though nobody asked it to stop; launched again at 2026-01-01 00:00:05 "
        "(restart 1 of at most 5 within an hour)"
    )
    assert memo(pod.state)["servers"] == {"restarting": 1}
    assert search_attributes(pod.state).models == ("some/model",)
    assert "restarting" in summary_markdown(pod.state)

    assert pod.pass_time(4.9) == []
    assert isinstance(pod.actions()["wake"], WakeAt)
    assert types(pod.pass_time(0.1)) == ["server_queued", "lease_granted", "server_launching"]
    assert pod.launch_id() == "box/qwen/2"
    assert pod.server().failure is None
    pod.ready()
    assert pod.server().restarts == (EPOCH,)


def test_a_crash_without_a_policy_is_the_end() -> None:
    pod = ready_pod(restart="never")
    crash(pod)
    clean(pod)
    assert pod.server().state == "failed"
    assert pod.server().finished
    assert pod.server().retry_at is None


def test_delays_grow_and_the_sixth_failure_within_an_hour_is_the_last() -> None:
    pod = ready_pod()
    delays = []
    for _ in range(MAXIMUM_RESTARTS):
        crash(pod)
        clean(pod)
        retry_at = pod.server().retry_at
        assert retry_at is not None
        delays.append((retry_at - pod.now).total_seconds())
        pod.pass_time(delays[-1])
        ready_again(pod)
    assert delays == [5, 10, 20, 40, 80]
    crash(pod)
    clean(pod)
    failure = pod.server().failure
    assert pod.server().state == "failed"
    assert failure is not None
    assert "it was launched again 5 times within the hour before, and is not again" in failure.message


@given(st.lists(st.integers(0, 1_500), min_size=6, max_size=30), st.sampled_from(["on-failure", "always"]))
@settings(max_examples=60)
def test_restarts_never_exceed_the_limit_of_an_hour(pauses: list[int], policy: RestartPolicy) -> None:
    pod = ready_pod(policy)
    decided: list[datetime] = []
    for pause in pauses:
        pod.later(pause)
        crash(pod)
        clean(pod)
        if pod.server().state == "failed":
            assert len([at for at in decided if pod.now - at < timedelta(hours=1)]) == MAXIMUM_RESTARTS
            return
        decided.append(pod.now)
        assert len([at for at in decided if pod.now - at < timedelta(hours=1)]) <= MAXIMUM_RESTARTS
        pod.pass_time(80)
        ready_again(pod)


def test_an_hour_later_it_begins_anew() -> None:
    pod = ready_pod()
    for _ in range(3):
        crash(pod)
        clean(pod)
        pod.pass_time(80)
        ready_again(pod)
    pod.later(3_600)
    crash(pod)
    assert pod.server().retry_at == pod.now + timedelta(seconds=5)
    assert len(pod.server().restarts) == 1


@pytest.mark.parametrize(("log", "kind"), LOGS.items())
def test_what_needs_a_person_is_launched_again_by_always_only(log: str, kind: FailureType) -> None:
    for policy, state in (("on-failure", "failed"), ("always", "restarting")):
        pod = Pod(inventory(1))
        pod.start(restart=policy)
        pod.launched()
        crash(pod, log=log)
        clean(pod)
        failure = pod.server().failure
        assert failure is not None
        assert (failure.type, pod.server().state) == (kind, state)


@pytest.mark.parametrize("policy", ["never", "on-failure", "always"])
def test_a_passing_cause_is_tried_again_whatever_the_policy(policy: RestartPolicy) -> None:
    pod = Pod(inventory(1))
    pod.start(restart=policy)
    tries = 0
    while pod.server().state != "failed":
        pod.launched()
        crash(pod, log=DRAINING)
        clean(pod)
        tries += 1
        assert pod.server().state in {"restarting", "failed"}
        pod.pass_time(80)
        if "inspect/0" in pod.actions():
            pod.do_inspect()
    assert tries == 1 + (MAXIMUM_TRIES if policy == "never" else MAXIMUM_RESTARTS)


def test_the_same_cause_in_one_that_was_ready_is_a_failure_as_any() -> None:
    pod = ready_pod(restart="never")
    crash(pod, log=DRAINING)
    clean(pod)
    assert pod.server().state == "failed"


def test_who_waited_meanwhile_gets_the_gpu_and_the_restarted_one_keeps_its_place() -> None:
    pod = ready_pod()
    pod.later(1)
    pod.start("second")
    pod.later(1)
    pod.start("third")
    crash(pod)
    clean(pod)
    assert pod.server("second").state == "launching"
    pod.pass_time(5)
    assert pod.server("qwen").state == "pending"
    pod.ready("second")
    pod.stop("second")
    pod.do(stopped("box/second/1"))
    if "inspect/0" in pod.actions():
        pod.do_inspect()
    assert pod.server("qwen").state == "launching"
    assert pod.server("third").state == "pending"


def test_one_that_would_not_wait_waits_once_it_was_served() -> None:
    pod = Pod(inventory(1))
    pod.start(wait=False, restart="on-failure")
    pod.ready()
    pod.start("second")
    crash(pod)
    clean(pod)
    pod.pass_time(5)
    assert pod.server().state == "pending"


def test_a_stop_while_it_waits_to_be_launched_again_is_final() -> None:
    pod = ready_pod(restart="always")
    crash(pod)
    clean(pod)
    assert types(pod.stop()) == ["server_stopped"]
    assert (pod.server().state, pod.server().finished) == ("stopped", True)
    assert pod.pass_time(3_600) == []


def test_a_stop_while_its_last_launch_is_cleaned_up_is_final() -> None:
    pod = ready_pod(restart="always")
    crash(pod)
    pod.stop()
    clean(pod)
    assert (pod.server().state, pod.server().finished) == ("failed", True)
    assert pod.pass_time(3_600) == []


def test_a_stop_asked_of_podctl_is_no_failure_for_any_policy() -> None:
    pod = ready_pod(restart="always")
    pod.stop()
    pod.observe_one(exited("box/qwen/1", code=0, stop_requested=True))
    clean(pod)
    assert pod.server().state == "stopped"


@pytest.mark.parametrize(("policy", "state"), [("on-failure", "stopped"), ("always", "restarting")])
def test_a_stop_made_on_the_machine_is_undone_by_always_only(policy: RestartPolicy, state: str) -> None:
    pod = ready_pod(restart=policy)
    pod.observe(exited("box/qwen/1", code=0, stop_requested=True))
    clean(pod)
    assert pod.server().state == state
    pod = ready_pod(restart=policy)
    done = exited("box/qwen/1", code=0, stop_requested=True, stopped={"id": "box/qwen/1", "state": "stopped"})
    pod.observe(done)
    assert pod.server().state == state
    if state == "restarting":
        assert detail(pod.state, pod.server()).startswith("it was stopped on the machine; launched again at")


@pytest.mark.parametrize(("policy", "state"), [("on-failure", "failed"), ("always", "restarting")])
def test_a_reboot_is_survived_by_always_only(policy: RestartPolicy, state: str) -> None:
    pod = ready_pod(restart=policy)
    pod.observe(exited("box/qwen/1", exit={"unknown": True}), boot="boot-2")
    assert pod.server().state == state
    ended = pod.server().ended
    assert ended is not None
    assert ended.how == "rebooted"
    if state == "restarting":
        pod.pass_time(5)
        assert pod.server().state == "pending"
        pod.do_inspect(boot="boot-2")
        assert pod.launch_id() == "box/qwen/2"


def test_a_reboot_and_an_outage_while_it_waits_change_nothing() -> None:
    pod = ready_pod()
    crash(pod)
    clean(pod)
    pod.observe(boot="boot-2")
    assert pod.server().state == "restarting"
    pod.do(PodUnreachable(reason="no route to host"))
    assert shown_state(pod.state, pod.server()) == "restarting"
    assert types(pod.pass_time(5)) == ["server_queued"]
    assert detail(pod.state, pod.server()).startswith("waits for the pod, unreachable since")
    pod.do_inspect(boot="boot-2")
    assert pod.launch_id() == "box/qwen/2"


def test_its_tasks_are_told_and_it_is_never_failed_to_them() -> None:
    pod = Pod(inventory(1))
    pod.attach("task", restart="on-failure")
    pod.ready()
    told = []

    def told_now() -> None:
        notice = pod.actions()["notify/task/qwen"]
        assert isinstance(notice, Notify)
        told.append(notice.status)

    crash(pod)
    told_now()
    clean(pod)
    told_now()
    pod.pass_time(5)
    told_now()
    assert told == ["stopping", "restarting", "launching"]


def test_letting_go_and_taking_hold_while_it_waits() -> None:
    pod = Pod(inventory(1))
    pod.attach("one", restart="on-failure")
    pod.ready()
    crash(pod)
    clean(pod)
    assert types(pod.attach("two")) == ["holder_added"]
    assert pod.server().state == "restarting"
    pod.detach("one")
    assert pod.server().state == "restarting"
    assert types(pod.detach("two")) == ["holder_removed", "server_stopped"]
    assert pod.server().state == "stopped"


def test_memory_that_stays_keeps_it_waiting_until_it_is_back() -> None:
    pod = ready_pod()
    crash(pod)
    memory = {"GPU-0": MemoryReading(before=4, now=70_000)}
    pod.do(stopped("box/qwen/1", state="memory_unexplained", memory=memory))
    assert pod.pass_time(60) == []
    assert pod.server().holds_lease
    pod.do_inspect()
    assert pod.server().state == "restarting"


def test_a_name_that_waits_to_be_launched_again_is_taken() -> None:
    pod = ready_pod()
    crash(pod)
    clean(pod)
    with pytest.raises(Rejected, match="restart 1 of at most 5 within an hour"):
        pod.start()
    with pytest.raises(Rejected, match="servers_running"):
        pod.do(Remove())
    pod.do(Remove(lost=True))
    assert pod.server().state == "lost"
    assert not pod.actions()


def test_nothing_is_due_before_its_time() -> None:
    pod = ready_pod()
    with pytest.raises(Rejected, match="not_due"):
        pod.do(ServerDue(name="qwen"))
    crash(pod)
    clean(pod)
    with pytest.raises(Rejected, match="not_due"):
        pod.do(ServerDue(name="qwen"))


def test_a_launch_id_that_somebody_else_used_is_gone_around() -> None:
    pod = Pod(inventory(1))
    pod.start()
    assert types(pod.launched(owner="somebody")) == [
        "launch_refused",
        "lease_released",
        "lease_granted",
        "server_launching",
    ]
    assert pod.launch_id() == "box/qwen/2"


def test_a_program_that_is_not_there_is_no_reason_to_try_again() -> None:
    pod = Pod(inventory(1))
    pod.start(restart="on-failure")
    pod.do(LaunchFailed(launch_id="box/qwen/1", code="program_not_found", message="no vllm"))
    assert pod.server().state == "failed"


# --- unhealthy


def unhealthy(pod: Pod, reason: str = "3 completions in a row had no answer") -> list[str]:
    look = running(pod.launch_id(), ready=True, healthy=False, unhealthy_reason=reason)
    return types(pod.observe(look))


def test_without_a_policy_an_unhealthy_server_stays_with_the_reason() -> None:
    pod = ready_pod(restart="never")
    assert unhealthy(pod) == ["server_unhealthy"]
    assert pod.events[-1].payload["reason"] == "3 completions in a row had no answer"
    assert detail(pod.state, pod.server()) == "3 completions in a row had no answer"
    pod.later(3_600)
    assert unhealthy(pod) == []
    assert pod.server().state == "unhealthy"
    pod.observe(running("box/qwen/1", ready=True))
    assert (pod.server().state, pod.server().unhealthy_reason) == ("ready", "")


def test_one_that_stays_unhealthy_is_ended_and_launched_again() -> None:
    pod = ready_pod()
    unhealthy(pod)
    pod.later(59)
    assert unhealthy(pod) == []
    pod.later(1)
    assert unhealthy(pod) == ["server_failed", "server_stopping"]
    failure = pod.server().failure
    assert failure is not None
    assert failure.type == "unresponsive"
    assert failure.message == "unhealthy for 60 s: 3 completions in a row had no answer"
    assert "stop/box/qwen/1/0" in pod.actions()
    clean(pod)
    assert pod.server().state == "restarting"


def test_what_was_unhealthy_before_an_outage_gets_its_time_anew() -> None:
    pod = ready_pod()
    unhealthy(pod)
    pod.do(PodUnreachable(reason="no route to host"))
    pod.later(3_600)
    assert unhealthy(pod) == ["pod_reachable"]
    pod.later(59)
    assert unhealthy(pod) == []
    pod.later(1)
    assert unhealthy(pod) == ["server_failed", "server_stopping"]


def test_nobody_is_ended_on_a_look_that_does_not_say() -> None:
    pod = ready_pod()
    unhealthy(pod)
    pod.later(600)
    assert pod.observe(running("box/qwen/1", ready=True, healthy=None)) == []
    assert pod.server().state == "unhealthy"
