"""The typed client: everything that ``podctl`` does with tasks and GPU pods, for programs.

```
ClientError
├── NotFound        no such task or pod; says what there is
├── AlreadyExists   the id is taken
├── NoWorker        the server has it (or not yet), and nobody is there to process it
└── Refused         the rules said no: code and reason
```
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import JsonValue
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.client import (
    Client,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowHandle,
    WorkflowHistory,
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from domain.entity import EntityState, Event, Outcome
from domain.errors import Rejected
from domain.gpu.commands import Command as GpuCommand
from domain.gpu.commands import Envelope as GpuEnvelope
from domain.gpu.commands import PodInput
from domain.gpu.models import GpuPodState, PodAddress
from domain.gpu.observation import Beat, StopStep
from domain.ids import GPU_POD_WORKFLOW_PREFIX, TASK_WORKFLOW_PREFIX, gpu_pod_workflow_id, task_workflow_id
from domain.task.commands import Envelope as TaskEnvelope
from domain.task.commands import TaskCommand
from domain.task.ending import already_final
from domain.task.models import TaskInput, TaskState
from domain.task.rules import create_task
from podctl.history import follow_changes
from workflows import names
from workflows.summaries import fitted
from workflows.task_queues import DEFAULT_TASK_QUEUE

if TYPE_CHECKING:
    from podctl.events import Log

S = TypeVar("S", bound=EntityState)

#: Seconds that a command waits for a worker to process it.
ANSWER_TIMEOUT = 5.0
#: Seconds that a worker which has just shown that it is there is given to tell a state. So short because a question
#: must not wait for the worker that comes after it: ``PodctlClient.task`` says why.
QUESTION_TIMEOUT = 1.0

#: The server took the update and dropped it again: too much at once, or the workflow task that carried it was
#: interrupted (by its own completion, say, when something else arrived in that moment).
_DROPPED = frozenset({RPCStatusCode.ABORTED, RPCStatusCode.FAILED_PRECONDITION, RPCStatusCode.RESOURCE_EXHAUSTED})
#: Seconds before each new try.
_RESEND_PAUSES = (0.05, 0.2, 0.5, 1.0, 2.0, 2.0, 2.0)


class ClientError(Exception):
    """Base of what the client raises; the message says what happened and what to do next."""


class NotFound(ClientError):
    """There is no such task or pod."""


class AlreadyExists(ClientError):
    """The id is taken."""


class NoWorker(ClientError):
    """No worker processed the request in time."""


class Refused(ClientError):
    """The rules refused the command; nothing changed. ``code`` is stable and for programs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Summary:
    """One task or GPU pod as the server's list shows it; needs no worker."""

    name: str
    workflow_id: str
    status: str
    started_at: datetime
    closed_at: datetime | None
    memo: Mapping[str, Any]


def new_command_id() -> str:
    """Return an id that makes a command idempotent: send the same one again when in doubt."""
    return uuid.uuid4().hex


class PodctlClient:
    """Tasks and GPU pods on one Temporal namespace."""

    def __init__(self, temporal: Client, task_queue: str = DEFAULT_TASK_QUEUE) -> None:
        self.temporal = temporal
        self._task_queue = task_queue

    # -- tasks ---------------------------------------------------------------------------------------------------

    async def create_task(self, task: TaskInput) -> None:
        """Start a task pod; its input is checked by the rules first, so that nothing unusable is started.

        Raises ``Refused`` and ``AlreadyExists``. Needs no worker.
        """
        try:
            create_task(task, datetime.now(UTC))
        except Rejected as rejected:
            raise Refused(rejected.code, rejected.message) from rejected
        await self._start(
            names.TASK_POD,
            {"create": task.model_dump(mode="json")},
            task_workflow_id(task.task_id),
            f"task {task.task_id} exists already: podctl task show {task.task_id}, or give another --id",
            static_summary=task.title,
            static_details=f"Task pod **{task.task_id}**: {task.title}\n\nCreated by {task.by}.",
        )

    async def task(self, task_id: str) -> TaskState:
        """Return a task's state, from the history: no worker is asked, and none has to be there. Raises ``NotFound``.

        A query that waits for a worker to come is answered from a history that ends in the middle of what the next
        workflow task brings. The SDK (1.35) lets that task go on from there, and so does other things than a replay
        will do: the task would be stuck at the next change of workers.
        """
        return await self._read(task_workflow_id(task_id), TaskState)

    async def ask_task(self, task_id: str) -> TaskState:
        """Return a task's state as ``task`` does, but ask a worker that has just shown that it is there.

        For who follows a task: replaying a long history at each change would take longer.
        """
        return await self._ask(task_workflow_id(task_id), TaskState)

    async def tasks(
        self, *, phase: str | None = None, needs_approval: bool = False, running: bool = False, limit: int = 1_000
    ) -> list[Summary]:
        """Return the tasks that the server lists, newest first: all, or those of which all that is asked is true.

        Needs no worker.
        """
        conditions = {
            f' AND PodctlPhase = "{phase}"': phase is not None,
            " AND PodctlNeedsApproval = true": needs_approval,
            ' AND ExecutionStatus = "Running"': running,
        }
        condition = "".join(words for words, wanted in conditions.items() if wanted)
        return await self._list(names.TASK_POD, TASK_WORKFLOW_PREFIX, condition, limit)

    async def describe_task(self, task_id: str) -> WorkflowExecutionDescription:
        """Return what the server knows of a task's newest run. Raises ``NotFound``. Needs no worker."""
        try:
            return await self.temporal.get_workflow_handle(task_workflow_id(task_id)).describe()
        except RPCError as error:
            raise await self._not_found(error, f"task {task_id!r}", names.TASK_POD, TASK_WORKFLOW_PREFIX) from error

    async def task_histories(self, task_id: str) -> dict[str, WorkflowHistory]:
        """Return the histories of a task's runs by run id, oldest first. Raises ``NotFound``. Needs no worker."""
        from podctl.events import fetch_chain

        try:
            return await fetch_chain(self.temporal, task_workflow_id(task_id))
        except RPCError as error:
            raise await self._not_found(error, f"task {task_id!r}", names.TASK_POD, TASK_WORKFLOW_PREFIX) from error

    async def execute_task(self, task_id: str, command: TaskCommand, *, by: str, command_id: str = "") -> Outcome:
        """Send a command to a task and return its outcome. Raises ``Refused``, ``NotFound`` and ``NoWorker``."""
        envelope = TaskEnvelope(command_id=command_id or new_command_id(), by=by, command=command)
        return await self._execute(task_workflow_id(task_id), envelope, f"task {task_id!r}")

    async def signal_task(self, task_id: str, signal: str, payload: Mapping[str, JsonValue]) -> Outcome | None:
        """Send a person's signal; return its outcome, or None if no worker has processed it in time.

        The signal is recorded either way: it takes effect when a worker comes. Raises ``NotFound``.
        """
        command_id = str(payload.get("command_id") or new_command_id())
        handle = self.temporal.get_workflow_handle(task_workflow_id(task_id))
        try:
            await handle.signal(signal, {**payload, "command_id": command_id})
        except RPCError as error:
            return await self._known(handle, command_id, error, task_id)
        return await self._outcome(handle, command_id)

    # -- GPU pods ------------------------------------------------------------------------------------------------

    async def register_pod(self, pod: PodInput) -> None:
        """Start the workflow that owns a GPU pod. Raises ``AlreadyExists``. Needs no worker."""
        await self._start(
            names.GPU_POD,
            {"create": pod.model_dump(mode="json")},
            gpu_pod_workflow_id(pod.name),
            f"GPU pod {pod.name} exists already: podctl pods show {pod.name}; to change its address: podctl pods set",
            static_summary=f"GPU pod {pod.name}",
            static_details=f"GPU pod **{pod.name}**: `{pod.ssh.command}`",
        )

    async def pod(self, name: str) -> GpuPodState:
        """Return a GPU pod's state, from the history as ``task`` does. Raises ``NotFound``. Needs no worker."""
        return await self._read(gpu_pod_workflow_id(name), GpuPodState)

    async def ask_pod(self, name: str) -> GpuPodState:
        """Return a GPU pod's state as ``pod`` does, but ask a worker that has just shown that it is there."""
        return await self._ask(gpu_pod_workflow_id(name), GpuPodState)

    async def look_at_pod(self, name: str) -> tuple[GpuPodState, dict[str, Beat]]:
        """Return a GPU pod's state, and what ``pod_beats`` returns. Raises ``NotFound``. Needs no worker.

        For who looks at many: while a worker watches the machine, it is asked, which is quicker than a replay.
        """
        watching = await self._heartbeats(name, names.WATCH_POD)
        return await (self.ask_pod(name) if watching else self.pod(name)), _beats(watching)

    async def pods(self, limit: int = 1_000) -> list[Summary]:
        """Return the GPU pods that the server lists. Needs no worker."""
        return await self._list(names.GPU_POD, GPU_POD_WORKFLOW_PREFIX, ' AND ExecutionStatus = "Running"', limit)

    async def execute_pod(self, name: str, command: GpuCommand, *, by: str, command_id: str = "") -> Outcome:
        """Send a command to a GPU pod and return its outcome. Raises ``Refused``, ``NotFound`` and ``NoWorker``."""
        envelope = GpuEnvelope(command_id=command_id or new_command_id(), by=by, command=command)
        return await self._execute(gpu_pod_workflow_id(name), envelope, f"GPU pod {name!r}")

    async def pod_beats(self, name: str) -> dict[str, Beat]:
        """Return what only moves on about a pod's living launches, by launch id: a few seconds old, in no history.

        Empty while no worker watches the machine. It stands in the heartbeats of the pod's watch, so that neither the
        machine nor a worker has to be asked. Raises ``NotFound``.
        """
        return _beats(await self._heartbeats(name, names.WATCH_POD))

    async def pod_stops(self, name: str) -> dict[str, StopStep]:
        """Return how far the stops are that are under way on a pod, by launch id. As ``pod_beats``."""
        steps = [StopStep.model_validate(details) for details in await self._heartbeats(name, names.STOP_LAUNCH)]
        return {step.launch: step for step in steps}

    async def setup_step_says(self, name: str) -> str:
        """Return what the step under way of a pod's setup printed last, or why nobody does it now; empty if nothing."""
        step = next(iter(await self._pending(name, names.SETUP_STEP)), None)
        if step is None:
            return ""
        if step.state != PendingActivityState.PENDING_ACTIVITY_STATE_STARTED:
            return f"tried again soon: {step.last_failure.message}" if step.attempt > 1 else "waits for a worker"
        return str((await self._heartbeat(step)).get("last_line") or "")

    async def pod_address(self, name: str) -> PodAddress:
        """Return a pod's address as its workflow owns it. Raises ``NotFound``. Needs no worker."""
        memo = await (await self._describe_pod(name)).memo()
        if "address" not in memo:
            raise NoWorker(f"GPU pod {name} has not been taken up by a worker yet: podctl up, or podctl worker")
        return PodAddress.model_validate(memo["address"])

    async def _describe_pod(self, name: str) -> WorkflowExecutionDescription:
        try:
            return await self.temporal.get_workflow_handle(gpu_pod_workflow_id(name)).describe()
        except RPCError as error:
            raise await self._not_found(error, f"GPU pod {name!r}", names.GPU_POD, GPU_POD_WORKFLOW_PREFIX) from error

    async def _heartbeats(self, pod: str, activity: str) -> list[Mapping[str, Any]]:
        """Return what the activities of one type that run for a pod last said.

        Of those that wait for a worker nothing: what the one before them said is of no present use.
        """
        said = [
            await self._heartbeat(pending)
            for pending in await self._pending(pod, activity)
            if pending.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
        ]
        return [details for details in said if details]

    async def _heartbeat(self, pending: PendingActivityInfo) -> Mapping[str, Any]:
        """Return what an activity's last heartbeat said; empty if there was none yet."""
        payloads = pending.heartbeat_details.payloads
        details = (await self.temporal.data_converter.decode(payloads))[0] if payloads else None
        return details if isinstance(details, Mapping) else {}

    async def _pending(self, pod: str, activity: str) -> list[PendingActivityInfo]:
        """Return the activities of one type that a pod's workflow waits for."""
        pending = (await self._describe_pod(pod)).raw_description.pending_activities
        return [one for one in pending if one.activity_type.name == activity]

    # -- both ----------------------------------------------------------------------------------------------------

    async def log(self, workflow_id: str) -> "Log":
        """Return a workflow's event log, from its histories. Raises ``NotFound``. Needs no worker."""
        from podctl.events import read_log  # and with it all workflows: most commands read no log

        try:
            return await read_log(self.temporal, workflow_id)
        except RPCError as error:
            raise await self._no_workflow(error, workflow_id) from error

    async def follow(self, workflow_id: str, since: int = 0) -> AsyncIterator[Event]:
        """Give events after ``since`` as they happen, until the workflow closes. Needs no worker."""
        from podctl.events import follow_events

        try:
            async for event in follow_events(self.temporal, workflow_id, since):
                yield event
        except RPCError as error:
            raise await self._no_workflow(error, workflow_id) from error

    async def changes(self, workflow_id: str) -> AsyncIterator[None]:
        """Give a sign now and each time that a worker has done something, until the workflow closes."""
        try:
            async for _ in follow_changes(self.temporal, workflow_id):
                yield
        except RPCError as error:
            raise await self._no_workflow(error, workflow_id) from error

    async def _start(
        self,
        workflow: str,
        start: JsonValue,
        workflow_id: str,
        exists: str,
        *,
        static_summary: str,
        static_details: str,
    ) -> None:
        try:
            await self.temporal.start_workflow(
                workflow,
                start,
                id=workflow_id,
                task_queue=self._task_queue,
                id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE
                if workflow == names.TASK_POD
                else WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                static_summary=fitted(static_summary),
                static_details=static_details,
            )
        except WorkflowAlreadyStartedError as error:
            raise AlreadyExists(exists) from error

    async def _read(self, workflow_id: str, kind: type[S]) -> S:
        from podctl.events import read_state

        try:
            state = await read_state(self.temporal, workflow_id)
        except RPCError as error:
            raise await self._no_workflow(error, workflow_id) from error
        if not isinstance(state, kind):
            raise TypeError(f"{workflow_id} is a {type(state).__name__}")
        return state

    async def _ask(self, workflow_id: str, kind: type[S]) -> S:
        handle = self.temporal.get_workflow_handle(workflow_id)
        try:
            state: S = await handle.query(
                names.STATE, result_type=kind, rpc_timeout=timedelta(seconds=QUESTION_TIMEOUT)
            )
            return state
        except (WorkflowQueryFailedError, RPCError):
            # No worker answers: what the history says is the same state.
            return await self._read(workflow_id, kind)

    async def _execute(self, workflow_id: str, envelope: TaskEnvelope | GpuEnvelope, what: str) -> Outcome:
        handle: WorkflowHandle[Any, Any] = self.temporal.get_workflow_handle(workflow_id)
        try:
            return await _send_until_taken(handle, envelope)
        except WorkflowUpdateFailedError as error:
            cause = error.cause
            if isinstance(cause, ApplicationError):
                raise Refused(cause.type or "refused", cause.message) from error
            raise
        except WorkflowUpdateRPCTimeoutOrCancelledError as error:
            if isinstance(error.__cause__, asyncio.CancelledError):
                raise error.__cause__ from None  # the SDK's disguise of it; swallowed, a cancelled caller would go on
            raise NoWorker(
                # Until the server itself ends, it keeps the command for the first worker that comes.
                f"no worker answered for {what} within {2 * ANSWER_TIMEOUT:.0f} s: start one with podctl up (or podctl "
                "worker), which may still carry the command out; look before you give it again"
            ) from error
        except RPCError as error:
            if workflow_id.startswith(TASK_WORKFLOW_PREFIX):
                return await self._known(
                    handle, envelope.command_id, error, workflow_id.removeprefix(TASK_WORKFLOW_PREFIX)
                )
            raise await self._not_found(error, what, names.GPU_POD, GPU_POD_WORKFLOW_PREFIX) from error

    async def _list(self, workflow: str, prefix: str, condition: str, limit: int) -> list[Summary]:
        found = []
        async for execution in self.temporal.list_workflows(f'WorkflowType = "{workflow}"{condition}', limit=limit):
            if execution.status == WorkflowExecutionStatus.CONTINUED_AS_NEW:
                continue
            found.append(
                Summary(
                    name=execution.id.removeprefix(prefix),
                    workflow_id=execution.id,
                    status=execution.status.name.lower() if execution.status else "unknown",
                    started_at=execution.start_time,
                    closed_at=execution.close_time,
                    memo=await execution.memo(),
                )
            )
        return found

    async def _outcome(self, handle: WorkflowHandle[Any, Any], command_id: str) -> Outcome | None:
        """Return what became of a command; None while it is not known, or nobody is there to say."""
        for _ in range(2):  # the server loses a query now and then, when it comes just as the workflow closes
            try:
                # It answers a query only when everything that arrived before it has been processed.
                outcome: Outcome | None = await handle.query(
                    names.OUTCOME, command_id, result_type=Outcome, rpc_timeout=timedelta(seconds=ANSWER_TIMEOUT / 2)
                )
                return outcome
            except RPCError:
                continue
            except WorkflowQueryFailedError:
                break
        # What the history says has been processed has been, also where nobody answers.
        return (await self.log(handle.id)).state.outcome(command_id)

    async def _known(self, handle: WorkflowHandle[Any, Any], command_id: str, error: RPCError, task_id: str) -> Outcome:
        """Return the outcome of a command that a task which is over has taken before; else raise what ``error`` means.

        The task may have ended with this very command, of which this is a repetition. Otherwise the refusal says who
        ended it.
        """
        if _has_ended(error):
            outcome = await self._outcome(handle, command_id)
            if outcome is not None and outcome.accepted:
                return outcome
            state = await self.task(task_id)
            if state.final:
                rejected = already_final(state)
                raise Refused(rejected.code, rejected.message) from error
        raise await self._not_found(error, f"task {task_id!r}", names.TASK_POD, TASK_WORKFLOW_PREFIX) from error

    async def _no_workflow(self, error: RPCError, workflow_id: str) -> Exception:
        if workflow_id.startswith(TASK_WORKFLOW_PREFIX):
            task = workflow_id.removeprefix(TASK_WORKFLOW_PREFIX)
            return await self._not_found(error, f"task {task!r}", names.TASK_POD, TASK_WORKFLOW_PREFIX)
        pod = workflow_id.removeprefix(GPU_POD_WORKFLOW_PREFIX)
        return await self._not_found(error, f"GPU pod {pod!r}", names.GPU_POD, GPU_POD_WORKFLOW_PREFIX)

    async def _not_found(self, error: RPCError, what: str, workflow: str, prefix: str) -> Exception:
        """Return ``NotFound`` that says what there is, or ``error`` itself if it says something else."""
        if error.status != RPCStatusCode.NOT_FOUND:
            return error
        if _has_ended(error):
            return Refused("already_terminal", f"{what} is finished: it takes no more commands")
        known = sorted({summary.name for summary in await self._list(workflow, prefix, "", 200)})
        there = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
        return NotFound(f"there is no {what}; there are: {there}" if known else f"there is no {what}, and none at all")


def _beats(watching: Iterable[Mapping[str, Any]]) -> dict[str, Beat]:
    """Return what the watches of a pod said last, by launch id."""
    beats = [Beat.model_validate(beat) for details in watching for beat in details.get("launches", ())]
    return {beat.id: beat for beat in beats}


def _has_ended(error: RPCError) -> bool:
    """Return whether the server says that the workflow is closed, or closed while it waited with an update."""
    return error.status == RPCStatusCode.NOT_FOUND and (
        "already completed" in error.message or "closing workflow" in error.message
    )


def is_dropped(error: RPCError | WorkflowUpdateFailedError) -> bool:
    """Return whether the server let an update go before the workflow had answered it."""
    if isinstance(error, RPCError):
        return error.status in _DROPPED
    return isinstance(error.cause, ApplicationError) and error.cause.type == names.UNPROCESSED_UPDATE


async def _send_until_taken(handle: WorkflowHandle[Any, Any], envelope: TaskEnvelope | GpuEnvelope) -> Outcome:
    """Send an update, again if the server dropped it; the command id makes it count once."""
    for pause in (*_RESEND_PAUSES, None):
        try:
            outcome: Outcome = await handle.execute_update(
                names.EXECUTE,
                envelope,
                id=envelope.command_id,
                result_type=Outcome,
                rpc_timeout=timedelta(seconds=2 * ANSWER_TIMEOUT),
            )
            return outcome
        except (RPCError, WorkflowUpdateFailedError) as error:
            if not is_dropped(error):
                raise
            if pause is None:
                raise NoWorker(
                    f"the server dropped the command {len(_RESEND_PAUSES) + 1} times: its worker does not get done in "
                    "time. Look at its log, and at what else the machine does; the same command id again is safe"
                ) from error
            await asyncio.sleep(pause)
    raise AssertionError("the last try returns or raises")
