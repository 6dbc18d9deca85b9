"""The workstreams of a task as documents with stable field names: what ``-o json`` prints, and programs read."""

from datetime import datetime
from typing import Any

from domain.entity import Value
from domain.errors import Rejected
from domain.task.change import names
from domain.task.models import (
    Executor,
    Priority,
    Result,
    TaskState,
    Workstream,
    WorkstreamDraft,
    WorkstreamStatus,
)
from domain.task.readiness import missing_dependencies


class WorkstreamView(Value):
    """One workstream: what the plan says of it, and how far it has come."""

    task: str
    id: str
    title: str
    description: str
    #: `pending`, `blocked`, `in_progress`, `awaiting_input`, `completed`, `failed`, `skipped`; `planned` before the
    #: plan was approved.
    status: str
    priority: Priority
    executor: Executor
    depends_on: tuple[str, ...]
    #: Dependencies that are neither completed nor skipped.
    missing: tuple[str, ...] = ()
    #: Failed workstreams that keep it from starting.
    blocking_on: tuple[str, ...] = ()
    estimated_hours: float | None = None
    #: Attempts begun.
    attempt: int = 0
    #: Somebody has taken it on after a failure.
    by_hand: bool = False
    #: The agent at work on it, if one has registered.
    agent_id: str | None = None
    #: The pod on which its attempt runs, while it does.
    pod: str | None = None
    #: It is tried again by itself then.
    cooldown_until: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    completed_by: str | None = None
    error: str | None = None
    result: Result | None = None


def workstream_views(state: TaskState) -> list[WorkstreamView]:
    """Return every workstream of a task, in plan order."""
    drafts = state.plan.workstreams if state.plan else {}
    return [_view(state, draft, state.workstreams.get(name)) for name, draft in drafts.items()]


def workstream_view(state: TaskState, ws_id: str) -> WorkstreamView:
    """Return one workstream, or raise ``Rejected('workstream_not_found')`` that says what there is."""
    drafts = state.plan.workstreams if state.plan else {}
    if ws_id not in drafts:
        raise Rejected("workstream_not_found", f"task {state.task_id!r} has no workstream {ws_id!r}; {names(drafts)}")
    return _view(state, drafts[ws_id], state.workstreams.get(ws_id))


def _view(state: TaskState, draft: WorkstreamDraft, workstream: Workstream | None) -> WorkstreamView:
    said: dict[str, Any] = {
        "task": state.task_id,
        "id": draft.id,
        "title": draft.title,
        "description": draft.description,
        "status": "planned",
        "priority": draft.priority,
        "executor": draft.executor,
        "depends_on": draft.depends_on,
        "estimated_hours": draft.estimated_hours,
    }
    if workstream is not None:
        known = {name: getattr(workstream, name) for name in WorkstreamView.model_fields if hasattr(workstream, name)}
        pod = workstream.run.pod if workstream.run else None
        said |= known | {"pod": pod, "missing": missing_dependencies(state, draft)}
        said["status"] = workstream.status.value
    return WorkstreamView(**said)


def attempt_under_way(state: TaskState, ws_id: str) -> int | None:
    """Return the attempt of a workstream that a report can be about; None: none is, or there is no such workstream."""
    workstream = state.workstreams.get(ws_id)
    under_way = (WorkstreamStatus.IN_PROGRESS, WorkstreamStatus.AWAITING_INPUT)
    return workstream.attempt if workstream is not None and workstream.status in under_way else None
