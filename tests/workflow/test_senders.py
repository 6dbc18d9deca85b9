"""What only podctl says is refused from outside, before it enters the history; signals are recorded as refused."""

import pytest
from pydantic import JsonValue

from domain.gpu.commands import HolderGone
from domain.task.commands import CancelTask, TaskCommand, WorkstreamInterrupted
from podctl.client import PodctlClient, Refused
from tests.workflow.support import SimulatedPod, Tasks, history_types, refusal
from workflows import names


@pytest.mark.parametrize(
    ("command", "by"),
    [(WorkstreamInterrupted(ws_id="a", attempt=1, reason="?"), "ann"), (CancelTask(reason="enough"), "podctl")],
)
async def test_an_update_in_podctls_place_leaves_no_trace(
    tasks: Tasks, podctl: PodctlClient, command: TaskCommand, by: str
) -> None:
    task = await tasks.create()
    await task.state()
    with pytest.raises(Refused) as refused:
        await podctl.execute_task(task.id, command, by=by)
    assert refused.value.code == "not_allowed"
    assert (await history_types(podctl.temporal, task.workflow_id))["WORKFLOW_EXECUTION_UPDATE_ACCEPTED"] == 0


async def test_a_signal_in_podctls_name_is_recorded_as_refused(tasks: Tasks) -> None:
    task = await tasks.create()
    outcome = await task.signal("approve-spec", by="podctl")
    assert outcome.code == "not_allowed"
    state = await task.state()
    assert state.spec.approval is None
    assert [refusal.code for refusal in state.refusals] == ["not_allowed"]


async def test_nobody_outside_reports_for_a_pods_activities(podctl: PodctlClient, pod: SimulatedPod) -> None:
    with pytest.raises(Refused) as refused:
        await podctl.execute_pod(pod.name, HolderGone(task_id="t1"), by="ann")
    assert refused.value.code == "not_allowed"


@pytest.mark.parametrize(
    "command",
    [
        {"type": "make_coffee"},
        {"type": "update_spec", "content": "x", "color": "red"},
        {"type": "update_spec"},
        {},
        "approve",
    ],
)
async def test_an_update_of_an_unknown_command_is_refused_before_it_enters_the_history(
    tasks: Tasks, podctl: PodctlClient, command: JsonValue
) -> None:
    task = await tasks.create()
    await task.state()
    envelope: JsonValue = {"command_id": "c1", "by": "ann", "command": command}
    assert await refusal(task.handle, names.EXECUTE, envelope) is not None
    assert (await history_types(podctl.temporal, task.workflow_id))["WORKFLOW_EXECUTION_UPDATE_ACCEPTED"] == 0
    assert (await podctl.execute_task(task.id, CancelTask(reason="it still answers"), by="ann")).accepted
