"""Everything that can be asked of a task. Each is checked and carried out by ``rules.apply`` alone."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, StringConstraints

from domain.entity import CommandId, Speaker, Value
from domain.task.models import (
    AgentType,
    Anchor,
    Document,
    Executor,
    FolderName,
    ItemStatus,
    Phase,
    PlanDraft,
    Priority,
    ProposedAction,
    Result,
    ServerStatus,
    TaskConfig,
    TrackerPhase,
    WorkstreamDraft,
)

# -- spec, plan, review -------------------------------------------------------------------------------------------


class UpdateSpec(Value):
    """Write the spec. ``base_revision`` is the one that was edited."""

    type: Literal["update_spec"] = "update_spec"
    content: str
    requirements: tuple[str, ...] = ()
    acceptance_criteria: tuple[str, ...] = ()
    base_revision: int | None = None


class GenerateSpec(Value):
    """Have the configured spec writer write the spec, or write it anew."""

    type: Literal["generate_spec"] = "generate_spec"
    instructions: str = ""


class ReopenSpec(Value):
    """Go back to the spec: its approval, and the plan's, end."""

    type: Literal["reopen_spec"] = "reopen_spec"
    reason: str = ""


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


class GeneratePlan(Value):
    """Have the configured planner write the plan, or write it anew."""

    type: Literal["generate_plan"] = "generate_plan"
    instructions: str = ""


class ReopenPlan(Value):
    """Go back to the plan while nothing of it runs: its approval ends."""

    type: Literal["reopen_plan"] = "reopen_plan"
    reason: str = ""


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
    revision: int | None = None
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
    """Replace the task's settings. ``base_revision`` is that of the settings that were edited."""

    type: Literal["change_config"] = "change_config"
    config: TaskConfig
    base_revision: int | None = None


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


class ReassignExecutor(Value):
    """Have a workstream that is not in progress done in another way."""

    type: Literal["reassign_executor"] = "reassign_executor"
    ws_id: str
    executor: Executor


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
    """Ask a person to choose. ``blocking`` holds the agent, the workstream, or the task where none is named."""

    type: Literal["request_approval"] = "request_approval"
    content: str
    options: tuple[Annotated[str, StringConstraints(min_length=1, max_length=60)], ...] = Field(
        ("approve", "reject"), min_length=1, max_length=20
    )
    blocking: bool = False
    workstream_id: str | None = None
    agent_id: str | None = None


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


# -- agents -------------------------------------------------------------------------------------------------------


class RegisterAgent(Value):
    """Say that somebody outside is at work as an agent; ``workstream_id`` for one that does a workstream."""

    type: Literal["register_agent"] = "register_agent"
    agent_id: FolderName
    agent_type: AgentType
    workstream_id: str | None = None


class UnregisterAgent(Value):
    """Forget an agent that has ended."""

    type: Literal["unregister_agent"] = "unregister_agent"
    agent_id: str


class StartAgent(Value):
    """Begin an agent's work (the scheduler's own)."""

    type: Literal["start_agent"] = "start_agent"
    agent_type: AgentType
    basis: str


class InterruptAgent(Value):
    """End an agent's work; a workstream of its own is interrupted with it."""

    type: Literal["interrupt_agent"] = "interrupt_agent"
    agent_id: str
    reason: str = ""


class RestartAgent(Value):
    """Have an agent that has ended try once more."""

    type: Literal["restart_agent"] = "restart_agent"
    agent_id: str
    instructions: str = ""


class MessageAgent(Value):
    """Say something to an agent; one that awaits input goes on."""

    type: Literal["message_agent"] = "message_agent"
    agent_id: str
    content: str


class AgentDone(Value):
    """Report what an agent made: a spec or a report as ``text``, a plan as ``plan``."""

    type: Literal["agent_done"] = "agent_done"
    agent_id: str
    text: str = ""
    plan: PlanDraft | None = None
    result: Result = Result()


class AgentFailed(Value):
    """Report that an agent failed. ``recoverable``: it may be tried again by itself."""

    type: Literal["agent_failed"] = "agent_failed"
    agent_id: str
    error: str
    #: None: unless it worked on a workstream, where what it did may have taken effect; the others only write text.
    recoverable: bool | None = None
    result: Result | None = None


class AgentInterrupted(Value):
    """Report that nobody saw how an agent's run ended; a person decides."""

    type: Literal["agent_interrupted"] = "agent_interrupted"
    agent_id: str
    reason: str


# -- review threads -----------------------------------------------------------------------------------------------


class CommentOn(Value):
    """Begin a review thread on a document; ``anchor`` names the lines, ``revision`` the one that was read."""

    type: Literal["comment_on"] = "comment_on"
    document: Document
    content: str
    anchor: Anchor | None = None
    revision: int | None = None


class ReplyToThread(Value):
    """Answer in a review thread."""

    type: Literal["reply_to_thread"] = "reply_to_thread"
    thread_id: str
    content: str


class ResolveThread(Value):
    """Settle a review thread."""

    type: Literal["resolve_thread"] = "resolve_thread"
    thread_id: str


class ReopenThread(Value):
    """Take up a review thread again."""

    type: Literal["reopen_thread"] = "reopen_thread"
    thread_id: str


# -- tracker ------------------------------------------------------------------------------------------------------


class CreateTracker(Value):
    """Begin the deliverables board."""

    type: Literal["create_tracker"] = "create_tracker"
    phases: tuple[TrackerPhase, ...]


class SetItemStatus(Value):
    """Say how far an item is. An item that a workstream owns is changed by it: ``workstream_id`` says who speaks."""

    type: Literal["set_item_status"] = "set_item_status"
    item_id: str
    status: ItemStatus
    workstream_id: str | None = None


class CommentItem(Value):
    """Say something about an item."""

    type: Literal["comment_item"] = "comment_item"
    item_id: str
    content: str


class SetEta(Value):
    """Say when a phase of the tracker is expected to be done."""

    type: Literal["set_eta"] = "set_eta"
    phase_id: str
    eta: Annotated[str, StringConstraints(max_length=100)]


# -- action approvals ---------------------------------------------------------------------------------------------


class RequestAction(Value):
    """Propose an action that needs a person's yes."""

    type: Literal["request_action"] = "request_action"
    action: ProposedAction
    reason: str = ""


class GrantAction(Value):
    """Let a proposed action happen, once."""

    type: Literal["grant_action"] = "grant_action"
    action_id: str
    comment: str = ""


class RejectAction(Value):
    """Refuse a proposed action."""

    type: Literal["reject_action"] = "reject_action"
    action_id: str
    comment: str = ""


class InterruptAction(Value):
    """End a granted action that is not over: what runs of it is stopped, and it is not repeated."""

    type: Literal["interrupt_action"] = "interrupt_action"
    action_id: str
    reason: str = ""


class ActionEnded(Value):
    """Report how a granted action's run ended. ``interrupted``: nobody saw how, and it is not repeated."""

    type: Literal["action_ended"] = "action_ended"
    action_id: str
    result: Result | None = None
    error: str = ""
    interrupted: bool = False


# -- what stands outside ------------------------------------------------------------------------------------------


class OpenDraftPullRequest(Value):
    """Ask whoever keeps the repository for a draft pull request."""

    type: Literal["open_draft_pull_request"] = "open_draft_pull_request"
    title: str
    body: str = ""
    branch: str = ""


class RequestMerge(Value):
    """Ask people for leave to merge: an action approval."""

    type: Literal["request_merge"] = "request_merge"
    reason: str = ""


class MergePullRequest(Value):
    """Say that the merge, which was granted, is being done."""

    type: Literal["merge_pull_request"] = "merge_pull_request"


class RecordExternalState(Value):
    """Tell what has become of the pull request outside."""

    type: Literal["record_external_state"] = "record_external_state"
    state: Literal["draft", "open", "merged", "closed"]
    url: str = ""
    number: int | None = Field(default=None, ge=1)
    detail: str = ""


# -- the notify hook ----------------------------------------------------------------------------------------------


class Notified(Value):
    """Report that the notify hook was called for an inbox item; ``error``: why that failed."""

    type: Literal["notified"] = "notified"
    item_id: str
    #: Whether it was because the item had been escalated.
    escalated: bool = False
    error: str = ""


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


class ReleaseServer(Value):
    """Write down that the task lets go of a model server, before the GPU pod is told."""

    type: Literal["release_server"] = "release_server"
    name: str


class ServerReleased(Value):
    """Report that the GPU pod no longer counts the task as a holder."""

    type: Literal["server_released"] = "server_released"
    name: str


TaskCommand = Annotated[
    UpdateSpec
    | GenerateSpec
    | ApproveSpec
    | ReopenSpec
    | UpdatePlan
    | GeneratePlan
    | ApprovePlan
    | ReopenPlan
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
    | ReassignExecutor
    | RunStopped
    | RegisterAgent
    | UnregisterAgent
    | StartAgent
    | InterruptAgent
    | RestartAgent
    | MessageAgent
    | AgentDone
    | AgentFailed
    | AgentInterrupted
    | PostMessage
    | RequestApproval
    | GiveApproval
    | MarkRead
    | CommentOn
    | ReplyToThread
    | ResolveThread
    | ReopenThread
    | CreateTracker
    | SetItemStatus
    | CommentItem
    | SetEta
    | RequestAction
    | GrantAction
    | RejectAction
    | InterruptAction
    | ActionEnded
    | OpenDraftPullRequest
    | RequestMerge
    | MergePullRequest
    | RecordExternalState
    | Escalate
    | Notified
    | ServerAttached
    | ServerAttachFailed
    | ServerChanged
    | ReleaseServer
    | ServerReleased,
    Discriminator("type"),
]


class Envelope(Value):
    """A command with its sender; ``command_id`` makes it count once."""

    command_id: CommandId
    by: Speaker
    command: TaskCommand
