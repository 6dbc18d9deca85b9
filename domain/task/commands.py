"""Everything that can be asked of a task. Each is checked and carried out by ``rules.apply`` alone."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, StringConstraints

from domain.entity import Value
from domain.task.models import (
    Phase,
    PlanDraft,
    Priority,
    Result,
    ServerStatus,
    TaskConfig,
    WorkstreamDraft,
)

CommandId = Annotated[str, StringConstraints(min_length=1, max_length=120)]
Sender = Annotated[str, StringConstraints(min_length=1, max_length=200)]

# -- spec, plan, review -------------------------------------------------------------------------------------------


class UpdateSpec(Value):
    """Write the spec. ``base_revision`` is the one that was edited."""

    type: Literal["update_spec"] = "update_spec"
    content: str
    requirements: tuple[str, ...] = ()
    acceptance_criteria: tuple[str, ...] = ()
    base_revision: int | None = None


class ApproveSpec(Value):
    """Approve the spec; ``revision`` is the one that was read."""

    type: Literal["approve_spec"] = "approve_spec"
    revision: int | None = None
    comment: str = ""


class UpdatePlan(Value):
    """Write the plan. ``base_revision`` is the one that was edited."""

    type: Literal["update_plan"] = "update_plan"
    plan: PlanDraft
    base_revision: int | None = None


class ApprovePlan(Value):
    """Approve the plan; ``revision`` is the one that was read."""

    type: Literal["approve_plan"] = "approve_plan"
    revision: int | None = None
    comment: str = ""


class ApproveReview(Value):
    """Accept the finished work; ``revision`` is the review that was read."""

    type: Literal["approve_review"] = "approve_review"
    revision: int | None = None
    comment: str = ""


class Approve(Value):
    """Approve the one thing that waits, whatever it is; with ``choice``, answer the one open question."""

    type: Literal["approve"] = "approve"
    choice: str | None = None
    revision: int | None = None
    comment: str = ""


class Reject(Value):
    """Send back what waits for approval, with the reason; ``gate`` may be left out while only one thing waits."""

    type: Literal["reject"] = "reject"
    gate: Literal["spec", "plan", "review"] | None = None
    comment: str = ""


# -- lifecycle ----------------------------------------------------------------------------------------------------


class RequestTransition(Value):
    """Ask for another phase. Moves at once where the gate's approval is given or the gate is automatic."""

    type: Literal["request_transition"] = "request_transition"
    to: Phase
    reason: str = ""


class ApproveTransition(Value):
    """Let the pending change of phase happen; its guard is checked again."""

    type: Literal["approve_transition"] = "approve_transition"
    comment: str = ""


class RejectTransition(Value):
    """Drop the pending change of phase."""

    type: Literal["reject_transition"] = "reject_transition"
    reason: str = ""


class ChangeConfig(Value):
    """Replace the task's settings."""

    type: Literal["change_config"] = "change_config"
    config: TaskConfig


class CancelTask(Value):
    """End the task: runs are stopped, model servers released."""

    type: Literal["cancel_task"] = "cancel_task"
    reason: str = ""


class Evaluate(Value):
    """Let the scheduler look again now: cooldowns and holds are over."""

    type: Literal["evaluate"] = "evaluate"


# -- workstreams --------------------------------------------------------------------------------------------------


class CreateWorkstream(Value):
    """Add one workstream to the plan, also while others run."""

    type: Literal["create_workstream"] = "create_workstream"
    workstream: WorkstreamDraft


class StartWorkstream(Value):
    """Begin the next attempt."""

    type: Literal["start_workstream"] = "start_workstream"
    ws_id: str


class CompleteWorkstream(Value):
    """Report success. A machine names its ``attempt``; a person reports on whatever is under way."""

    type: Literal["complete_workstream"] = "complete_workstream"
    ws_id: str
    attempt: int | None = None
    result: Result = Result()


class FailWorkstream(Value):
    """Report a failure. ``recoverable``: nothing took effect, so it may be tried again by itself."""

    type: Literal["fail_workstream"] = "fail_workstream"
    ws_id: str
    attempt: int | None = None
    error: str
    recoverable: bool = False
    result: Result | None = None


class WorkstreamInterrupted(Value):
    """Report that nobody saw how an attempt ended; it may have taken effect, so a person decides."""

    type: Literal["workstream_interrupted"] = "workstream_interrupted"
    ws_id: str
    attempt: int
    reason: str


class InterruptWorkstream(Value):
    """End what a workstream runs; a person decides how it goes on."""

    type: Literal["interrupt_workstream"] = "interrupt_workstream"
    ws_id: str
    reason: str = ""


class RetryWorkstream(Value):
    """Do a finished workstream once more."""

    type: Literal["retry_workstream"] = "retry_workstream"
    ws_id: str


class SkipWorkstream(Value):
    """Leave a workstream out; what depends on it goes on, or is left out too."""

    type: Literal["skip_workstream"] = "skip_workstream"
    ws_id: str
    reason: str = ""
    with_dependents: bool = False


class SetPriority(Value):
    """Change which ready workstream starts first."""

    type: Literal["set_priority"] = "set_priority"
    ws_id: str
    priority: Priority


class RunStopped(Value):
    """Report that a run which had to end is gone, verified."""

    type: Literal["run_stopped"] = "run_stopped"
    run_id: str


# -- talk ---------------------------------------------------------------------------------------------------------


class PostMessage(Value):
    """Say something; ``thread_id`` is the message it answers."""

    type: Literal["post_message"] = "post_message"
    content: str
    message_type: Literal["question", "update", "blocker", "review_comment"] = "update"
    workstream_id: str | None = None
    thread_id: str | None = None


class RequestApproval(Value):
    """Ask a person to choose. ``blocking`` holds the workstream, or the task where none is named, until then."""

    type: Literal["request_approval"] = "request_approval"
    content: str
    options: tuple[Annotated[str, StringConstraints(min_length=1, max_length=60)], ...] = Field(
        ("approve", "reject"), min_length=1, max_length=20
    )
    blocking: bool = False
    workstream_id: str | None = None


class GiveApproval(Value):
    """Answer an approval request with one of its options."""

    type: Literal["give_approval"] = "give_approval"
    message_id: str
    choice: str
    comment: str = ""


class MarkRead(Value):
    """Mark messages and inbox items as read, by id."""

    type: Literal["mark_read"] = "mark_read"
    ids: tuple[str, ...] = Field(min_length=1, max_length=500)


class Escalate(Value):
    """Make an inbox item urgent, because it has waited too long."""

    type: Literal["escalate"] = "escalate"
    item_id: str


# -- model servers ------------------------------------------------------------------------------------------------


class ServerAttached(Value):
    """Report that the GPU pod took the task on as a holder of the server."""

    type: Literal["server_attached"] = "server_attached"
    name: str


class ServerAttachFailed(Value):
    """Report that the GPU pod refused, or does not exist."""

    type: Literal["server_attach_failed"] = "server_attach_failed"
    name: str
    code: str
    message: str


class ServerChanged(Value):
    """The GPU pod tells what has become of a model server."""

    type: Literal["server_changed"] = "server_changed"
    name: str
    pod: str
    status: ServerStatus
    launch_id: str | None = None
    detail: str = ""


class ServerReleased(Value):
    """Report that the GPU pod no longer counts the task as a holder."""

    type: Literal["server_released"] = "server_released"
    name: str


TaskCommand = Annotated[
    UpdateSpec
    | ApproveSpec
    | UpdatePlan
    | ApprovePlan
    | ApproveReview
    | Approve
    | Reject
    | RequestTransition
    | ApproveTransition
    | RejectTransition
    | ChangeConfig
    | CancelTask
    | Evaluate
    | CreateWorkstream
    | StartWorkstream
    | CompleteWorkstream
    | FailWorkstream
    | WorkstreamInterrupted
    | InterruptWorkstream
    | RetryWorkstream
    | SkipWorkstream
    | SetPriority
    | RunStopped
    | PostMessage
    | RequestApproval
    | GiveApproval
    | MarkRead
    | Escalate
    | ServerAttached
    | ServerAttachFailed
    | ServerChanged
    | ServerReleased,
    Discriminator("type"),
]


class Envelope(Value):
    """A command with its sender; ``command_id`` makes it count once."""

    command_id: CommandId
    by: Sender
    command: TaskCommand
