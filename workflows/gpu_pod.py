"""One GPU machine and its model servers."""

from collections.abc import Sequence
from typing import Any

from temporalio import workflow
from temporalio.common import SearchAttributeUpdate
from temporalio.exceptions import ActivityError, ApplicationError, FailureError, is_cancelled_exception

from workflows import names, timeouts
from workflows.activity_calls import definite_refusal, execute_activity
from workflows.entity import Rules, View
from workflows.entity_workflow import EntityWorkflow
from workflows.search_attributes import GPU_POD, MODEL, STATE

with workflow.unsafe.imports_passed_through():
    from pydantic import BaseModel, JsonValue

    from domain.errors import Rejected
    from domain.gpu import commands, rules, schedule, summary
    from domain.gpu.commands import Envelope
    from domain.gpu.models import GpuPodState
    from domain.ids import task_workflow_id
    from workflows.messages import (
        InspectInput,
        LaunchInput,
        LaunchOutput,
        LookOutput,
        PodStart,
        SetupStepInput,
        SetupStepOutput,
        StopInput,
        StopOutput,
        WatchInput,
    )


def _search_attributes(state: GpuPodState) -> list[SearchAttributeUpdate[Any]]:
    values = summary.search_attributes(state)
    return [STATE.value_set(values.state), GPU_POD.value_set([values.gpu_pod]), MODEL.value_set([*values.models])]


def _no_signals(name: str, _arguments: list[object]) -> object:
    raise Rejected("unknown_signal", f"a GPU pod takes no signals, and {name[:100]!r} is none: use podctl's commands")


RULES: Rules[GpuPodState] = Rules(
    envelope=Envelope,
    check_sender=rules.check_sender,
    apply=rules.apply,
    fit=lambda state, _before: rules.fit(state),
    next_actions=schedule.next_actions,
    is_settled=schedule.is_settled,
    command_from_signal=_no_signals,
    # A machine is not forgotten while something may run on it: podctl pods remove checks that, a cancellation cannot.
    on_cancel=lambda _reason: None,
)
VIEW: View[GpuPodState] = View(
    memo=summary.memo, search_attributes=_search_attributes, details=summary.summary_markdown
)


@workflow.defn(name=names.GPU_POD)
class GpuPodWorkflow(EntityWorkflow[GpuPodState]):
    """A GPU pod: owns what should run on a machine, and has done what the rules say comes next."""

    @workflow.init
    def __init__(self, *arguments: JsonValue) -> None:
        super().__init__(RULES, VIEW)
        with self.starting():
            given = PodStart.model_validate(self.only(arguments))
            if given.state is not None:
                self.begin(given.state)
            elif given.create is not None:
                self.begin(*rules.register_pod(given.create, workflow.now()))

    @workflow.run
    async def run(self, *arguments: JsonValue) -> None:  # noqa: ARG002 - the same as __init__'s
        """Run until the pod is removed and everybody who has to know does."""
        if not await self.entity.run(self._perform):
            workflow.continue_as_new(PodStart(state=self.entity.state).model_dump(mode="json"))

    async def _perform(self, action: schedule.Action) -> Sequence[BaseModel]:
        """Carry out one action and return the commands that report its outcome."""
        pod = self.entity.state.name
        queue = self.entity.state.task_queue
        match action:
            case schedule.Inspect():
                inspect = InspectInput(pod=pod, boot=action.boot, expected=action.expected, vllm=action.vllm)
                look = await execute_activity(
                    names.INSPECT_POD, inspect, LookOutput, task_queue=queue, summary=f"look at {pod}"
                )
                return [look.report]
            case schedule.Watch():
                watch = WatchInput(pod=pod, **action.model_dump(exclude={"type", "key"}))
                look = await execute_activity(
                    names.WATCH_POD,
                    watch,
                    LookOutput,
                    attempt=timeouts.OBSERVER,
                    task_queue=queue,
                    summary=f"watch {pod}",
                )
                return [look.report]
            case schedule.Launch():
                return [await _launch(pod, queue, action)]
            case schedule.Stop():
                return [await _stop(pod, queue, action)]
            case schedule.SetUp():
                return [await _set_up(pod, queue, action)]
            case schedule.Notify():
                return [await _notify(action)]
            case _:
                raise AssertionError(f"{action.type} is not carried out by activities")


async def _launch(pod: str, queue: str | None, action: schedule.Launch) -> BaseModel:
    launch = LaunchInput(pod=pod, **action.model_dump(exclude={"type", "key"}))
    try:
        output = await execute_activity(
            names.LAUNCH_SERVER, launch, LaunchOutput, task_queue=queue, summary=f"launch {action.launch_id}"
        )
    except ActivityError as error:
        refusal = definite_refusal(error)
        return commands.LaunchFailed(
            launch_id=action.launch_id, code=refusal.type or "failed", message=refusal.message[:4_000]
        )
    return output.report


async def _stop(pod: str, queue: str | None, action: schedule.Stop) -> BaseModel:
    stop = StopInput(pod=pod, launch_id=action.launch_id, grace=action.grace, task_queue=queue)
    output = await execute_activity(
        names.STOP_LAUNCH, stop, StopOutput, task_queue=queue, summary=f"stop {action.launch_id}"
    )
    return output.report


async def _set_up(pod: str, queue: str | None, action: schedule.SetUp) -> BaseModel:
    step = SetupStepInput(pod=pod, **action.model_dump(exclude={"type", "key"}))
    output = await execute_activity(
        names.SETUP_STEP,
        step,
        SetupStepOutput,
        attempt=timeouts.OBSERVER,
        task_queue=queue,
        summary=f"setup of {pod}: {action.step}",
    )
    return output.report


async def _notify(action: schedule.Notify) -> BaseModel:
    """Tell a task what has become of its server. A task that is closed, or never was, holds it no longer."""
    task = workflow.get_external_workflow_handle(task_workflow_id(action.task_id))
    payload: dict[str, JsonValue] = {
        "by": f"pod {action.pod}",
        "command_id": action.command_id,
        "name": action.server,
        "pod": action.pod,
        "status": action.status,
        "launch_id": action.launch_id,
        "detail": action.detail,
    }
    try:
        await task.signal(names.MODEL_SERVER_SIGNAL, payload)
    except (ApplicationError, FailureError) as error:
        if is_cancelled_exception(error):
            raise
        return commands.HolderGone(task_id=action.task_id)
    return commands.HolderTold(
        task_id=action.task_id, name=action.server, status=action.status, launch_id=action.launch_id
    )
