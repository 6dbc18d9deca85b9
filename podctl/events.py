"""The event reader: the events of a workflow, from its histories alone.

The history is the event log. The reader fetches the histories of the chain of runs and replays them here, so it works
with no worker running and on closed workflows. It adds the client identity that history recorded to each event.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from temporalio import workflow
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowHistory
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import (
    ExecuteWorkflowInput,
    Interceptor,
    Replayer,
    UnsandboxedWorkflowRunner,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)

from domain.entity import EntityState, Event
from podctl.history import follow_history, is_closed
from workflows.entity import Entity
from workflows.plugin import project_plugin


class ReplayFailed(Exception):
    """Today's code does not do what a history says was done."""


@dataclass(frozen=True)
class Log:
    """What the histories say: the newest state, the events in order, and what is gone."""

    state: EntityState
    events: tuple[Event, ...]
    #: Events 1 … this number are past the server's retention; 0 when all are there.
    missing_through: int
    closed: bool
    #: How far this log has read: the newest run and the id of its last history event.
    run_id: str
    last_event_id: int


class _Capture(Interceptor):
    """Holds the entity of the run that is being replayed."""

    def __init__(self) -> None:
        self.entity: Entity[Any] | None = None

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:  # noqa: A002, ARG002 - the SDK's name
        capture = self

        class Inbound(WorkflowInboundInterceptor):
            async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:  # noqa: A002, ANN401 - the SDK's signature
                capture.entity = workflow.instance().entity
                return await super().execute_workflow(input)

        return Inbound


async def replay_run(history: WorkflowHistory) -> Entity[Any]:
    """Return the entity as today's code makes it from one run's history.

    Raises ``ReplayFailed`` if today's code would have done something else, and ``ValueError`` if the history is not one
    of ours or has not begun.
    """
    if not _is_scheduled(history):
        raise ValueError(f"nothing of {history.workflow_id} has been scheduled yet")
    capture = _Capture()
    replayer = Replayer(
        workflows=[],
        plugins=[project_plugin()],
        interceptors=[capture],
        # Our own code replays here, in a process that does nothing else with it: the sandbox would only cost time.
        workflow_runner=UnsandboxedWorkflowRunner(),
        # Else a workflow that computes for two seconds is given up, which on a loaded machine any of them may.
        debug_mode=True,
    )
    processed = WorkflowHistory(history.workflow_id, _processed(history.events))
    replay = asyncio.ensure_future(replayer.replay_workflow(processed))
    try:
        await asyncio.shield(replay)
    except asyncio.CancelledError:
        # A replay that is cancelled half-way never ends; let go on, it is done in milliseconds.
        await asyncio.wait([replay])
        raise
    except (workflow.NondeterminismError, RuntimeError) as error:
        raise ReplayFailed(
            f"the history of {history.workflow_id} was made by a podctl that does other things than this one: use the "
            "version that its worker runs"
        ) from error
    if capture.entity is None:
        raise ValueError(f"no worker has taken up {history.workflow_id} yet")
    return capture.entity


async def read_log(client: Client, workflow_id: str) -> Log:
    """Return the log of a workflow over all its runs. Raises ``RPCError`` (NOT_FOUND) for an unknown one."""
    chain = await fetch_chain(client, workflow_id)
    *_, newest = chain
    return replace(await replay_runs([*chain.values()]), run_id=newest)


async def read_state(client: Client, workflow_id: str) -> EntityState:
    """Return the newest state of a workflow, from the history of its newest run, as a worker shows it.

    That is without the ledger of its commands. Raises as ``read_log``.
    """
    newest = await client.get_workflow_handle(workflow_id).fetch_history()
    # One that has only just continued the run before it has nothing to replay.
    source = await replay_run(newest) if _is_scheduled(newest) else await read_log(client, workflow_id)
    return source.state.model_copy(update={"ledger": {}})


async def replay_runs(runs: Sequence[WorkflowHistory]) -> Log:
    """Return the log that a chain of runs, oldest first, gives with today's code. Raises as ``replay_run``."""
    return log_of(runs, [await replay_run(run) for run in replayable(runs)])


def replayable(runs: Sequence[WorkflowHistory]) -> Sequence[WorkflowHistory]:
    """Return those of a chain of runs in which there is something to replay."""
    # For a moment the newest run has only just continued the one before it.
    return runs if len(runs) == 1 or _is_scheduled(runs[-1]) else runs[:-1]


def log_of(runs: Sequence[WorkflowHistory], entities: Sequence[Entity[Any]]) -> Log:
    """Return the log of a chain of runs, given what each that can be replayed has become."""
    events = [
        event
        for run, entity in zip(runs, entities, strict=False)
        # Of a run that no worker has processed only the state it begins with is known, not when it will have begun.
        if _processed_through(run.events)
        for event in _with_clients(entity, run.events)
    ]
    newest = runs[-1]
    return Log(
        state=entities[-1].state,
        events=tuple(events),
        missing_through=entities[0].state.sequence - len(entities[0].events),
        closed=is_closed(newest.events[-1]),
        run_id=newest.run_id,
        last_event_id=newest.events[-1].event_id,
    )


async def follow_events(client: Client, workflow_id: str, since: int = 0) -> AsyncIterator[Event]:
    """Give events after ``since`` as they happen, until the workflow closes.

    Waits on the server's own long poll: no timer loop, no history added, also while no worker runs.
    """
    log = await read_log(client, workflow_id)
    for event in log.events:
        if event.sequence > since:
            since = event.sequence
            yield event
    if log.closed:
        return
    async for history in follow_history(client, workflow_id, log.run_id, log.last_event_id):
        entity = await replay_run(WorkflowHistory(workflow_id, list(history)))
        for event in _with_clients(entity, history):
            if event.sequence > since:
                since = event.sequence
                yield event


async def fetch_chain(client: Client, workflow_id: str) -> dict[str, WorkflowHistory]:
    """Return the histories of the chain of runs by run id, oldest first, as far as the server still has them.

    The id that stands in a history is not its own, if the run was made by a reset of another.
    """
    runs: dict[str, WorkflowHistory] = {}
    run_id = (await client.get_workflow_handle(workflow_id).describe()).run_id
    while run_id:
        try:
            history = await client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history()
        except RPCError as error:
            if runs and error.status == RPCStatusCode.NOT_FOUND:
                break
            raise
        runs[run_id] = history
        run_id = history.events[0].workflow_execution_started_event_attributes.continued_execution_run_id
    return dict(reversed(runs.items()))


def _is_scheduled(history: WorkflowHistory) -> bool:
    """Return whether a workflow task was scheduled: replaying a history without one would wait for it for ever."""
    return any(event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED for event in history.events)


def _with_clients(entity: Entity[Any], history: Sequence[HistoryEvent]) -> list[Event]:
    """Return the run's events, each with the client identity that sent its command, as far as history names one."""
    clients: dict[str, str] = {}
    signals = iter(entity.signal_command_ids)
    for item in history:
        if item.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
            started = item.workflow_execution_started_event_attributes
            if not started.continued_execution_run_id and entity.events:
                clients[entity.events[0].command_id] = started.identity
        elif item.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
            meta = item.workflow_execution_update_accepted_event_attributes.accepted_request.meta
            clients[meta.update_id] = meta.identity
        elif item.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
            command_id = next(signals, None)
            if command_id is not None:
                clients[command_id] = item.workflow_execution_signaled_event_attributes.identity
    return [
        event.model_copy(update={"client": clients[event.command_id]}) if event.command_id in clients else event
        for event in entity.events
    ]


#: What a workflow task writes into the history after its own end.
_WRITTEN_BY_WORKFLOW_TASKS = frozenset(
    {
        EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED,
        EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED,
        EventType.EVENT_TYPE_TIMER_STARTED,
        EventType.EVENT_TYPE_TIMER_CANCELED,
        EventType.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED,
        EventType.EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED,
        EventType.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES,
        EventType.EVENT_TYPE_WORKFLOW_PROPERTIES_MODIFIED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED,
        EventType.EVENT_TYPE_MARKER_RECORDED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW,
    }
)


def _processed(history: Sequence[HistoryEvent]) -> list[HistoryEvent]:
    """Return the history as far as a worker has processed it; of a run that none has, its start.

    What came after that, signals above all, is recorded and has not happened yet: when it will is not known.
    """
    end = _processed_through(history)
    if end == 0:
        scheduled = (e.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED for e in history)
        return list(history[: 1 + next(index for index, found in enumerate(scheduled) if found)])
    while end < len(history) and history[end].event_type in _WRITTEN_BY_WORKFLOW_TASKS:
        end += 1
    return list(history[:end])


def _processed_through(history: Sequence[HistoryEvent]) -> int:
    """Return how many events there are up to the end of the last workflow task that was completed."""
    completed = EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
    return max((index + 1 for index, event in enumerate(history) if event.event_type == completed), default=0)
