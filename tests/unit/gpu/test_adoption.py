# ruff: noqa: ANN401 - the fields go on to models, which check them
"""Adopting a running server: decided like a launch, taken as it is, never ended by podctl's own decision."""

from typing import Any

import pytest

from domain.entity import Event
from domain.errors import Rejected
from domain.gpu.commands import AdoptServer, LaunchDone, LaunchFailed, PodObserved
from domain.gpu.leases import leases
from domain.gpu.models import Adoption
from domain.gpu.observation import Exit, GpuShare
from domain.gpu.schedule import Launch, Stop, Watch
from tests.unit.gpu.pod import Pod, exited, inventory, request, running, stopped, types

LAUNCH = "box/qwen/1"


def adopt(pod: Pod, name: str = "qwen", *, port: int = 8001, **fields: Any) -> list[Event]:
    wanted = request(name, restart="always", idle_ttl=60.0)
    return pod.do(AdoptServer(**{"request": wanted, "pid": 50, "port": port, "gpus": (1,), **fields}))


def adopted_pod(share: float = 0.35, **fields: Any) -> Pod:
    """A pod with a server that the podlet found on GPU 0, whatever was kept of it."""
    pod = Pod(inventory(2))
    adopt(pod, **fields)
    found = running(LAUNCH, owner="register", gpus=(GpuShare(uuid="GPU-0", share=share),))
    pod.do(LaunchDone(launch_id=LAUNCH, observation=found))
    return pod


def test_it_is_decided_like_a_launch_and_taken_as_it_is() -> None:
    pod = Pod(inventory(2))
    assert types(adopt(pod, log="/tmp/x.log")) == ["server_adopting"]  # noqa: S108 - on the pod
    action = pod.actions()[f"launch/{LAUNCH}"]
    assert isinstance(action, Launch)
    assert action.adopted == Adoption(pid=50, log="/tmp/x.log")  # noqa: S108
    assert (action.plan.gpus, action.plan.ports, action.owner) == (("GPU-1",), (8001,), "register")
    found = running(LAUNCH, owner="register", gpus=(GpuShare(uuid="GPU-0", share=0.35),))
    events = pod.do(LaunchDone(launch_id=LAUNCH, observation=found))
    assert types(events) == ["server_adopted", "server_loading"]
    server = pod.server()
    assert (server.state, server.pid, server.kept) == ("loading", 100, True)
    assert (server.request.restart, server.request.idle_ttl) == ("never", None)
    assert [(lease.gpu, lease.share) for lease in leases(pod.state)] == [("GPU-0", 0.35)]
    pod.observe_one(running(LAUNCH, ready=True))
    assert pod.server().state == "ready"


def test_asking_again_changes_nothing() -> None:
    pod = adopted_pod()
    before = pod.state
    assert adopt(pod) == []
    assert pod.state.servers == before.servers
    with pytest.raises(Rejected) as refused:
        adopt(pod, pid=51)
    assert refused.value.code == "already_running"


def test_leases_are_facts_even_beyond_what_a_gpu_has() -> None:
    pod = Pod(inventory(1))
    for number, name in enumerate(("a", "b")):
        adopt(pod, name, port=8001 + number, gpus=(0,))
        found = running(f"box/{name}/1", gpus=(GpuShare(uuid="GPU-0", share=0.9),))
        pod.do(LaunchDone(launch_id=f"box/{name}/1", observation=found))
    assert [lease.share for lease in leases(pod.state)] == [0.9, 0.9]
    assert not any(isinstance(action, Stop) for action in pod.actions().values())
    pod.start("more", memory=0.1)
    assert pod.server("more").state == "pending"


@pytest.mark.parametrize(
    ("fields", "code"),
    [({"gpus": (0, 7)}, "gpu_missing"), ({"name": "other"}, "port_taken"), ({"pid": 9}, "already_running")],
)
def test_what_cannot_be_is_refused_at_once(fields: dict[str, Any], code: str) -> None:
    pod = adopted_pod() if code != "gpu_missing" else Pod(inventory(2))
    with pytest.raises(Rejected) as refused:
        adopt(pod, **fields)
    assert refused.value.code == code


def test_before_the_first_look_at_the_machine_its_gpus_are_not_known() -> None:
    with pytest.raises(Rejected) as refused:
        adopt(Pod())
    assert refused.value.code == "not_looked_at"


def test_a_refusal_of_the_podlet_leaves_nothing_and_can_be_tried_again() -> None:
    pod = Pod(inventory(2))
    adopt(pod)
    events = pod.do(LaunchFailed(launch_id=LAUNCH, code="other_program", message="process 7, nginx, listens there"))
    assert types(events) == ["launch_refused", "server_failed", "lease_released"]
    server = pod.server()
    assert (server.state, server.failure and server.failure.type) == ("failed", "not_adopted")
    assert server.failure is not None
    assert "nginx" in server.failure.message
    assert leases(pod.state) == []
    assert not any(isinstance(action, Launch | Stop) for action in pod.actions().values())
    adopt(pod)
    assert pod.launch_id() == "box/qwen/2"


def test_an_id_that_another_owner_has_used_is_not_adopted() -> None:
    pod = Pod(inventory(2))
    adopt(pod)
    pod.do(LaunchDone(launch_id=LAUNCH, observation=running(LAUNCH, owner="somebody")))
    failed = pod.server()
    assert (failed.state, failed.failure and failed.failure.type) == ("failed", "not_adopted")


def test_it_is_never_ended_nor_launched_again_by_podctl_itself() -> None:
    pod = adopted_pod()
    watch = next(action for action in pod.actions().values() if isinstance(action, Watch))
    assert (watch.loading, watch.idle_ttls) == ((), {})
    # A load that seems to stand still: its key may not be known, and its people use it.
    pod.observe_one(running(LAUNCH, silent_seconds=1e6))
    assert pod.server().state == "loading"
    pod.observe_one(running(LAUNCH, ready=True))
    pod.later(1e5)
    pod.observe_one(running(LAUNCH, ready=True, healthy=False, unhealthy_reason="no answer"))
    pod.later(1e5)
    pod.observe_one(running(LAUNCH, ready=True, healthy=False, unhealthy_reason="no answer"))
    assert pod.server().state == "unhealthy"
    assert not any(isinstance(action, Stop) for action in pod.actions().values())


def test_its_end_is_noticed_and_nobody_knows_how_it_came() -> None:
    pod = adopted_pod()
    pod.observe_one(running(LAUNCH, ready=True))
    pod.observe_one(exited(LAUNCH, None, exit=Exit(unknown=True)))
    server = pod.server()
    assert (server.state, server.retry_at) == ("failed", None)
    assert server.failure is not None
    assert server.failure.message == "ended, and nobody saw how"
    pod.do(stopped(LAUNCH))
    assert pod.server().finished
    assert pod.server().state == "failed"


def test_a_person_stops_it() -> None:
    pod = adopted_pod()
    pod.stop()
    assert any(isinstance(action, Stop) and action.launch_id == LAUNCH for action in pod.actions().values())
    pod.do(stopped(LAUNCH))
    assert pod.server().state == "stopped"


def test_a_look_may_come_before_the_report_of_the_adoption() -> None:
    pod = Pod(inventory(2))
    adopt(pod)
    found = running(LAUNCH, owner="register", gpus=(GpuShare(uuid="GPU-0", share=0.35),))
    pod.do(PodObserved(boot="boot-1", launches=(found,), known_boot="boot-1", expected=()))
    assert pod.server().state == "loading"
    assert pod.server().plan is not None
    assert [(lease.gpu, lease.share) for lease in leases(pod.state)] == [("GPU-0", 0.35)]
