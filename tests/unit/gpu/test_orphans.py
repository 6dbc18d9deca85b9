"""Launches that nobody here owns: listed, gone around, ended only where it is certain that they may be."""

import pytest

from domain.errors import Rejected
from domain.gpu.commands import LaunchFailed, PodUnreachable, ReapLaunch, StopFailed
from domain.gpu.leases import leases
from domain.gpu.observation import GpuShare, MemoryReading, Observation
from domain.gpu.queue import waits_for
from domain.gpu.schedule import Stop, WakeAt
from tests.unit.gpu.pod import Pod, exited, inventory, running, stopped, types

STRAY = "box/other/7"


def stray(launch_id: str = STRAY, owner: str | None = "somebody") -> Observation:
    return running(launch_id, owner=owner, gpus=(GpuShare(uuid="GPU-0", share=0.9),), ports=(8001,))


def orphaned_pod(owner: str | None = "somebody") -> Pod:
    pod = Pod(inventory(2))
    pod.observe(stray(owner=owner))
    return pod


def test_one_is_listed_with_its_owner_and_gone_around() -> None:
    pod = orphaned_pod()
    [orphan] = pod.state.orphans
    assert (orphan.launch_id, orphan.owner, orphan.reap) == (STRAY, "somebody", None)
    pod.start()
    plan = pod.server().plan
    assert plan is not None
    assert plan.gpus == ("GPU-1",)
    assert plan.port == 8002
    assert not any(isinstance(action, Stop) for action in pod.actions().values())


@pytest.mark.parametrize(
    ("owner", "named", "code"),
    [
        ("somebody", None, "not_the_owner"),
        ("somebody", "register", "not_the_owner"),
        ("somebody", "", "not_the_owner"),
        (None, None, "not_the_owner"),
        (None, "somebody", "not_the_owner"),
    ],
)
def test_what_belongs_to_another_is_ended_only_by_its_exact_name(
    owner: str | None, named: str | None, code: str
) -> None:
    pod = orphaned_pod(owner)
    with pytest.raises(Rejected) as refused:
        pod.do(ReapLaunch(launch_id=STRAY, owner=named))
    assert refused.value.code == code
    assert "--owner" in refused.value.message


@pytest.mark.parametrize(("owner", "named"), [("register", None), ("somebody", "somebody"), (None, "")])
def test_a_reap_is_a_verified_stop_and_frees_the_gpu_only_then(owner: str | None, named: str | None) -> None:
    pod = orphaned_pod(owner)
    assert types(pod.do(ReapLaunch(launch_id=STRAY, owner=named))) == ["orphan_reaping"]
    assert f"stop/{STRAY}/30" in pod.actions()
    assert pod.do(ReapLaunch(launch_id=STRAY, owner=named)) == []
    pod.observe(exited(STRAY, owner=owner))
    pod.observe()
    assert [lease.gpu for lease in leases(pod.state)] == ["GPU-0"]
    events = pod.do(stopped(STRAY, killed=2))
    assert types(events) == ["orphan_reaped"]
    assert events[0].payload["killed"] == 2
    assert pod.state.orphans == ()
    assert list(pod.actions()) == ["watch/0"]


def test_a_reap_that_fails_or_leaves_memory_is_tried_again() -> None:
    pod = orphaned_pod("register")
    pod.do(ReapLaunch(launch_id=STRAY))
    events = pod.do(StopFailed(launch_id=STRAY, code="stop_not_verified", message="survives"))
    assert events[0].payload["retry_in_seconds"] == 5
    assert isinstance(pod.actions()["wake"], WakeAt)
    pod.later(5)
    memory = {"GPU-0": MemoryReading(before=4, now=70_000)}
    events = pod.do(stopped(STRAY, state="memory_unexplained", memory=memory))
    assert events[0].payload["retry_in_seconds"] == 10
    assert leases(pod.state)


def test_what_is_not_listed_is_not_reaped() -> None:
    pod = orphaned_pod()
    pod.start()
    for launch_id in ("box/qwen/1", "box/nobody/1"):
        with pytest.raises(Rejected, match="orphan_not_found"):
            pod.do(ReapLaunch(launch_id=launch_id))


def test_a_reap_waits_for_the_machine() -> None:
    pod = orphaned_pod("register")
    pod.do(PodUnreachable(reason="no route to host"))
    pod.do(ReapLaunch(launch_id=STRAY))
    assert list(pod.actions()) == ["watch/0"]
    pod.observe(stray(owner="register"))
    assert f"stop/{STRAY}/30" in pod.actions()


def refused_pod() -> Pod:
    """A launch that was refused, after which the server got another one."""
    pod = Pod(inventory(2))
    pod.start()
    pod.do(LaunchFailed(launch_id="box/qwen/1", code="port_taken", message="taken"))
    assert pod.launch_id() == "box/qwen/2"
    return pod


def test_a_launch_whose_end_this_pod_decided_is_ended_by_itself() -> None:
    pod = refused_pod()
    pod.launched()
    assert types(pod.observe(running("box/qwen/2"), stray("box/qwen/1", "register"))) == [
        "orphan_found",
        "orphan_reaping",
    ]
    assert "stop/box/qwen/1/30" in pod.actions()


@pytest.mark.parametrize("owner", ["somebody", None])
def test_the_same_launch_of_another_owner_is_left_alone(owner: str | None) -> None:
    pod = refused_pod()
    assert types(pod.observe(stray("box/qwen/1", owner))) == ["orphan_found"]


def test_a_newer_launch_than_this_pod_knows_is_left_alone() -> None:
    pod = Pod(inventory(2))
    pod.start()
    pod.stop()
    pod.do(stopped("box/qwen/1"))
    unknown = stray("box/qwen/2", "register")
    assert types(pod.observe(unknown)) == ["orphan_found"]
    pod.start()
    assert pod.server().state == "pending"
    assert pod.observe(unknown) == []
    assert pod.state.orphans[0].reap is None


def test_a_server_waits_for_the_end_of_a_launch_of_its_own_that_this_pod_has_no_memory_of() -> None:
    pod = Pod(inventory(2))
    pod.observe(stray("box/qwen/4", "register"))
    pod.start()
    assert pod.server().state == "pending"
    assert waits_for(pod.state, pod.server()).startswith("the end of its launch box/qwen/4")
    pod.start("other")
    assert pod.server("other").state == "launching"
    pod.do(ReapLaunch(launch_id="box/qwen/4"))
    pod.do(stopped("box/qwen/4"))
    assert pod.launch_id() == "box/qwen/5"


def test_a_launch_of_a_server_that_this_pod_never_had_is_left_alone() -> None:
    pod = Pod(inventory(2))
    assert types(pod.observe(stray("box/unknown/1", "register"))) == ["orphan_found"]
