import pytest

from domain.entity import LEDGER_LIMIT, json_size
from domain.errors import Rejected
from domain.gpu.commands import PodUnreachable, Remove, SetAddress, SetTaskQueue, StopServer
from domain.gpu.models import GpuPodState, address
from domain.gpu.rules import FINISHED_KEPT, RESERVE
from domain.gpu.ssh_target import parse_ssh
from tests.unit.gpu.pod import EPOCH, Pod, inventory, stopped, types


def test_a_pod_begins_unknown_and_with_an_event() -> None:
    pod = Pod()
    assert types(pod.events) == ["pod_registered"]
    assert pod.state.reachable is None
    assert pod.state.since == EPOCH
    outcome = pod.state.outcome("register")
    assert outcome is not None
    assert outcome.accepted


def test_a_command_counts_once() -> None:
    pod = Pod(inventory(1))
    pod.start()
    pod.do(StopServer(name="qwen"), command_id="same")
    before = pod.state
    assert pod.do(StopServer(name="qwen"), command_id="same") == []
    assert pod.state is before


def test_a_command_that_was_refused_stays_refused() -> None:
    pod = Pod(inventory(1))
    pod.state = pod.state.with_ledger("old", "server_not_found")
    with pytest.raises(Rejected) as refused:
        pod.do(StopServer(name="qwen"), command_id="old")
    assert (refused.value.code, refused.value.message) == ("server_not_found", "already refused")


def test_events_are_numbered_without_gaps() -> None:
    pod = Pod(inventory(1))
    pod.start()
    pod.ready()
    pod.stop()
    pod.do(stopped("box/qwen/1"))
    assert [event.sequence for event in pod.events] == list(range(1, len(pod.events) + 1))
    assert pod.state.sequence == len(pod.events)


def test_the_machine_moves() -> None:
    pod = Pod(inventory(1))
    pod.start()
    key = pod.state.host_key
    events = pod.do(SetAddress(ssh=parse_ssh("root@198.51.100.9")))
    assert events[0].payload == {
        "before": "ssh -p 2222 root@203.0.113.7",
        "now": "root@198.51.100.9",
        "host_key": "kept",
    }
    assert address(pod.state).host_key == key
    assert pod.state.reachable is None
    assert list(pod.actions()) == ["watch/1", "inspect/1", "launch/box/qwen/1"]
    pod.do(SetAddress(ssh=parse_ssh("root@198.51.100.9"), host_key="ssh-ed25519 BBBB"))
    assert address(pod.state).host_key == "ssh-ed25519 BBBB"


def test_the_task_queue_changes() -> None:
    pod = Pod()
    assert types(pod.do(SetTaskQueue(task_queue="gpu-keys"))) == ["task_queue_changed"]
    assert pod.state.task_queue == "gpu-keys"


def test_a_pod_with_servers_is_not_removed() -> None:
    pod = Pod(inventory(1))
    pod.start("a")
    pod.start("b")
    with pytest.raises(Rejected) as refused:
        pod.do(Remove())
    assert refused.value.code == "servers_running"
    assert "a (launching), b (pending)" in refused.value.message
    assert "--lost" in refused.value.message


def test_a_lost_machine_takes_its_servers_along() -> None:
    pod = Pod(inventory(1))
    pod.attach("one", "a")
    pod.start("b")
    pod.do(PodUnreachable(reason="gone"))
    events = pod.do(Remove(lost=True))
    assert types(events) == ["server_lost", "lease_released", "server_lost", "pod_removed"]
    assert {server.state for server in pod.state.servers.values()} == {"lost"}
    assert all(server.finished for server in pod.state.servers.values())
    assert list(pod.actions()) == ["notify/one/a"]


def test_a_removed_pod_does_nothing_more() -> None:
    pod = Pod(inventory(1))
    pod.start()
    pod.do(Remove(lost=True))
    with pytest.raises(Rejected) as refused:
        pod.start("other")
    assert refused.value.code == "pod_removed"
    assert pod.observe(boot="boot-2") == []
    assert pod.actions() == {}


def test_finished_servers_are_bounded_and_their_launch_ids_never_come_again() -> None:
    pod = Pod(inventory(1))
    for round_ in range(3):
        pod.start("first")
        pod.stop("first")
        pod.do(stopped(f"box/first/{round_ + 1}"))
    for number in range(FINISHED_KEPT + 5):
        pod.later(1)
        pod.start(f"s{number}")
        identity = pod.launch_id(f"s{number}")
        pod.stop(f"s{number}")
        pod.do(stopped(identity))
    assert len(pod.state.servers) == FINISHED_KEPT
    assert "first" not in pod.state.servers
    pod.start("first")
    assert pod.launch_id("first") == "box/first/4"


def test_a_state_that_would_not_fit_is_refused() -> None:
    pod = Pod()

    def start_many() -> None:
        for number in range(200):
            pod.start(f"s{number}", arguments=("x" * 4_000,) * 4)

    with pytest.raises(Rejected) as refused:
        start_many()
    assert refused.value.code == "state_too_large"
    assert "model servers" in refused.value.message
    # Facts are taken in all the same.
    pod.do(PodUnreachable(reason="no route to host"))


def test_the_state_survives_its_encoding() -> None:
    pod = Pod(inventory(2, foreign=[1]))
    pod.attach("one", "a", memory=0.5)
    pod.ready("a")
    pod.start("b", memory="40%", context="4k")
    pod.start("c")
    pod.stop("b")
    pod.do(PodUnreachable(reason="x"))
    assert GpuPodState.model_validate_json(pod.state.model_dump_json()) == pod.state


def test_what_is_remembered_of_commands_is_shed_before_anything_is_refused() -> None:
    pod = Pod(inventory(1))
    for number in range(LEDGER_LIMIT):
        pod.state = pod.state.with_ledger(f"{number:~>160}", "a_code_of_some_length_that_says_what_was_wrong")
    pod.start()
    assert json_size(pod.state) < RESERVE
    assert pod.state.outcome(f"{LEDGER_LIMIT - 1:~>160}") is not None
