"""Cancelling: whatever is open is closed, whatever runs is stopped, what is held is released, and nothing follows."""

import pytest
from pydantic import TypeAdapter

from domain.task.command_fields import field_of
from domain.task.commands import (
    CancelTask,
    PostMessage,
    RegisterAgent,
    RequestAction,
    RequestApproval,
    RequestTransition,
    TaskCommand,
)
from domain.task.models import AgentType, CommandExecutor, Phase, RunAction
from domain.task.rules import PEOPLE, RULES
from domain.task.signals import EXAMPLES, MODEL_SERVER
from podctl.client import PodctlClient, Refused
from tests.workflow.support import MODEL, SimulatedPod, Task, Tasks, asked, eventually
from workflows import names


def plan(pod: str) -> str:
    return f"""
model_servers:
  - {{name: coder, model: {MODEL}, pod: {pod}}}
workstreams:
  - {{id: run, title: Run, executor: {{type: command, pod: {pod}, argv: [sleep, '1000']}}}}
  - {{id: ask, title: Ask, executor: {{type: command, server: coder, argv: [sleep, '1001']}}}}
  - {{id: outside, title: Outside, executor: signal}}
"""


async def busy_task(podctl: PodctlClient, tasks: Tasks, pod: SimulatedPod) -> Task:
    """Return a task with everything under way that there is: programs, a server, an agent, open questions."""
    task = await tasks.create(plan(pod.name))
    await task.work_begins()
    await task.until(lambda s: s.workstreams["ask"].status == "in_progress", "the server is ready and used")

    async def run() -> bool:
        titles = {process.title for process in await pod.machine.processes()}
        return {"sleep 1000", "sleep 1001"} <= titles

    await eventually(run, "both programs run")
    for command in (
        RegisterAgent(agent_id="coder-1", agent_type=AgentType.WORKSTREAM, workstream_id="outside"),
        RequestApproval(content="red or blue?", options=("red", "blue"), agent_id="coder-1", blocking=True),
        RequestApproval(content="all of it?", workstream_id="run"),
        RequestAction(action=RunAction(executor=CommandExecutor(argv=("true",), pod=pod.name)), reason="to clean up"),
        PostMessage(content="how long?", message_type="question"),
    ):
        await podctl.execute_task(task.id, command, by="coder-1")
    return task


@pytest.mark.parametrize("way", ["command", "temporal"])
async def test_cancelling_ends_everything_and_says_who_and_why(
    podctl: PodctlClient, tasks: Tasks, pod: SimulatedPod, way: str
) -> None:
    task = await busy_task(podctl, tasks, pod)
    if way == "temporal":
        await task.handle.cancel(reason="not needed")
    else:
        await podctl.execute_task(task.id, CancelTask(reason="not needed"), by="ann")
    await task.handle.result()

    state = await task.state()
    by = "temporal" if way == "temporal" else "ann"
    assert (state.phase, state.cancelled_by, state.cancel_reason) == ("cancelled", by, "not needed")
    assert list(state.open_approvals()) == []
    closed = [m.approval.closed for m in state.messages.values() if m.approval]
    assert closed
    assert all(closed), closed
    assert not any(item.waits for item in state.inbox.values())
    assert state.agents["coder-1"].status == "interrupted"
    assert {action.status for action in state.actions.values()} == {"rejected"}
    assert not state.stopping_runs
    assert {server.status for server in state.servers.values()} == {"released"}
    assert [p.title for p in await pod.machine.processes() if p.title.startswith("sleep 100")] == []
    stopped = await pod.server_is("coder", "stopped")
    assert not stopped.holders

    events = (await podctl.log(task.workflow_id)).events
    [cancelled] = [event for event in events if event.type == "task_cancelled"]
    assert (cancelled.by, cancelled.payload["reason"]) == (by, "not needed")
    assert "agent_interrupted" in {event.type for event in events}
    memo = await (await task.handle.describe()).memo()
    assert (memo["phase"], memo["needs_approval"]) == ("cancelled", False)


async def test_a_task_that_is_over_answers_and_refuses(podctl: PodctlClient, tasks: Tasks) -> None:
    task = await tasks.create("workstreams: [{id: docs, title: Docs, executor: signal}]")
    await podctl.execute_task(task.id, CancelTask(reason="enough"), by="ann", command_id="the-end")
    await task.handle.result()
    before = await asked(task.handle, names.STATE)
    assert before["phase"] == "cancelled"
    assert [event["type"] for event in await asked(task.handle, names.EVENTS, 0)][-1] == "phase_changed"
    assert (await asked(task.handle, names.OUTCOME, "the-end"))["accepted"] is True

    refusals = 0
    for kind in RULES:
        if not RULES[kind].senders & PEOPLE:
            continue
        name = kind.model_fields["type"].default
        required = [field for field, info in kind.model_fields.items() if info.is_required()]
        examples = {field: found.example for field in required if (found := field_of(name, field))}
        command = TypeAdapter[TaskCommand](TaskCommand).validate_python({"type": name, **examples})
        with pytest.raises(Refused, match="cancelled by ann \\(enough\\)") as refused:
            await podctl.execute_task(task.id, command, by="bob")
        assert refused.value.code == "already_terminal", name
        refusals += 1
    assert refusals > 40
    for signal in EXAMPLES:
        if signal != MODEL_SERVER:
            with pytest.raises(Refused) as refused:
                await podctl.signal_task(task.id, signal, {"by": "bob"})
            assert refused.value.code == "already_terminal", signal
    assert await asked(task.handle, names.STATE) == before


async def test_a_pending_move_is_dropped_by_a_cancellation(podctl: PodctlClient, tasks: Tasks) -> None:
    task = await tasks.create("workstreams: [{id: docs, title: Docs, executor: signal}]")
    await task.work_begins()
    await podctl.execute_task(task.id, RequestTransition(to=Phase.PLANNING, reason="rethink"), by="ann")
    await podctl.execute_task(task.id, CancelTask(), by="bob")
    state = await task.state()
    assert state.pending_transition is None
    assert list(state.open_approvals()) == []
    assert (state.phase, state.cancelled_by) == ("cancelled", "bob")
