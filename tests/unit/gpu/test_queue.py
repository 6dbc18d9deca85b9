from domain.gpu.commands import PodUnreachable
from domain.gpu.leases import leases, taken_ports
from domain.gpu.queue import queue, waits_for
from tests.unit.gpu.pod import Pod, inventory, stopped, types


def test_first_come_first_served() -> None:
    pod = Pod(inventory(1))
    pod.start("a")
    pod.later(1)
    pod.start("z")
    pod.later(1)
    pod.start("b")
    assert [server.name for server in queue(pod.state)] == ["z", "b"]
    pod.stop("a")
    pod.do(stopped("box/a/1"))
    assert pod.server("z").state == "launching"
    assert pod.server("b").state == "pending"


def test_who_waits_is_told_for_whom() -> None:
    pod = Pod(inventory(1))
    pod.start("a")
    events = pod.start("b")
    assert types(events) == ["server_requested", "server_queued"]
    assert waits_for(pod.state, pod.server("b")) == "room: b needs 0.9 of a GPU: GPU 0 is used by a (0.9)"
    assert events[1].payload["reason"] == waits_for(pod.state, pod.server("b"))
    assert waits_for(pod.state, pod.server("a")) == ""


def test_small_ones_share_while_their_shares_fit() -> None:
    pod = Pod(inventory(1))
    for name in ("a", "b", "c", "d"):
        pod.later(1)
        pod.start(name, memory=0.3)
    assert [pod.server(name).state for name in "abcd"] == ["launching", "launching", "launching", "pending"]
    assert sum(lease.share for lease in leases(pod.state)) <= 1
    ports = [plan.port for name in "abc" if (plan := pod.server(name).plan)]
    assert ports == [8001, 8002, 8003]
    assert 20_000 in taken_ports(pod.state)


def test_a_large_one_is_not_starved_by_small_ones() -> None:
    pod = Pod(inventory(2))
    pod.start("small-1")
    pod.later(1)
    pod.start("large", arguments=("--tensor-parallel-size", "2"))
    pod.later(1)
    pod.start("small-2")
    assert pod.server("large").state == "pending"
    assert pod.server("small-2").state == "pending"
    assert "large (first in the queue)" in waits_for(pod.state, pod.server("small-2"))
    pod.stop("small-1")
    pod.do(stopped("box/small-1/1"))
    assert pod.server("large").state == "launching"
    assert pod.server("small-2").state == "pending"


def test_those_that_do_not_stand_in_its_way_go_ahead() -> None:
    pod = Pod(inventory(3))
    pod.start("a")
    pod.start("b")
    pod.later(1)
    pod.start("large", arguments=("--tensor-parallel-size", "2"))
    pod.later(1)
    pod.stop("a")
    assert pod.server("large").state == "pending"
    pod.do(stopped("box/a/1"))
    assert pod.server("large").state == "launching"


def test_nothing_is_planned_on_an_old_look() -> None:
    pod = Pod(inventory(1))
    pod.later(61)
    pod.start()
    assert pod.server().state == "pending"
    assert waits_for(pod.state, pod.server()) == "a look at the machine's GPUs"
    assert list(pod.actions()) == ["watch/0", "inspect/0"]
    pod.observe(inventory=inventory(1, foreign=[0]))
    assert pod.server().state == "pending"
    assert "somebody else" in waits_for(pod.state, pod.server())


def test_an_old_look_is_good_enough_to_go_on_waiting() -> None:
    pod = Pod(inventory(1))
    pod.start("a")
    pod.start("b")
    pod.later(3600)
    pod.launched("a")
    assert list(pod.actions()) == ["watch/0"]


def test_who_waits_for_somebody_elses_process_looks_again_less_and_less_often() -> None:
    pod = Pod(inventory(1, foreign=[0]))
    pod.start()
    waits = []
    for _ in range(8):
        waited = 0
        while "inspect/0" not in pod.actions():
            pod.later(1)
            waited += 1
        waits.append(waited)
        assert pod.observe(inventory=inventory(1, foreign=[0])) == []
    assert waits == [15, 30, 60, 120, 240, 480, 600, 600]
    pod.later(600)
    pod.observe(inventory=inventory(1))
    assert pod.server().state == "launching"


def test_nothing_is_started_on_a_pod_that_does_not_answer() -> None:
    pod = Pod(inventory(1))
    pod.do(PodUnreachable(reason="connection refused"))
    pod.start()
    assert "unreachable since 2026-01-01 00:00:00: connection refused" in waits_for(pod.state, pod.server())
    pod.observe()
    assert pod.server().state == "launching"
