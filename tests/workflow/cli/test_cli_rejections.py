"""Every refusal that people meet, asked for in each way there is: by podctl, by an update, and by a bare signal."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import JsonValue, TypeAdapter

from domain.task.commands import CancelTask, CreateTracker, PostMessage, RequestApproval, TaskCommand
from domain.task.models import TaskInput, TrackerItem, TrackerPhase
from domain.task.plan_file import read_plan
from podctl.client import PodctlClient, Refused, new_command_id
from tests.workflow.cli.support import CommandLine
from tests.workflow.support import Task, asked
from workflows import names

PLAN = """
workstreams:
  - {id: first, title: First, executor: signal}
  - {id: second, title: Second, depends_on: [first], executor: signal}
"""


def part(name: str, *depends_on: str) -> JsonValue:
    return {"id": name, "title": name, "depends_on": [*depends_on], "executor": {"type": "signal"}}


def plan(*parts: JsonValue) -> dict[str, JsonValue]:
    return {"plan": {"workstreams": [*parts]}}


#: Where the task is; command and its fields; the code; signal and its fields, where one asks for the same.
REFUSED: list[tuple[str, str, Any, str, str | None, Any]] = [
    ("empty", "approve_spec", {}, "spec_empty", "approve-spec", {}),
    ("empty", "approve_plan", {}, "invalid_phase", "approve-plan", {}),
    ("empty", "approve", {}, "nothing_to_approve", "approve", {}),
    ("empty", "reject", {"gate": "plan"}, "nothing_to_approve", "reject", {"gate": "plan"}),
    ("empty", "update_plan", plan(part("a", "gone")), "unknown_dependency", None, {}),
    ("empty", "update_plan", plan(part("a", "b"), part("b", "a")), "dependency_cycle", None, {}),
    ("empty", "update_plan", plan(part("a", "a")), "self_dependency", None, {}),
    ("empty", "update_plan", plan(part("a"), part("a")), "duplicate_workstream", None, {}),
    ("empty", "approve_transition", {}, "no_pending_transition", None, {}),
    ("empty", "set_item_status", {"item_id": "x", "status": "done"}, "no_tracker", None, {}),
    ("empty", "start_workstream", {"ws_id": "first"}, "invalid_phase", None, {}),
    (
        *("empty", "update_spec", {"content": "x" * 300_000}, "content_too_long"),
        *("message", {"content": "x" * 20_000}),
    ),
    (
        *("at work", "complete_workstream", {"ws_id": "gone"}, "workstream_not_found"),
        *("workstream-result", {"workstream": "gone", "status": "completed"}),
    ),
    (
        *("at work", "complete_workstream", {"ws_id": "second"}, "workstream_not_in_progress"),
        *("workstream-result", {"workstream": "second", "status": "completed"}),
    ),
    ("at work", "start_workstream", {"ws_id": "first"}, "workstream_not_pending", None, {}),
    ("at work", "start_workstream", {"ws_id": "second"}, "dependencies_not_satisfied", None, {}),
    ("at work", "approve_spec", {}, "already_approved", "approve-spec", {}),
    ("at work", "approve_plan", {}, "already_approved", "approve-plan", {"revision": 1}),
    ("at work", "create_workstream", {"workstream": part("first")}, "duplicate_workstream", None, {}),
    (
        *("at work", "give_approval", {"message_id": "m-99", "choice": "x"}, "message_not_found"),
        *("approve", {"message_id": "m-99"}),
    ),
    (
        *("at work", "give_approval", {"message_id": "m-1", "choice": "x"}, "not_approval_request"),
        *("approve", {"message_id": "m-1"}),
    ),
    (
        *("at work", "give_approval", {"message_id": "m-2", "choice": "green"}, "invalid_choice"),
        *("approve", {"message_id": "m-2", "choice": "green"}),
    ),
    ("at work", "set_item_status", {"item_id": "leaflet", "status": "done"}, "not_owner", None, {}),
    ("at work", "agent_done", {"agent_id": "gone"}, "agent_not_found", "agent-result", {"agent": "gone"}),
    ("written", "approve_spec", {"revision": 1}, "stale_revision", "approve-spec", {"revision": 1}),
    ("over", "evaluate", {}, "already_terminal", "approve-spec", {}),
]


async def prepared(podctl: PodctlClient, name: str, where: str) -> Task:
    given = TaskInput(
        task_id=name,
        title="A title",
        by="ann",
        command_id=new_command_id(),
        spec=None if where == "empty" else "do it",
        plan=read_plan(PLAN, "plan.yaml") if where == "at work" else None,
    )
    await podctl.create_task(given)
    task = Task(podctl, name)
    if where == "written":
        update = TypeAdapter[TaskCommand](TaskCommand).validate_python(
            {"type": "update_spec", "content": "another one"}
        )
        await podctl.execute_task(name, update, by="bob")
    elif where == "over":
        await podctl.execute_task(name, CancelTask(reason="enough"), by="ann")
    elif where == "at work":
        await task.work_begins()
        await podctl.execute_task(name, PostMessage(content="m-1"), by="ann")
        await podctl.execute_task(name, RequestApproval(content="m-2", options=("red", "blue")), by="ann")
        item = TrackerItem(item_id="leaflet", summary="A leaflet", workstream_id="first")
        board = CreateTracker(phases=(TrackerPhase(phase_id="one", name="One", items=(item,)),))
        await podctl.execute_task(name, board, by="ann")
    return task


async def without_refusals(task: Task) -> dict[str, Any]:
    state: dict[str, Any] = await asked(task.handle, names.STATE)
    return {field: value for field, value in state.items() if field not in {"refusals", "sequence"}}


@pytest.mark.parametrize("where", ["empty", "written", "at work", "over"])
async def test_each_refusal_has_its_code_whichever_way_it_is_asked_for(
    podctl: CommandLine, working: PodctlClient, unique: Callable[[str], str], where: str
) -> None:
    task = await prepared(working, unique("task"), where)
    before = await without_refusals(task)
    for at, kind, fields, code, signal, payload in REFUSED:
        if at != where:
            continue
        typed = await podctl("task", "send", task.id, kind, "--json", json.dumps(fields), "--as", "bob", status=1)
        assert typed.errors.startswith(f"error: {code}: "), (kind, typed.errors)
        command = TypeAdapter[TaskCommand](TaskCommand).validate_python({"type": kind, **fields})
        with pytest.raises(Refused) as refused:
            await working.execute_task(task.id, command, by="bob")
        assert refused.value.code == code, kind
        if signal is None:
            continue
        status = {"status": "completed"} if signal == "agent-result" else {}
        if where == "over":
            with pytest.raises(Refused) as refused:
                await working.signal_task(task.id, signal, {"by": "bob", **payload})
            assert refused.value.code == code
        else:
            count = len((await task.state()).refusals)
            await task.handle.signal(signal, {"by": "bob", **status, **payload})
            state = await task.until(lambda s, count=count: len(s.refusals) > count, f"{signal} is refused")  # type: ignore[misc]
            assert (state.refusals[-1].code, state.refusals[-1].by) == (code, "bob"), signal
    assert await without_refusals(task) == before
