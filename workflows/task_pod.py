"""One task, from wish to completed."""

from collections.abc import Sequence
from typing import Any

from temporalio import workflow
from temporalio.common import SearchAttributeUpdate
from temporalio.exceptions import ActivityError, ApplicationError

from workflows import names, timeouts
from workflows.activity_calls import definite_refusal, execute_activity, on_the_pods_queue
from workflows.entity import Rules, View
from workflows.entity_workflow import EntityWorkflow
from workflows.search_attributes import GPU_POD, MODEL, NEEDS_APPROVAL, PHASE

with workflow.unsafe.imports_passed_through():
    from pydantic import BaseModel, JsonValue

    from domain.entity import Outcome
    from domain.gpu.commands import StopFailed
    from domain.task import commands, rules, schedule, signals, summary
    from domain.task.commands import Envelope
    from domain.task.models import TaskState
    from workflows.messages import (
        AttachInput,
        AttachOutput,
        DetachInput,
        RunInput,
        RunOutput,
        StopInput,
        StopOutput,
        TaskStart,
    )

#: Seconds between TERM and KILL for a run that a person ended.
RUN_GRACE = 10.0


def _search_attributes(state: TaskState) -> list[SearchAttributeUpdate[Any]]:
    values = summary.search_values(state)
    return [
        PHASE.value_set(values.phase),
        NEEDS_APPROVAL.value_set(values.needs_approval),
        GPU_POD.value_set([*values.gpu_pods]),
        MODEL.value_set([*values.models]),
    ]


RULES: Rules[TaskState] = Rules(
    envelope=Envelope,
    check_sender=rules.check_sender,
    apply=rules.apply,
    next_actions=schedule.next_actions,
    is_settled=schedule.is_settled,
    command_from_signal=signals.command_from_signal,
    on_cancel=lambda reason: commands.CancelTask(reason=reason or "cancellation requested"),
)
VIEW: View[TaskState] = View(memo=summary.memo, search_attributes=_search_attributes, details=summary.summary_markdown)


@workflow.defn(name=names.TASK_POD)
class TaskPodWorkflow(EntityWorkflow[TaskState]):
    """A task pod: owns the task's state, and has done what the rules say comes next."""

    @workflow.init
    def __init__(self, *arguments: JsonValue) -> None:
        super().__init__(RULES, VIEW)
        with self.starting():
            given = TaskStart.model_validate(self.only(arguments))
            if given.state is not None:
                self.begin(given.state)
            elif given.create is not None:
                self.begin(*rules.create_task(given.create, workflow.now()))

    @workflow.run
    async def run(self, *arguments: JsonValue) -> None:  # noqa: ARG002 - the same as __init__'s
        """Run until the task is final and everything it used is released."""
        if not await self.entity.run(self._perform):
            workflow.continue_as_new(TaskStart(state=self.entity.state).model_dump(mode="json"))

    @workflow.update(name=names.EXECUTE, description="Carry out a command; refused ones leave no trace")
    async def execute(self, envelope: Envelope) -> Outcome:
        """Apply a command and return its outcome. Never awaits: two commands cannot interleave."""
        return self.entity.execute(envelope)

    @execute.validator
    def check(self, envelope: Envelope) -> None:
        """Refuse a command before it enters the history."""
        self.entity.check(envelope)

    async def _perform(self, action: schedule.Action) -> Sequence[BaseModel]:
        """Carry out one action and return the commands that report its outcome."""
        match action:
            case schedule.AttachServer():
                return [await _attach(action)]
            case schedule.DetachServer():
                detach = DetachInput(task_id=action.task_id, pod=action.pod, name=action.name)
                await execute_activity(
                    names.DETACH_SERVER, detach, AttachOutput, summary=f"release {action.name} on {action.pod}"
                )
                return [commands.ServerReleased(name=action.name)]
            case schedule.RunCommand():
                return [await _run(action)]
            case schedule.StopRun():
                return [await _stop_run(action)]
            case _:
                raise AssertionError(f"{action.type} is not carried out by activities")


async def _attach(action: schedule.AttachServer) -> BaseModel:
    server = action.server
    output = await execute_activity(
        names.ATTACH_SERVER,
        AttachInput(task_id=action.task_id, server=server),
        AttachOutput,
        summary=f"attach {server.name} ({server.model}) on {server.pod}",
    )
    if output.code is not None:
        return commands.ServerAttachFailed(name=server.name, code=output.code, message=output.message)
    return commands.ServerAttached(name=server.name)


async def _run(action: schedule.RunCommand) -> BaseModel:
    async def run(queue: str | None) -> RunOutput:
        given = RunInput(
            pod=action.pod,
            run_id=action.run_id,
            task_id=action.task_id,
            workstream_id=action.ws_id,
            executor=action.executor,
            server_launch=action.server_launch,
            task_queue=queue,
        )
        return await execute_activity(
            names.RUN_COMMAND,
            given,
            RunOutput,
            attempt=timeouts.OBSERVER,
            task_queue=queue,
            taken_up_within=timeouts.TAKEN_UP if queue else None,
            summary=f"{action.ws_id} on {action.pod}",
        )

    try:
        output = await on_the_pods_queue(run)
    except ActivityError as error:
        refusal = definite_refusal(error)
        if refusal.type == "pod_removed":
            return commands.WorkstreamInterrupted(ws_id=action.ws_id, attempt=action.attempt, reason=refusal.message)
        return commands.FailWorkstream(
            ws_id=action.ws_id,
            attempt=action.attempt,
            error=f"{refusal.message} ({refusal.type})",
            recoverable=refusal.type in _PASSING,
        )
    if output.interrupted:
        return commands.WorkstreamInterrupted(
            ws_id=action.ws_id, attempt=action.attempt, reason=f"nobody saw how run {action.run_id} ended"
        )
    failure = _failure(action, output)
    if failure is None:
        return commands.CompleteWorkstream(ws_id=action.ws_id, attempt=action.attempt, result=output.result)
    return commands.FailWorkstream(ws_id=action.ws_id, attempt=action.attempt, error=failure, result=output.result)


#: Refusals that may be over in a moment: nothing has run, so the attempt may be repeated.
_PASSING = frozenset({"server_not_running"})


def _failure(action: schedule.RunCommand, output: RunOutput) -> str | None:
    """Return why a run that ended is a failure, or None."""
    run = output.result.run
    if output.timed_out:
        return f"it took longer than {action.executor.timeout_seconds:g} s and was stopped"
    if output.error is not None:
        return output.error
    if run is None or run.exit_code == 0:
        return None
    return f"ended by signal {run.signal}" if run.signal is not None else f"exit code {run.exit_code}"


async def _stop_run(action: schedule.StopRun) -> BaseModel:
    async def stop(queue: str | None) -> StopOutput:
        return await execute_activity(
            names.STOP_LAUNCH,
            StopInput(pod=action.pod, launch_id=action.run_id, grace=RUN_GRACE, task_queue=queue),
            StopOutput,
            task_queue=queue,
            taken_up_within=timeouts.TAKEN_UP if queue else None,
            summary=f"stop run {action.run_id}",
        )

    try:
        output = await on_the_pods_queue(stop)
    except ActivityError as error:
        # The pod itself is gone from podctl: a person said so, and nothing on it can be looked at any more.
        definite_refusal(error)
        return commands.RunStopped(run_id=action.run_id)
    if isinstance(output.report, StopFailed):
        raise ApplicationError(output.report.message, type=output.report.code)
    return commands.RunStopped(run_id=action.run_id)
