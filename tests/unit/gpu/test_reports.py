import pytest

from domain.gpu.commands import (
    InspectionFailed,
    LaunchDone,
    LaunchFailed,
    PodObserved,
    PodUnreachable,
    StopFailed,
    StopServer,
)
from domain.gpu.models import Failure, shown_state
from domain.gpu.observation import Exit, Gpu, GpuShare, MemoryReading
from domain.gpu.queue import waits_for
from tests.unit.gpu.pod import Pod, exited, inventory, request, running, stopped, types

LAUNCH = "box/qwen/1"


def ready_pod(count: int = 1) -> Pod:
    pod = Pod(inventory(count))
    pod.start()
    pod.ready()
    return pod


def failure_of(pod: Pod, name: str = "qwen") -> Failure:
    failure = pod.server(name).failure
    assert failure is not None
    return failure


# --- looks at a healthy machine


def test_a_look_that_shows_nothing_new_gives_no_event_and_changes_nothing_but_the_ledger() -> None:
    pod = ready_pod()
    before = pod.state
    assert pod.observe(running(LAUNCH, ready=True, log_size=12_345, last_line="GET /health 200")) == []
    assert pod.state.model_copy(update={"ledger": before.ledger}) == before


def test_ready_is_the_podlets_word_and_nothing_less() -> None:
    pod = Pod(inventory(1))
    pod.start()
    pod.launched()
    for readiness in ("process", "health", "models"):
        assert pod.observe(running(LAUNCH, readiness=readiness)) == []
        assert pod.server().state == "loading"
    assert types(pod.observe(running(LAUNCH, ready=True))) == ["server_ready"]


def test_a_look_that_knows_less_does_not_take_ready_away() -> None:
    pod = ready_pod()
    assert pod.observe(running(LAUNCH)) == []
    assert pod.server().state == "ready"


def test_stages_are_progress() -> None:
    pod = Pod(inventory(1))
    pod.start()
    pod.launched(stage="start")
    events = pod.observe(running(LAUNCH, stage="load"))
    assert [event.payload["stage"] for event in events] == ["load"]
    assert pod.observe(running(LAUNCH, stage="download")) == []
    assert pod.server().stage == "load"


def test_unhealthy_and_back() -> None:
    pod = ready_pod()
    ready_at = pod.server().ready_at
    pod.later(5)
    assert types(pod.observe(running(LAUNCH, ready=True, healthy=False))) == ["server_unhealthy"]
    assert pod.server().state == "unhealthy"
    assert pod.server().holds_lease
    assert types(pod.observe(running(LAUNCH, ready=True))) == ["server_ready"]
    assert pod.server().ready_at == ready_at


def test_the_watch_may_see_a_launch_before_its_reply_comes() -> None:
    pod = Pod(inventory(1))
    pod.start()
    assert types(pod.observe(running(LAUNCH, ready=True))) == ["server_loading", "server_ready"]
    assert pod.launched() == []
    assert pod.server().state == "ready"


def test_a_launch_that_has_not_executed_yet_is_still_launching() -> None:
    pod = Pod(inventory(1))
    pod.start()
    assert pod.observe(running(LAUNCH, state="starting", pid=None, boot=None)) == []
    assert pod.server().state == "launching"


# --- ends that nobody asked for


def test_a_crash_is_a_failure_at_once_and_its_gpus_are_given_on_after_the_cleaning() -> None:
    pod = Pod(inventory(1))
    pod.start("qwen")
    pod.start("next")
    pod.ready("qwen")
    events = pod.observe(exited(LAUNCH, code=1), log_tails={LAUNCH: "x\nCUDA out of memory"})
    assert types(events) == ["server_failed"]
    assert pod.server().state == "failed"
    assert failure_of(pod).type == "out_of_memory"
    assert failure_of(pod).log_tail == "x\nCUDA out of memory"
    assert pod.server("next").state == "pending"
    assert f"stop/{LAUNCH}/0" in pod.actions()

    events = pod.do(stopped(LAUNCH))
    assert types(events) == ["server_stopped", "lease_released", "lease_granted", "server_launching"]
    assert pod.server().state == "failed"
    assert pod.server("next").state == "launching"


def test_exit_0_that_nobody_asked_for_is_a_failure() -> None:
    pod = ready_pod()
    pod.observe(exited(LAUNCH, code=0))
    assert failure_of(pod).type == "engine_died"


def test_words_in_a_living_servers_log_are_no_failure() -> None:
    pod = ready_pod()
    assert pod.observe(running(LAUNCH, ready=True, last_line="CUDA out of memory")) == []


def test_an_orphaned_engine_is_ended_before_its_gpus_are_given_on() -> None:
    pod = Pod(inventory(1))
    pod.start("qwen")
    pod.start("next")
    pod.ready("qwen")
    events = pod.observe(running(LAUNCH, exit=Exit(signal=9), members=2, readiness="none"))
    assert types(events) == ["server_failed", "server_stopping"]
    assert pod.server().state == "stopping"
    assert failure_of(pod).type == "killed"
    assert pod.observe(exited(LAUNCH, code=None, signal=9)) == []
    assert pod.server("next").state == "pending"
    events = pod.do(stopped(LAUNCH, killed=2))
    assert events[0].payload["after_failure"] == "killed"
    assert pod.server().state == "failed"
    assert pod.server("next").state == "launching"


def test_a_look_from_before_the_end_does_not_undo_it() -> None:
    pod = ready_pod()
    pod.observe(exited(LAUNCH))
    belief = pod.server().belief
    assert pod.observe(running(LAUNCH, ready=True)) == []
    assert pod.server().belief == belief
    assert pod.server().state == "failed"


def test_a_launch_that_ended_before_its_reply() -> None:
    pod = Pod(inventory(1))
    pod.start()
    pod.do(LaunchDone(launch_id=LAUNCH, observation=exited(LAUNCH, code=1), log_tail="CUDA out of memory\nin the end"))
    assert pod.server().state == "failed"
    assert failure_of(pod).type == "out_of_memory"


def test_a_stop_made_on_the_machine_is_no_failure() -> None:
    pod = ready_pod()
    assert types(pod.observe(exited(LAUNCH, code=0, stop_requested=True))) == ["server_stopping"]
    pod = ready_pod()
    done = exited(LAUNCH, code=0, stop_requested=True, stopped={"id": LAUNCH, "state": "stopped"})
    assert types(pod.observe(done)) == ["server_stopped", "lease_released"]
    assert pod.server().state == "stopped"


def test_a_record_that_vanished_concludes_nothing() -> None:
    pod = ready_pod()
    assert types(pod.observe()) == ["server_lost"]
    assert pod.server().state == "lost"
    assert pod.server().holds_lease
    assert list(pod.actions()) == ["watch/0"]
    assert types(pod.observe(running(LAUNCH, ready=True))) == ["server_loading", "server_ready"]
    assert pod.server().failure is None


def test_a_lost_one_is_verified_by_a_stop() -> None:
    pod = ready_pod()
    pod.observe()
    pod.do(StopServer(name="qwen"))
    pod.do(stopped(LAUNCH))
    assert pod.server().finished


def test_a_list_made_before_the_launch_does_not_miss_it() -> None:
    pod = ready_pod()
    assert pod.do(PodObserved(boot="boot-1", known_boot="boot-1", expected=())) == []
    assert pod.server().state == "ready"


# --- launches that fail


def test_a_port_that_is_taken_is_gone_around() -> None:
    pod = Pod(inventory(1))
    pod.start()
    events = pod.do(LaunchFailed(launch_id=LAUNCH, code="port_taken", message="port 8001 is taken by pid 7 (nginx)"))
    assert types(events) == ["launch_refused", "lease_released", "lease_granted", "server_launching"]
    plan = pod.server().plan
    assert plan is not None
    assert (plan.port, plan.internal_ports[0]) == (8002, 20_020)
    assert pod.launch_id() == "box/qwen/2"
    pod.later(3600)
    pod.stop()
    pod.do(stopped("box/qwen/2"))
    pod.observe(inventory=inventory(1))
    pod.start()
    plan = pod.server().plan
    assert plan is not None
    assert plan.port == 8001


@pytest.mark.parametrize("code", ["gpu_share_taken", "gpu_missing"])
def test_gpus_that_are_not_as_believed_are_looked_at_again(code: str) -> None:
    pod = Pod(inventory(1))
    pod.start()
    pod.do(LaunchFailed(launch_id=LAUNCH, code=code, message="GPU-0"))
    assert pod.server().state == "pending"
    assert list(pod.actions()) == ["watch/0", "inspect/0"]
    pod.observe(inventory=inventory(1))
    assert pod.launch_id() == "box/qwen/2"


def test_a_plan_that_is_refused_again_and_again_waits_before_it_is_tried_anew() -> None:
    pod = Pod(inventory(1))
    pod.start()
    for counter in range(1, 6):
        pod.do(LaunchFailed(launch_id=f"box/qwen/{counter}", code="port_taken", message="taken"))
    assert pod.server().state == "restarting"
    assert failure_of(pod).type == "port_taken"
    pod.pass_time(5)
    assert pod.launch_id() == "box/qwen/6"


@pytest.mark.parametrize(
    ("code", "kind"), [("program_not_found", "program_not_found"), ("launch_stopped", "not_launched")]
)
def test_a_launch_that_never_was_leaves_nothing_to_stop(code: str, kind: str) -> None:
    pod = Pod(inventory(1))
    pod.start()
    events = pod.do(LaunchFailed(launch_id=LAUNCH, code=code, message="no vllm on PATH"))
    assert types(events) == ["launch_refused", "server_failed", "lease_released"]
    assert failure_of(pod).type == kind
    assert list(pod.actions()) == ["watch/0"]


def test_a_launch_of_which_something_may_be_left_is_stopped_first() -> None:
    pod = Pod(inventory(1))
    pod.start()
    pod.do(LaunchFailed(launch_id=LAUNCH, code="disk_full", message="no space left on device"))
    assert pod.server().state == "stopping"
    assert pod.server().holds_lease
    pod.do(stopped(LAUNCH))
    assert pod.server().state == "failed"
    assert failure_of(pod).message == "no space left on device"


def test_reports_of_launches_that_are_no_more_are_dropped() -> None:
    pod = Pod(inventory(1))
    pod.start()
    pod.stop()
    assert pod.do(LaunchFailed(launch_id=LAUNCH, code="port_taken", message="x")) == []
    pod.do(stopped(LAUNCH))
    assert pod.do(stopped(LAUNCH)) == []
    assert pod.do(StopFailed(launch_id=LAUNCH, code="x", message="x")) == []
    assert pod.do(LaunchDone(launch_id="box/nobody/1", observation=running("box/nobody/1"))) == []


# --- stops


def test_a_stop_that_fails_is_tried_again_with_growing_delays() -> None:
    pod = ready_pod()
    pod.stop()
    delays = []
    for _ in range(8):
        events = pod.do(StopFailed(launch_id=LAUNCH, code="stop_not_verified", message="processes survive SIGKILL"))
        delays.append(events[0].payload["retry_in_seconds"])
        assert f"stop/{LAUNCH}/30" not in pod.actions()
        assert "wake" in pod.actions()
        pod.later(float(str(delays[-1])))
        assert f"stop/{LAUNCH}/30" in pod.actions()
    assert delays == [5, 10, 20, 40, 80, 160, 300, 300]
    assert pod.server().holds_lease


def test_memory_that_comes_back_later_releases_the_lease() -> None:
    pod = ready_pod()
    pod.stop()
    memory = {"GPU-0": MemoryReading(before=4, now=70_000)}
    pod.do(stopped(LAUNCH, state="memory_unexplained", memory=memory))
    assert pod.server().state == "memory_unexplained"
    assert "wake" in pod.actions()
    pod.later(15)
    assert "inspect/0" in pod.actions()

    def look(used: int | None) -> list[str]:
        gpu = Gpu(index=0, uuid="GPU-0", name="NVIDIA H100", memory_total_mib=81_559, memory_used_mib=used)
        return types(pod.observe(exited(LAUNCH), inventory=inventory(1, gpus=(gpu,))))

    assert look(70_000) == []
    assert look(None) == []
    assert look(517) == []
    assert look(516) == ["lease_released"]
    assert pod.server().state == "stopped"


def test_what_a_machine_says_is_cut_not_refused() -> None:
    assert len(LaunchFailed(launch_id=LAUNCH, code="x", message="y" * 100_000).message) == 4_000


# --- reboots and absences


def test_a_reboot_ends_what_ran_and_frees_its_gpus() -> None:
    pod = ready_pod()
    pod.attach("one")
    events = pod.observe(exited(LAUNCH, code=None), boot="boot-2")
    assert types(events) == ["pod_rebooted", "server_failed", "lease_released"]
    assert failure_of(pod).type == "machine_rebooted"
    assert pod.server().finished
    assert "inspect/0" in pod.actions()


def test_a_reboot_leaves_launches_and_stops_under_way_to_the_podlet() -> None:
    pod = Pod(inventory(2))
    pod.start("a")
    pod.start("b")
    pod.ready("b")
    pod.stop("b")
    assert types(pod.observe(boot="boot-2")) == ["pod_rebooted"]
    assert pod.server("a").state == "launching"
    assert pod.server("b").state == "stopping"
    pod.do(LaunchDone(launch_id="box/a/1", observation=running("box/a/1", boot="boot-2")))
    assert pod.server("a").state == "loading"


def test_a_reboot_explains_memory() -> None:
    pod = ready_pod()
    pod.stop()
    pod.do(stopped(LAUNCH, state="memory_unexplained"))
    pod.observe(boot="boot-2")
    assert pod.server().state == "stopped"
    assert pod.server().finished


def test_a_look_from_before_the_reboot_is_not_another_reboot() -> None:
    pod = Pod(inventory(1))
    pod.observe(boot="boot-2", inventory=inventory(1, boot="boot-2"))
    pod.start()
    pod.do(LaunchDone(launch_id=LAUNCH, observation=running(LAUNCH, boot="boot-2")))
    assert pod.observe(boot="boot-1", known_boot="boot-1") == []
    assert pod.server().state == "loading"
    assert pod.state.boot == "boot-2"


def test_a_look_that_was_under_way_since_before_the_first_contact_is_dropped() -> None:
    pod = Pod(inventory(1, boot="boot-2"))
    assert pod.observe(boot="boot-1", known_boot=None, inventory=inventory(2)) == []
    assert pod.state.boot == "boot-2"
    assert types(pod.observe(boot="boot-3", known_boot="boot-2")) == ["pod_rebooted"]


def test_a_launch_whose_reply_comes_after_the_reboot_is_found_gone() -> None:
    pod = Pod(inventory(1))
    pod.start()
    pod.observe(boot="boot-2")
    pod.do(LaunchDone(launch_id=LAUNCH, observation=running(LAUNCH, boot="boot-1")))
    events = pod.observe(exited(LAUNCH, boot="boot-1", exit={"unknown": True}), boot="boot-2")
    assert types(events) == ["server_failed", "lease_released"]
    assert failure_of(pod).type == "machine_rebooted"


def test_a_launch_made_right_after_the_reboot_lives() -> None:
    pod = Pod(inventory(2))
    pod.start("old")
    pod.ready("old")
    pod.start("new")
    pod.do(LaunchDone(launch_id="box/new/1", observation=running("box/new/1", boot="boot-2")))
    old = exited("box/old/1", exit={"unknown": True})
    pod.observe(old, running("box/new/1", boot="boot-2", ready=True), boot="boot-2")
    assert pod.server("old").state == "failed"
    assert pod.server("new").state == "ready"


def test_unreachable_is_not_dead() -> None:
    pod = ready_pod()
    pod.later(10)
    events = pod.do(PodUnreachable(reason="no route to host"))
    assert types(events) == ["pod_unreachable"]
    assert events[0].payload == {"reason": "no route to host", "servers_left_alone": ["qwen"]}
    assert pod.do(PodUnreachable(reason="no route to host")) == []
    assert pod.server().state == "ready"
    assert shown_state(pod.state, pod.server()) == "unreachable"
    assert list(pod.actions()) == ["watch/0"]

    pod.stop()
    assert list(pod.actions()) == ["watch/0"]

    pod.later(60)
    events = pod.observe(running(LAUNCH, ready=True))
    assert types(events) == ["pod_reachable"]
    assert events[0].payload["unreachable_seconds"] == 60
    assert list(pod.actions()) == ["watch/0", f"stop/{LAUNCH}/30"]


def test_back_from_unreachable_it_is_ready_as_before() -> None:
    pod = ready_pod()
    pod.do(PodUnreachable(reason="no route to host"))
    pod.observe(running(LAUNCH, ready=True))
    assert shown_state(pod.state, pod.server()) == "ready"
    assert pod.server().counter == 1


def test_an_inspection_that_fails_while_the_machine_answers_is_tried_again_later() -> None:
    pod = Pod()
    pod.start()
    assert types(pod.do(InspectionFailed(reason="connection refused"))) == ["pod_unreachable"]
    pod.observe()
    events = pod.do(InspectionFailed(reason="nvidia-smi hangs"))
    assert types(events) == ["inspection_failed"]
    assert pod.state.reachable is True
    assert list(pod.actions()) == ["watch/0", "wake"]
    assert "which failed: nvidia-smi hangs" in waits_for(pod.state, pod.server())
    pod.later(15)
    assert list(pod.actions()) == ["watch/0", "inspect/0"]
    pod.observe(inventory=inventory(1))
    assert pod.server().state == "launching"
    assert pod.state.inspection_problem == ""


# --- launches that nobody owns


def test_a_launch_that_nobody_owns_is_listed_and_gone_around() -> None:
    pod = Pod(inventory(2))
    orphan = running("box/old/7", gpus=(GpuShare(uuid="GPU-0", share=0.9),), ports=(8001,))
    assert types(pod.observe(orphan)) == ["orphan_found"]
    assert pod.observe(orphan) == []
    pod.start()
    plan = pod.server().plan
    assert plan is not None
    assert plan.gpus == ("GPU-1",)
    assert plan.port == 8002
    assert types(pod.observe(running("box/qwen/8"))) == ["server_loading", "orphan_gone"]


def test_ids_that_the_machine_has_seen_are_not_given_again() -> None:
    pod = Pod()
    pod.start("old")
    pod.observe(exited("box/old/7"), exited("other/old/90"), inventory=inventory(1))
    assert pod.launch_id("old") == "box/old/8"


def test_inventory_is_an_event_only_where_it_changed() -> None:
    pod = Pod(inventory(2))
    assert pod.observe(inventory=inventory(2)) == []
    events = pod.observe(inventory=inventory(1))
    assert events[0].payload["changes"] == ["GPUs: 2 x H100 -> 1 x H100"]


def test_a_server_whose_gpus_are_gone_when_its_turn_comes_fails() -> None:
    pod = Pod(inventory(2))
    for name in ("a", "b"):
        pod.start(name)
    pod.do(PodUnreachable(reason="x"))
    pod.attach("one", "c", arguments=("--tensor-parallel-size", "2"))
    pod.observe(inventory=inventory(1))
    assert pod.server("c").state == "failed"
    assert failure_of(pod, "c").type == "planning"


def test_requests_are_kept_as_asked_over_a_new_plan() -> None:
    pod = Pod(inventory(1))
    pod.start(memory=0.4)
    pod.do(LaunchFailed(launch_id=LAUNCH, code="port_taken", message="x"))
    assert pod.server().request == request(memory=0.4)
