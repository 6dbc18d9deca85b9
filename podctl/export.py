"""A task in one file: every run's history as the server has it, and the state and events that it means.

The file says what the histories meant to the podctl that wrote it; ``replay_export`` says whether they mean the same to
this one.
"""

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from temporalio.client import WorkflowHistory
from temporalio.service import RPCError, RPCStatusCode

from domain.entity import Event
from domain.errors import BadInput
from domain.ids import task_workflow_id
from podctl.client import PodctlClient
from podctl.events import Log, ReplayFailed, log_of, replay_run, replay_runs, replayable
from podctl.files import write_atomically
from podctl.json_difference import first_difference
from workflows.entity import Entity

FORMAT = "podctl-task"
#: Raised when an older podctl could no longer read the file.
FORMAT_VERSION = 1


class ExportedRun(BaseModel):
    """One run of the workflow, as Temporal itself writes histories in JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    history: dict[str, JsonValue]


class Export(BaseModel):
    """What stands in the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = FORMAT
    version: int = FORMAT_VERSION
    #: Who wrote it, and when.
    podctl: str
    exported_at: datetime
    task: str
    closed: bool
    #: Events 1 … this number were past the server's retention; 0 when all are there.
    missing_through: int
    #: The whole state, ``TaskState``.
    state: dict[str, JsonValue]
    events: tuple[Event, ...]
    #: Oldest first.
    runs: tuple[ExportedRun, ...]
    #: What a reset has left beside these: kept as it is, and no part of what they mean.
    beside: tuple[ExportedRun, ...] = ()


class ReplayDiffers(Exception):
    """Today's code gives something else from the histories than stands in the file."""


@dataclass(frozen=True)
class Replayed:
    """A file whose state and events are what today's code gives."""

    task: str
    events: int
    runs: int
    missing_through: int
    closed: bool


async def export_task(client: PodctlClient, task_id: str) -> Export:
    """Return everything that the server has of a task. Raises ``NotFound``. Needs no worker."""
    runs = await client.task_histories(task_id)
    beside = await _beside(client, task_id, runs)
    return _export(task_id, runs, beside, await replay_runs([*runs.values()]))


def write_export(export: Export, path: Path) -> None:
    """Write the file, whole or not at all, readable by its owner only. Raises ``BadInput`` if there is one already."""
    if path.exists():
        raise BadInput(f"{path} exists already: name another file with -f FILE")
    if not path.parent.is_dir():
        raise BadInput(f"{path}: there is no folder {path.parent}")
    write_atomically(path, export_text(export))


def export_text(export: Export) -> str:
    """Return what stands in the file."""
    return export.model_dump_json(indent=1) + "\n"


def read_export(text: str, name: str) -> Export:
    """Return what stands in a file called ``name``. Raises ``BadInput`` that says what is wrong with it."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{name} is not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BadInput(f"{name} is not what podctl export writes")
    if document.get("version") != FORMAT_VERSION:
        raise BadInput(
            f"{name} has version {document.get('version')} of the format, and this podctl reads {FORMAT_VERSION}: it "
            f"was written by podctl {document.get('podctl')}"
        )
    try:
        return Export.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise BadInput(f"{name}: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error


async def replay_export(export: Export) -> Replayed:
    """Check that today's code gives the state and the events that stand in the file, from the histories beside them.

    Raises ``ReplayDiffers`` that names the first difference.
    """
    workflow_id = task_workflow_id(export.task)
    try:
        runs = [WorkflowHistory.from_json(workflow_id, run.history) for run in export.runs]
    except Exception as error:  # the SDK and protobuf raise what they like
        raise BadInput(f"a history in the file cannot be read: {error}") from error
    if not runs or not all(run.events for run in runs):
        raise BadInput("the file has a run without a history, or none at all")
    log = log_of(runs, await _replay(export.task, runs))
    meant = export.model_dump(mode="json", include={"missing_through", "closed", "events", "state"})
    means: dict[str, JsonValue] = {
        "missing_through": log.missing_through,
        "closed": log.closed,
        "events": [event.model_dump(mode="json") for event in log.events],
        "state": log.state.model_dump(mode="json"),
    }
    for what, now in means.items():
        difference = first_difference(meant[what], now, what)
        if difference is not None:
            raise ReplayDiffers(f"task {export.task}: {difference}")
    return Replayed(
        task=export.task,
        events=len(export.events),
        runs=len(runs),
        missing_through=export.missing_through,
        closed=export.closed,
    )


async def _beside(client: PodctlClient, task_id: str, chain: Container[str]) -> dict[str, WorkflowHistory]:
    workflow_id = task_workflow_id(task_id)
    found: dict[str, WorkflowHistory] = {}
    async for run in client.temporal.list_workflows(f'WorkflowId = "{workflow_id}"'):
        if run.run_id not in chain:
            try:
                history = await client.temporal.get_workflow_handle(workflow_id, run_id=run.run_id).fetch_history()
            except RPCError as error:
                # What was just deleted is listed for a while.
                if error.status != RPCStatusCode.NOT_FOUND:
                    raise
            else:
                found[run.run_id] = history
    return found


def _exported(runs: Mapping[str, WorkflowHistory]) -> tuple[ExportedRun, ...]:
    return tuple(ExportedRun(run_id=run_id, history=history.to_json_dict()) for run_id, history in runs.items())


def _export(
    task_id: str, runs: Mapping[str, WorkflowHistory], beside: Mapping[str, WorkflowHistory], log: Log
) -> Export:
    return Export(
        podctl=version("podctl"),
        exported_at=datetime.now(UTC),
        task=task_id,
        closed=log.closed,
        missing_through=log.missing_through,
        state=log.state.model_dump(mode="json"),
        events=log.events,
        runs=_exported(runs),
        beside=_exported(beside),
    )


async def _replay(task: str, runs: list[WorkflowHistory]) -> list[Entity[Any]]:
    """Return what the runs become with today's code, each in the state that the one before it has ended in."""
    entities: list[Entity[Any]] = []
    for number, run in enumerate(replayable(runs), start=1):
        try:
            entity = await replay_run(run)
        except (ReplayFailed, ValueError) as error:
            why = str(error.__cause__ or error).partition("\n")[0]
            raise ReplayDiffers(f"task {task}: run {number} of {len(runs)} goes another way: {why}") from error
        if entities:
            before = entities[-1].state.model_dump(mode="json")
            difference = first_difference(_given_state(run), before, f"the state at the end of run {number - 1}")
            if difference is not None:
                raise ReplayDiffers(f"task {task}: {difference}")
        entities.append(entity)
    return entities


def _given_state(run: WorkflowHistory) -> JsonValue:
    payloads = run.events[0].workflow_execution_started_event_attributes.input.payloads
    start: Any = json.loads(payloads[0].data) if payloads else None
    return start.get("state") if isinstance(start, dict) else None
