"""One task, from wish to completed."""

from collections.abc import Sequence
from typing import Any

from temporalio import workflow
from temporalio.common import SearchAttributeUpdate
from temporalio.exceptions import ActivityError, is_cancelled_exception

from workflows import names, timeouts
from workflows.activity_calls import execute_activity
from workflows.entity import Rules, View
from workflows.entity_workflow import EntityWorkflow
from workflows.search_attributes import GPU_POD, INBOX, MODEL, NEEDS_APPROVAL, PHASE
from workflows.summaries import fitted
from workflows.task_runs import run_command, stop_run

with workflow.unsafe.imports_passed_through():
    from pydantic import BaseModel, JsonValue

    from domain.task import commands, rules, schedule, signals, size, summary
    from domain.task.briefing import briefing_for_run
    from domain.task.commands import Envelope
    from domain.task.details import summary_markdown
    from domain.task.models import TaskState
    from workflows.messages import (
        AttachInput,
        AttachOutput,
        DetachInput,
        NotifyInput,
        NotifyOutput,
        TaskStart,
    )


def _search_attributes(state: TaskState) -> list[SearchAttributeUpdate[Any]]:
    values = summary.search_values(state)
    return [
        PHASE.value_set(values.phase),
        NEEDS_APPROVAL.value_set(values.needs_approval),
        GPU_POD.value_set([*values.gpu_pods]),
        MODEL.value_set([*values.models]),
        INBOX.value_set([*values.inbox]),
    ]


RULES: Rules[TaskState] = Rules(
    envelope=Envelope,
    check_sender=rules.check_sender,
    apply=rules.apply,
    fit=size.fit_refusal,
    next_actions=schedule.next_actions,
    is_settled=schedule.is_settled,
    command_from_signal=signals.command_from_signal,
    on_cancel=lambda reason: commands.CancelTask(reason=reason or "cancellation requested"),
    once=frozenset({"notify"}),
)
VIEW: View[TaskState] = View(
    memo=summary.memo,
    search_attributes=_search_attributes,
    details=lambda state: summary_markdown(state, workflow.info().namespace),
)


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

    @workflow.query(name=names.BRIEFING, description="What the program of a run is told; null: no such run is wanted")
    def briefing(self, run_id: str) -> JsonValue:
        """Return what the program of a run is told."""
        return briefing_for_run(self.entity.state, run_id)

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
                return [await run_command(action)]
            case schedule.StopRun():
                return [await stop_run(action)]
            case schedule.Notify():
                return [await _notify(action)]
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


async def _notify(action: schedule.Notify) -> BaseModel:
    try:
        output = await workflow.execute_activity(
            names.NOTIFY,
            NotifyInput(argv=action.argv, notification=action.notification),
            result_type=NotifyOutput,
            start_to_close_timeout=timeouts.NOTIFY,
            heartbeat_timeout=timeouts.HEARTBEAT,
            retry_policy=timeouts.ONCE,
            summary=fitted(f"notify {action.notification['recipient']} of {action.item_id}"),
        )
        error = output.error
    except ActivityError as failure:
        if is_cancelled_exception(failure):
            raise  # it waits no longer
        error = f"nobody saw how the notify hook ended, and it is not called again ({failure.cause or failure})"
    return commands.Notified(item_id=action.item_id, escalated=action.escalated, error=error)
