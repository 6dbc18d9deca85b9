"""What becomes of a model server that nobody looks after: restarts, idle stops, stalled starts, orphans, sharing."""

import signal
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest

from activities import gpu_pods
from domain.gpu import budgets, restarts
from domain.gpu.commands import ReapLaunch, StopServer
from domain.gpu.leases import leases
from domain.gpu.models import ModelServer
from domain.gpu.schedule import detail
from podctl.client import PodctlClient, Refused
from simulator.api import Process
from tests.workflow.support import SimulatedPod, eventually, register


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restarts, "FIRST_DELAY_SECONDS", 0.5)


def launch_folder(pod: SimulatedPod, launch_id: str) -> Path:
    return pod.machine.folder / "home" / f".podctl-{pod.name}" / "launches" / launch_id


def log_of(pod: SimulatedPod, launch_id: str) -> str:
    return (launch_folder(pod, launch_id) / "output.log").read_text()


def environment_of(process: Process) -> dict[str, str]:
    entries = Path(f"/proc/{process.pid}/environ").read_text().split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


async def servers_running(pod: SimulatedPod) -> list[Process]:
    return [process for process in await pod.machine.processes() if process.role == "api_server"]


async def launch_is(pod: SimulatedPod, server: str, counter: int, state: str) -> ModelServer:
    """Wait until the launch of that number is in ``state``."""
    wanted = (counter, state)
    found = await pod.until(
        lambda s: server in s.servers and (s.servers[server].counter, s.servers[server].state) == wanted,
        f"launch {counter} of {server} is {state}",
    )
    return found.servers[server]


async def events_of(pod: SimulatedPod, server: str) -> list[tuple[str, dict[str, Any]]]:
    events = (await pod.podctl.log(pod.workflow_id)).events
    return [(event.type, event.payload) for event in events if event.payload.get("server") == server]


# -- restarts -----------------------------------------------------------------------------------------------------


async def test_a_crash_is_followed_by_a_launch_of_its_own_and_the_log_before_stays(pod: SimulatedPod) -> None:
    await pod.machine.settings(seconds_from_engine_death_to_exit=0.1)
    await pod.start("coder", restart="on-failure")
    first = await pod.server_is("coder", "ready")
    await pod.machine.signal_servers("engine", signal.SIGKILL)
    second = await launch_is(pod, "coder", 2, "ready")
    assert first.launch_id == f"{pod.name}/coder/1"
    assert second.launch_id == f"{pod.name}/coder/2"
    assert len(second.restarts) == 1
    assert second.failure is None
    for launch_id in (first.launch_id, second.launch_id):
        assert log_of(pod, launch_id).count("vLLM API server version") == 1
    assert len(await servers_running(pod)) == 1
    order = [kind for kind, _ in await events_of(pod, "coder")]
    end = order.index("server_failed")
    assert order[end:][:8] == [
        "server_failed",
        "server_stopping",
        "server_stopped",
        "lease_released",
        "server_restarting",
        "server_queued",
        "lease_granted",
        "server_launching",
    ]


async def test_one_that_waits_to_be_launched_again_is_stopped_for_good(
    pod: SimulatedPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restarts, "FIRST_DELAY_SECONDS", 3_600.0)
    await pod.start("coder", restart="always")
    await pod.server_is("coder", "ready")
    await pod.machine.signal_servers("api_server", signal.SIGKILL)
    waiting = await pod.server_is("coder", "restarting")
    assert not waiting.holds_lease
    await pod.podctl.execute_pod(pod.name, StopServer(name="coder"), by="ann")
    stopped = await pod.server_is("coder", "stopped")
    assert stopped.counter == 1
    assert await servers_running(pod) == []


async def test_a_start_that_keeps_failing_comes_to_an_end_and_says_so(
    pod: SimulatedPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restarts, "FIRST_DELAY_SECONDS", 0.05)
    await pod.machine.settings(start_failure="out_of_memory", load_seconds=0.0)
    await pod.start("coder", restart="on-failure")
    failed = await launch_is(pod, "coder", 1 + restarts.MAXIMUM_RESTARTS, "failed")
    assert failed.failure
    assert failed.failure.type == "out_of_memory"
    assert "5 times within the hour" in failed.failure.message
    await pod.until(lambda s: s.servers["coder"].finished, "its GPU is given back")
    assert await servers_running(pod) == []


async def test_a_start_that_only_a_person_can_help_is_not_tried_again(pod: SimulatedPod) -> None:
    await pod.machine.settings(start_failure="gated_model", load_seconds=0.0)
    await pod.start("coder", restart="on-failure")
    failed = await pod.server_is("coder", "failed")
    assert failed.failure
    assert failed.failure.type == "model_gated"
    assert failed.counter == 1


async def test_a_reboot_is_survived_by_always(pod: SimulatedPod) -> None:
    await pod.start("coder", restart="always")
    await pod.start("other", restart="on-failure")
    await pod.server_is("coder", "ready")
    await pod.server_is("other", "ready")
    await pod.machine.reboot()
    await launch_is(pod, "coder", 2, "ready")
    other = await pod.server_is("other", "failed")
    assert other.failure
    assert other.failure.type == "machine_rebooted"
    assert len(await servers_running(pod)) == 1


async def test_one_that_does_not_respond_any_more_is_ended_and_launched_again(
    pod: SimulatedPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budgets, "UNRESPONSIVE_AFTER", 1.0)
    # Its API server lives on behind a dead engine and answers /health with 503.
    await pod.machine.settings(seconds_from_engine_death_to_exit=3_600.0)
    await pod.start("coder", restart="on-failure")
    await pod.start("kept")
    await pod.server_is("coder", "ready")
    await pod.server_is("kept", "ready")
    await pod.machine.signal_servers("engine", signal.SIGKILL)
    await launch_is(pod, "coder", 2, "ready")
    kept = await pod.server_is("kept", "unhealthy")
    assert kept.unhealthy_reason
    assert kept.counter == 1
    failures = [payload for kind, payload in await events_of(pod, "coder") if kind == "server_failed"]
    assert [payload["failure"] for payload in failures] == ["unresponsive"]


async def test_three_completions_without_an_answer_end_a_hung_server(
    pod: SimulatedPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budgets, "UNRESPONSIVE_AFTER", 1.0)
    for name, seconds in {"canary_every": 0.5, "canary_timeout": 2.0, "canary_retry": 0.1}.items():
        monkeypatch.setitem(gpu_pods.WATCH_PACE, name, seconds)
    await pod.start("coder", restart="on-failure")
    await pod.server_is("coder", "ready")
    await pod.machine.signal_servers("engine", signal.SIGSTOP)
    await launch_is(pod, "coder", 2, "ready")
    failures = [payload for kind, payload in await events_of(pod, "coder") if kind == "server_failed"]
    assert [payload["failure"] for payload in failures] == ["unresponsive"]
    assert "3 completions in a row had no answer" in failures[0]["message"]


# -- what time alone decides --------------------------------------------------------------------------------------


async def test_a_server_that_nobody_uses_is_stopped(pod: SimulatedPod) -> None:
    await pod.start("coder", idle_ttl=2.0, restart="always")
    await pod.start("kept")
    stopped = await pod.server_is("coder", "stopped")
    assert stopped.stop_result
    assert stopped.failure is None
    reasons = [payload["reason"] for kind, payload in await events_of(pod, "coder") if kind == "server_stopping"]
    assert len(reasons) == 1
    assert reasons[0].startswith("idle: no request for")
    await pod.server_is("kept", "ready")


async def test_a_start_that_makes_no_progress_is_ended_with_its_stage(
    pod: SimulatedPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budgets, "STAGE_BUDGETS", dict.fromkeys(budgets.STAGE_BUDGETS, 3.0))
    (pod.machine.hooks / "vllm.loading").touch()
    try:
        await pod.start("coder")
        failed = await pod.server_is("coder", "failed")
    finally:
        (pod.machine.hooks / "vllm.loading").unlink()
    assert failed.failure
    assert failed.failure.type == "load_stalled"
    assert "may take 3 s without any" in failed.failure.message
    assert failed.failure.log_tail
    await pod.until(lambda s: s.servers["coder"].finished, "its GPU is given back")
    assert await servers_running(pod) == []


# -- stops --------------------------------------------------------------------------------------------------------


async def test_a_second_stop_with_a_shorter_grace_does_not_wait_for_the_first(pod: SimulatedPod) -> None:
    await pod.machine.settings(hang_on_term="always")
    await pod.start("coder", grace=3_600.0)
    await pod.server_is("coder", "ready")
    await pod.podctl.execute_pod(pod.name, StopServer(name="coder"), by="ann")

    async def asked() -> bool:
        return (launch_folder(pod, f"{pod.name}/coder/1") / "stop.json").exists()

    await eventually(asked, "the machine has been asked")
    assert len(await servers_running(pod)) == 1
    await pod.podctl.execute_pod(pod.name, StopServer(name="coder", grace=0.5), by="ann")
    stopped = await pod.server_is("coder", "stopped")
    assert stopped.exit is not None
    assert stopped.exit.signal == signal.SIGKILL
    assert await servers_running(pod) == []


async def test_a_server_is_exposed_only_where_that_was_asked_for(pod: SimulatedPod) -> None:
    await pod.start("open", expose=True)
    await pod.start("hidden")
    await pod.server_is("open", "ready")
    await pod.server_is("hidden", "ready")
    hosts = {
        process.arguments[process.arguments.index("--host") + 1]
        for process in await servers_running(pod)
        if "--host" in process.arguments
    }
    assert hosts == {"0.0.0.0", pod.machine.address}  # noqa: S104 - what was asked for


# -- several GPUs, and several servers on one ---------------------------------------------------------------------


@pytest.mark.parametrize("parallel", ["--tensor-parallel-size", "--data-parallel-size"])
async def test_a_server_over_two_gpus_gets_both_and_a_block_of_ports(pod: SimulatedPod, parallel: str) -> None:
    await pod.start("coder", arguments=(parallel, "2"))
    await pod.start("waits")
    ready = await pod.server_is("coder", "ready")
    assert ready.plan
    assert ready.launch_id
    assert ready.plan.gpus == tuple(gpu.uuid for gpu in pod.machine.gpus)
    used = await pod.machine.gpu_memory()
    assert all(used[gpu.uuid] > 0 for gpu in pod.machine.gpus)
    [root] = await servers_running(pod)
    environment = environment_of(root)
    assert environment["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert environment["VLLM_PORT"] == str(ready.plan.internal_ports[0])
    assert (await pod.state()).servers["waits"].state == "pending"
    await pod.podctl.execute_pod(pod.name, StopServer(name="coder"), by="ann")
    after = await pod.server_is("waits", "ready")
    assert after.plan
    assert len(after.plan.gpus) == 1


async def test_two_servers_share_a_gpu_and_the_third_waits_until_one_stops(pod: SimulatedPod) -> None:
    whole, shared = (gpu.uuid for gpu in pod.machine.gpus)
    await pod.start("whole", memory=1.0)
    await pod.server_is("whole", "ready")
    for name in ("one", "two", "three"):
        await pod.start(name, memory=0.45)
    await pod.server_is("one", "ready")
    await pod.server_is("two", "ready")
    state = await pod.state()
    assert state.servers["three"].state == "pending"
    assert [lease.share for lease in leases(state) if lease.gpu == shared] == [0.45, 0.45]
    plans = [server.plan for server in state.servers.values() if server.plan]
    ports = [port for plan in plans for port in plan.ports]
    assert len(ports) == len(set(ports))
    assert plans[0].gpus == (whole,)
    await pod.podctl.execute_pod(pod.name, StopServer(name="one"), by="ann")
    third = await pod.server_is("three", "ready")
    assert third.plan
    assert third.plan.gpus == (shared,)


# -- a workflow that forgot ---------------------------------------------------------------------------------------


async def test_a_pod_registered_anew_goes_around_what_runs_and_lists_it_with_its_owner(
    pod: SimulatedPod, podctl: PodctlClient
) -> None:
    await pod.start("coder")
    before = await pod.server_is("coder", "ready")
    owner = (await pod.state()).owner
    await pod.handle.terminate("its history is lost")
    again = await register(podctl, pod.machine, pod.name)
    state = await again.until(lambda s: s.orphans, "what runs there is listed")
    [orphan] = state.orphans
    assert (orphan.launch_id, orphan.owner) == (before.launch_id, owner)
    assert owner != state.owner
    await again.start("coder")
    after = await again.server_is("coder", "ready")
    assert before.plan
    assert after.plan
    assert after.launch_id == f"{pod.name}/coder/2", await again.story()
    assert not {*before.plan.gpus} & {*after.plan.gpus}
    assert not {*before.plan.ports} & {*after.plan.ports}
    assert len(await servers_running(pod)) == 2

    assert before.launch_id
    with pytest.raises(Refused, match="somebody else may need it"):
        await podctl.execute_pod(pod.name, ReapLaunch(launch_id=before.launch_id), by="ann")
    await podctl.execute_pod(pod.name, ReapLaunch(launch_id=before.launch_id, owner=owner), by="ann")
    await again.until(lambda s: not s.orphans, "it is ended")
    assert len(await servers_running(pod)) == 1
    assert (await again.state()).servers["coder"].state == "ready"
    assert "orphan_reaped" in await again.event_types()


async def test_a_workflow_that_was_reset_launches_nothing_twice(pod: SimulatedPod) -> None:
    await pod.until(lambda s: s.inventory, "the machine was looked at")
    history = await pod.handle.fetch_history()
    done = EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
    first = next(event.event_id for event in history.events if event.event_type == done)
    await pod.start("coder")
    before = await pod.server_is("coder", "ready")
    await pod.podctl.temporal.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=pod.podctl.temporal.namespace,
            workflow_execution=WorkflowExecution(workflow_id=pod.workflow_id),
            reason="a person made a mistake",
            workflow_task_finish_event_id=first,
            request_id="reset",
        )
    )

    # Temporal asks the new run for the server again: it must not be launched beside the launch that lives.
    state = await pod.until(
        lambda s: s.orphans and "coder" in s.servers and s.inventory_at, "it knows of what runs and what is wanted"
    )
    [orphan] = state.orphans
    assert (orphan.launch_id, orphan.owner) == (before.launch_id, state.owner)
    assert "has no memory of" in detail(state, state.servers["coder"])
    assert len(await servers_running(pod)) == 1
    assert before.launch_id
    await pod.podctl.execute_pod(pod.name, ReapLaunch(launch_id=before.launch_id), by="ann")
    after = await pod.server_is("coder", "ready")
    assert after.launch_id == f"{pod.name}/coder/2"
    assert len(await servers_running(pod)) == 1
