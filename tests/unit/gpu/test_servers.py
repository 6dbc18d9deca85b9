import pytest

from domain.errors import Rejected
from domain.gpu.commands import AcceptMemory, HolderGone, StopServer
from domain.gpu.observation import MemoryReading
from tests.unit.gpu.pod import Pod, exited, inventory, running, stopped, types

TOKEN = "hf_" + "a" * 34


def refusal(pod: Pod, do: str, *arguments: object, **fields: object) -> Rejected:
    before = pod.state
    with pytest.raises(Rejected) as refused:
        getattr(pod, do)(*arguments, **fields)
    assert pod.state is before
    return refused.value


def test_from_start_to_stopped() -> None:
    pod = Pod(inventory(1))
    assert types(pod.start()) == ["server_requested", "lease_granted", "server_launching"]
    assert pod.server().state == "launching"
    assert pod.launch_id() == "box/qwen/1"

    assert types(pod.launched()) == ["server_loading"]
    assert pod.server().state == "loading"
    assert pod.server().pid == 100

    pod.later(40)
    events = pod.observe(running("box/qwen/1", ready=True))
    assert types(events) == ["server_ready"]
    assert events[0].payload == {"server": "qwen", "launch_id": "box/qwen/1", "port": 8001, "load_seconds": 40.0}

    assert types(pod.stop(grace=3)) == ["server_stopping"]
    assert pod.server().state == "stopping"
    assert pod.server().holds_lease

    events = pod.do(stopped("box/qwen/1", killed=2, seconds=1.5))
    assert types(events) == ["server_stopped", "lease_released"]
    assert events[1].payload["because"] == "verified"
    assert pod.server().state == "stopped"
    assert pod.server().finished


def test_a_later_start_of_the_name_gets_another_launch_id() -> None:
    pod = Pod(inventory(1))
    pod.start()
    pod.stop()
    pod.do(stopped("box/qwen/1"))
    pod.start()
    assert pod.launch_id() == "box/qwen/2"


def test_a_name_that_runs_is_refused_and_says_where() -> None:
    pod = Pod(inventory(2))
    pod.start()
    refused = refusal(pod, "start")
    assert refused.code == "already_running"
    where = "launching on pod 'box' since 2026-01-01 00:00:00 UTC as launch box/qwen/1, port 8001"
    assert f"{where}; stop it first, or choose another" in refused.message
    pod.stop()
    assert "still being stopped" in refusal(pod, "start").message


def test_what_waiting_cannot_cure_is_refused_at_once() -> None:
    pod = Pod(inventory(1))
    assert refusal(pod, "start", arguments=("--tensor-parallel-size", "2")).code == "does_not_fit"
    assert refusal(pod, "start", gpus=2).code == "unknown_model_gpus"
    assert refusal(Pod(), "start", arguments=("--api-key", "x")).code == "secret_in_arguments"
    assert refusal(Pod(), "attach", "t", arguments=("--api-key", "x")).code == "secret_in_arguments"


def test_no_wait_fails_at_once_and_says_who_is_in_the_way() -> None:
    pod = Pod(inventory(1))
    pod.start("first")
    refused = refusal(pod, "start", "second", wait=False)
    assert refused.code == "no_room"
    assert "GPU 0 is used by first (0.9)" in refused.message


def test_no_wait_on_a_pod_that_was_never_seen_fails_when_it_is() -> None:
    pod = Pod()
    pod.start("first")
    pod.start("second", wait=False)
    events = pod.observe(inventory=inventory(1))
    assert "server_failed" in types(events)
    assert pod.server("second").state == "failed"
    failure = pod.server("second").failure
    assert failure is not None
    assert failure.type == "no_room"


def test_no_wait_on_an_unreachable_pod() -> None:
    from domain.gpu.commands import PodUnreachable

    pod = Pod(inventory(1))
    pod.do(PodUnreachable(reason="connection refused"))
    refused = refusal(pod, "start", wait=False)
    assert refused.code == "pod_unreachable"
    assert "connection refused" in refused.message
    assert types(pod.start()) == ["server_requested", "server_queued"]


def test_stopping_what_waits_needs_no_machine() -> None:
    pod = Pod()
    pod.start()
    assert types(pod.stop()) == ["server_stopped"]
    assert pod.server().finished
    assert pod.server().launch_id is None


def test_stopping_what_is_not_there_lists_what_is() -> None:
    pod = Pod(inventory(1))
    pod.start("a")
    refused = refusal(pod, "stop", "b")
    assert refused.code == "server_not_found"
    assert refused.message == "no model server 'b' on pod 'box'; there are: a"
    pod.stop("a")
    pod.do(stopped("box/a/1"))
    assert refusal(pod, "stop", "a").code == "not_running"


def test_asking_twice_for_a_stop_is_one_stop() -> None:
    pod = Pod(inventory(1))
    pod.start()
    pod.stop(grace=5)
    assert pod.stop(grace=9) == []
    order = pod.server().stop
    assert order is not None
    assert order.grace == 5


def test_a_stop_asked_during_the_launch_is_not_forgotten() -> None:
    pod = Pod(inventory(1))
    pod.start()
    pod.stop()
    assert pod.launched() == []
    assert pod.observe(running("box/qwen/1", ready=True)) == []
    assert pod.server().state == "stopping"
    assert list(pod.actions()) == ["watch/0", "stop/box/qwen/1/30"]


def test_a_task_starts_a_server_shares_it_and_its_last_holder_ends_it() -> None:
    pod = Pod(inventory(1))
    assert types(pod.attach("one"))[-1] == "holder_added"
    assert types(pod.attach("two")) == ["holder_added"]
    assert pod.attach("two") == []
    assert pod.server().holders == ("one", "two")
    pod.ready()

    assert types(pod.detach("one")) == ["holder_removed"]
    assert pod.detach("one") == []
    assert pod.server().state == "ready"
    assert types(pod.detach("two")) == ["holder_removed", "server_stopping"]


def test_a_server_of_a_persons_outlives_its_holders() -> None:
    pod = Pod(inventory(1))
    pod.start()
    pod.attach("one")
    assert types(pod.detach("one")) == ["holder_removed"]
    assert pod.server().state == "launching"


def test_a_name_that_serves_another_model_is_not_attached() -> None:
    pod = Pod(inventory(1))
    pod.start()
    refused = refusal(pod, "attach", "one", model="another/model")
    assert refused.code == "name_taken"
    assert "serves some/model, not another/model" in refused.message


def test_detaching_from_what_is_not_there_changes_nothing() -> None:
    pod = Pod(inventory(1))
    assert pod.detach("one") == []
    pod.start()
    assert pod.detach("one") == []


def test_a_task_that_is_gone_lets_go_of_everything() -> None:
    pod = Pod(inventory(2))
    pod.attach("one", "a")
    pod.attach("one", "b")
    pod.attach("two", "b")
    pod.do(HolderGone(task_id="one"))
    assert pod.server("a").state == "stopping"
    assert pod.server("b").holders == ("two",)
    assert pod.server("b").state == "launching"


def test_a_task_that_comes_while_it_is_being_stopped_gets_a_new_launch_afterwards() -> None:
    pod = Pod(inventory(1))
    pod.attach("one")
    pod.ready()
    pod.detach("one")
    assert types(pod.attach("two")) == ["holder_added"]
    assert pod.server().state == "stopping"
    events = pod.do(stopped("box/qwen/1"))
    assert types(events) == ["server_stopped", "lease_released", "server_queued", "lease_granted", "server_launching"]
    assert pod.launch_id() == "box/qwen/2"
    assert pod.server().holders == ("two",)


def test_one_that_changes_its_mind_as_well_leaves_it_stopped() -> None:
    pod = Pod(inventory(1))
    pod.attach("one")
    pod.ready()
    pod.detach("one")
    pod.attach("two")
    pod.detach("two")
    pod.do(stopped("box/qwen/1"))
    assert pod.server().state == "stopped"


def test_a_persons_stop_wins_over_holders_who_are_told() -> None:
    pod = Pod(inventory(1))
    pod.attach("one")
    pod.ready()
    pod.stop()
    pod.do(stopped("box/qwen/1"))
    assert pod.server().state == "stopped"
    assert pod.actions()["notify/one/qwen"].model_dump()["status"] == "stopped"


def test_a_started_again_server_still_serves_those_who_hold_it() -> None:
    pod = Pod(inventory(1))
    pod.attach("one")
    pod.stop()
    pod.do(stopped("box/qwen/1"))
    pod.start()
    assert pod.server().holders == ("one",)


def test_a_failed_server_is_started_anew_by_the_next_task() -> None:
    pod = Pod(inventory(1))
    pod.attach("one")
    pod.launched()
    pod.observe(exited("box/qwen/1"))
    pod.do(stopped("box/qwen/1"))
    assert pod.server().state == "failed"
    pod.attach("two")
    assert pod.launch_id() == "box/qwen/2"
    assert pod.server().holders == ("one", "two")


def test_memory_that_stays_is_released_by_a_persons_word_only() -> None:
    pod = Pod(inventory(1))
    pod.start()
    pod.ready()
    with pytest.raises(Rejected, match="nothing_to_accept"):
        pod.do(AcceptMemory(name="qwen"))
    pod.stop()
    memory = {"GPU-0": MemoryReading(before=4, now=70_000)}
    assert types(pod.do(stopped("box/qwen/1", state="memory_unexplained", memory=memory))) == [
        "server_memory_unexplained"
    ]
    assert pod.server().holds_lease
    assert refusal(pod, "start").code == "already_running"
    assert types(pod.do(AcceptMemory(name="qwen"))) == ["lease_released"]
    assert pod.server().state == "stopped"


def test_memory_that_stays_is_verified_again_by_another_stop() -> None:
    pod = Pod(inventory(1))
    pod.start()
    pod.stop()
    pod.do(stopped("box/qwen/1", state="memory_unexplained"))
    assert "stop/box/qwen/1/30" not in pod.actions()
    pod.do(StopServer(name="qwen"))
    assert "stop/box/qwen/1/30" in pod.actions()
    pod.do(stopped("box/qwen/1"))
    assert pod.server().finished
