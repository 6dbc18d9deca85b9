"""The phases of a task: the table of moves, their guards, and what each move entails."""

from collections.abc import Callable
from typing import Literal

from domain.errors import Rejected
from domain.task import (
    actions,
    agent_records,
    agents,
    documents,
    messages,
    serving,
    threads,
    work,
)
from domain.task.change import Change, check_length
from domain.task.commands import (
    CancelTask,
    ChangeConfig,
    ReopenPlan,
    ReopenSpec,
    RequestTransition,
)
from domain.task.models import (
    SCHEDULER,
    SETTLED,
    ApprovalRequest,
    GateMode,
    Hold,
    Message,
    PendingTransition,
    Phase,
    Review,
    TaskState,
    WorkstreamStatus,
    digest,
)
from domain.task.readiness import stopping_run
from domain.task.waits import all_settled

_BACKWARD = frozenset(
    {
        (Phase.PLANNING, Phase.SPEC_CLARIFICATION),
        (Phase.WORKSTREAM_EXECUTION, Phase.PLANNING),
        (Phase.REVIEW, Phase.WORKSTREAM_EXECUTION),
    }
)


#: The same moves, by where they start.
_BACK = dict(_BACKWARD)


def _guard_planning(state: TaskState) -> None:
    if not state.spec.content.strip():
        raise Rejected("spec_empty", "the spec has no content yet; planning begins with an approved spec")
    if state.spec.approval is None:
        raise Rejected(
            "spec_not_approved",
            f"spec revision {state.spec.revision} is not approved: podctl signal approve-spec {state.task_id}",
        )


def _guard_execution(state: TaskState) -> None:
    documents.check_plan_not_empty(state)
    if state.plan is None or state.plan.approval is None:
        raise Rejected("plan_not_approved", f"the plan is not approved: podctl signal approve-plan {state.task_id}")


def _guard_review(state: TaskState) -> None:
    open_ones = [ws.ws_id for ws in state.workstreams.values() if ws.status not in SETTLED]
    if open_ones:
        raise Rejected(
            "workstreams_not_settled",
            f"review begins when every workstream is completed, failed or skipped; not so yet: "
            f"{', '.join(open_ones[:20])}",
        )


def _guard_completed(state: TaskState) -> None:
    if state.review.approval is None:
        raise Rejected(
            "review_not_approved", f"the work is not accepted yet: podctl signal approve-review {state.task_id}"
        )


def _guard_nothing_runs(state: TaskState) -> None:
    running = [ws.ws_id for ws in state.workstreams.values() if ws.run is not None]
    at_work = [agent.agent_id for agent in state.agents.values() if agent.active]
    if at_work:
        raise Rejected(
            "agents_running",
            f"{', '.join(at_work[:20])} are at work; wait for them, or interrupt them (podctl agents interrupt), "
            "before the task goes back",
        )
    if running:
        raise Rejected(
            "workstreams_running",
            f"{', '.join(running[:20])} still run; wait for them, interrupt or skip them before the plan is changed",
        )
    stopping = next(filter(None, (stopping_run(state, name) for name in state.workstreams)), None)
    if stopping is not None:
        raise Rejected(
            "workstreams_running",
            f"run {stopping[0]} is still being stopped on pod {stopping[1]}; wait until it has ended, or, if that "
            f"machine is gone for good, say so: podctl pods remove {stopping[1]} --lost",
        )


def _no_guard(_: TaskState) -> None:
    """Going back to the spec is always possible."""


GUARDS: dict[tuple[Phase, Phase], Callable[[TaskState], None]] = {
    (Phase.SPEC_CLARIFICATION, Phase.PLANNING): _guard_planning,
    (Phase.PLANNING, Phase.WORKSTREAM_EXECUTION): _guard_execution,
    (Phase.PLANNING, Phase.SPEC_CLARIFICATION): _no_guard,
    (Phase.WORKSTREAM_EXECUTION, Phase.REVIEW): _guard_review,
    (Phase.WORKSTREAM_EXECUTION, Phase.PLANNING): _guard_nothing_runs,
    (Phase.REVIEW, Phase.WORKSTREAM_EXECUTION): _guard_nothing_runs,
    (Phase.REVIEW, Phase.COMPLETED): _guard_completed,
}


def request_transition(change: Change, command: RequestTransition) -> None:
    """Ask for another phase: moves at once, or waits for a person where the gate has no approval of its own."""
    state = change.state
    _check_guard(state, command.to)
    if state.pending_transition is not None:
        pending = state.pending_transition
        raise Rejected(
            "transition_pending",
            f"{pending.requested_by} has already asked to move to {pending.to.value}: podctl signal approve "
            f"{state.task_id} --message {pending.message_id} --choice approve (or reject)",
        )
    check_length("the reason", command.reason, messages.MESSAGE_LIMIT, "post it as a message")
    needs_person = (state.phase, command.to) in _BACKWARD or (
        command.to is Phase.REVIEW and state.config.gates.execution is GateMode.HUMAN
    )
    change.set(transitions_asked=state.transitions_asked + 1)
    change.emit("transition_requested", to=command.to.value, reason=command.reason, needs_approval=needs_person)
    if not needs_person:
        _move(change, command.to, command.reason)
        return
    reason = f": {command.reason}" if command.reason else ""
    message = messages.post(
        change,
        f"{change.by} asks to move the task to {command.to.replace('_', ' ')}{reason}",
        message_type="approval",
        approval=ApprovalRequest(options=("approve", "reject"), subject="transition"),
    )
    change.set(
        pending_transition=PendingTransition(
            to=command.to,
            reason=command.reason,
            requested_by=change.by,
            requested_at=change.now,
            message_id=message.message_id,
        )
    )


def transition_approved(change: Change, comment: str) -> None:
    """Let the pending change of phase happen; its guard is checked again."""
    pending = pending_transition(change.state)
    _check_guard(change.state, pending.to)
    change.emit("transition_approved", to=pending.to.value, requested_by=pending.requested_by, comment=comment)
    _move(change, pending.to, pending.reason)


def transition_rejected(change: Change, reason: str) -> None:
    """Drop the pending change of phase; the scheduler does not at once ask again."""
    pending = pending_transition(change.state)
    change.set(pending_transition=None)
    if pending.requested_by == SCHEDULER:
        why = f"rejected moving to {pending.to.replace('_', ' ')}" + (f": {reason}" if reason else "")
        change.set(hold=Hold(reason=why, by=change.by, since=change.now))
    change.emit("transition_rejected", to=pending.to.value, requested_by=pending.requested_by, reason=reason)


def withdraw_moot_transition(change: Change) -> None:
    """Withdraw a move to review that waits for a person once work has been taken up again."""
    pending = change.state.pending_transition
    if pending is not None and pending.to is Phase.REVIEW and not all_settled(change.state):
        change.set(pending_transition=None)
        messages.close_approvals(
            change, "work was taken up again", lambda message: message.message_id == pending.message_id
        )
        change.emit("transition_withdrawn", to=pending.to.value, requested_by=pending.requested_by)


def reopen_spec(change: Change, command: ReopenSpec) -> None:
    """Go back to the spec at once: its approval, and the plan's, end."""
    _reopen(change, "spec", Phase.SPEC_CLARIFICATION, command.reason)


def reopen_plan(change: Change, command: ReopenPlan) -> None:
    """Go back to the plan at once: its approval ends."""
    _reopen(change, "plan", Phase.PLANNING, command.reason)


def _reopen(change: Change, what: Literal["spec", "plan"], to: Phase, reason: str) -> None:
    state = change.state
    check_length("the reason", reason, messages.MESSAGE_LIMIT, "post it as a message")
    document = state.spec if what == "spec" else state.plan
    if state.phase is to and (document is None or document.approval is None):
        raise Rejected("already_open", f"the {what} is open: it is not approved, and can be changed as it is")
    change.emit(f"{what}_reopened", reason=reason)
    if state.pending_transition is not None:
        pending = state.pending_transition
        change.set(pending_transition=None)
        messages.close_approvals(change, f"the {what} was reopened", lambda m: m.message_id == pending.message_id)
    why = reason or f"the {what} was reopened"
    if state.phase is to and document is not None:
        change.set(
            **{what: document.model_copy(update={"approval": None, "rejection": None})},
            hold=Hold(reason=why, by=change.by, since=change.now),
        )
    while change.state.phase is not to:
        back = _BACK[change.state.phase]
        _check_guard(change.state, back)
        _move(change, back, why)


def cancel_task(change: Change, command: CancelTask) -> None:
    """End the task. What it runs and holds is stopped and released by what the scheduler asks for next."""
    check_length("the reason", command.reason, messages.MESSAGE_LIMIT, "post it as a message before")
    reason = f"task cancelled by {change.by}" + (f": {command.reason}" if command.reason else "")
    work.stop_all(change, reason[: work.RESULT_LIMIT])
    agent_records.end_where(change, lambda _: True, reason)
    change.set(cancelled_by=change.by, cancel_reason=command.reason)
    change.emit("task_cancelled", reason=command.reason)
    _move(change, Phase.CANCELLED, reason)


def change_config(change: Change, command: ChangeConfig) -> None:
    """Replace the task's settings."""
    current = change.state.config_revision
    if command.base_revision is not None and command.base_revision != current:
        raise Rejected(
            "stale_revision",
            f"this changes revision {command.base_revision} of the settings, but they are at revision {current}; read "
            "those, put your changes into them and send them again",
        )
    before = change.state.config.model_dump(mode="json")
    after = command.config.model_dump(mode="json")
    agents.check_config(command.config)
    change.set(config=command.config, config_revision=current + 1)
    agents.config_changed(change)
    changed = {name: value for name, value in after.items() if value != before[name]}
    change.emit("config_changed", revision=current + 1, **changed)


def evaluate(change: Change) -> None:
    """End cooldowns and holds, so that the scheduler decides anew."""
    change.put_workstreams(
        ws.model_copy(update={"cooldown_until": None})
        for ws in change.state.workstreams.values()
        if ws.cooldown_until is not None
    )
    agents.evaluate(change)
    if change.state.hold is not None or change.state.cooldown_until is not None:
        change.set(hold=None, cooldown_until=None)


def pending_transition(state: TaskState) -> PendingTransition:
    """Return the change of phase that waits for a person, or raise ``Rejected('no_pending_transition')``."""
    if state.pending_transition is None:
        raise Rejected("no_pending_transition", f"nobody has asked to leave phase {state.phase.value}")
    return state.pending_transition


def _check_guard(state: TaskState, to: Phase) -> None:
    guard = GUARDS.get((state.phase, to))
    if guard is None:
        allowed = ", ".join(target.value for source, target in GUARDS if source is state.phase)
        raise Rejected(
            "invalid_phase",
            f"a task in {state.phase.value} cannot move to {to.value}; it can move to {allowed}, or be cancelled",
        )
    guard(state)


def _move(change: Change, to: Phase, reason: str) -> None:
    before = change.state.phase
    backward = (before, to) in _BACKWARD
    change.set(
        phase=to,
        phase_since=change.now,
        phase_changes=change.state.phase_changes + 1,
        pending_transition=None,
        hold=Hold(reason=reason or "no reason given", by=change.by, since=change.now) if backward else None,
    )
    change.emit("phase_changed", **{"from": before.value}, to=to.value, reason=reason)
    agent_records.end_with_phase(change)
    _ENTER[to](change, before)


def _enter_spec(change: Change, _: Phase) -> None:
    change.set(spec=change.state.spec.model_copy(update={"approval": None, "rejection": None}))
    _clear_plan_approval(change)


def _enter_planning(change: Change, before: Phase) -> None:
    if before is Phase.WORKSTREAM_EXECUTION:
        _clear_plan_approval(change)
        work.hand_back(change)
        messages.close_approvals(change, "the task went back to planning", _about_work)


def _enter_execution(change: Change, before: Phase) -> None:
    if before is Phase.REVIEW:
        change.set(review=change.state.review.model_copy(update={"approval": None, "rejection": None}))
        return
    # A changed plan is a new chance for what failed under the old one.
    change.put_workstreams(
        ws.model_copy(update={"status": WorkstreamStatus.PENDING, "automatic_retries": 0, "cooldown_until": None})
        for ws in change.state.workstreams.values()
        if ws.status is WorkstreamStatus.FAILED
    )
    work.materialise(change)
    work.reblock(change)
    serving.want_servers(change)


def _enter_review(change: Change, _: Phase) -> None:
    messages.close_approvals(change, "the task moved on to review", _about_work)
    outcome = b"\0".join(ws.model_dump_json().encode() for ws in change.state.workstreams.values())
    before = change.state
    review = before.review
    found = digest(outcome)
    change.set(
        review=Review(
            revision=review.revision + 1, digest=found, outcome_digest=found, report_revision=review.report_revision
        )
    )
    threads.follow(change, "report", before)


def _enter_final(change: Change, _: Phase) -> None:
    reason = f"the task is {change.state.phase.value}"
    actions.close_actions(change, reason)
    messages.close_approvals(change, reason)


_ENTER: dict[Phase, Callable[[Change, Phase], None]] = {
    Phase.SPEC_CLARIFICATION: _enter_spec,
    Phase.PLANNING: _enter_planning,
    Phase.WORKSTREAM_EXECUTION: _enter_execution,
    Phase.REVIEW: _enter_review,
    Phase.COMPLETED: _enter_final,
    Phase.CANCELLED: _enter_final,
}


def _about_work(message: Message) -> bool:
    return message.workstream_id is not None or (message.approval is not None and message.approval.server is not None)


def _clear_plan_approval(change: Change) -> None:
    plan = change.state.plan
    if plan is not None:
        change.set(plan=plan.model_copy(update={"approval": None, "rejection": None}))
