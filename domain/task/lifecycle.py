"""Spec, plan, review and the phases between them: the table of moves and their guards."""

from collections.abc import Callable

from pydantic import JsonValue

from domain.errors import Rejected
from domain.task import messages, serving, work
from domain.task.change import Change, check_length
from domain.task.commands import (
    ApprovePlan,
    ApproveReview,
    ApproveSpec,
    CancelTask,
    ChangeConfig,
    CreateWorkstream,
    RequestTransition,
    UpdatePlan,
    UpdateSpec,
)
from domain.task.models import (
    SCHEDULER,
    SETTLED,
    Approval,
    ApprovalRequest,
    GateMode,
    Hold,
    Message,
    PendingTransition,
    Phase,
    Plan,
    PlanDraft,
    Review,
    Spec,
    TaskState,
    Workstream,
    WorkstreamStatus,
    digest,
)
from domain.task.plan_rules import check_plan
from domain.task.waits import Gate, all_settled, gate_object

#: Bytes of a spec's content, requirements and acceptance criteria together.
SPEC_LIMIT = 256 * 1024

_BACKWARD = frozenset(
    {
        (Phase.PLANNING, Phase.SPEC_CLARIFICATION),
        (Phase.WORKSTREAM_EXECUTION, Phase.PLANNING),
        (Phase.REVIEW, Phase.WORKSTREAM_EXECUTION),
    }
)


# -- spec and plan ------------------------------------------------------------------------------------------------


def update_spec(change: Change, command: UpdateSpec) -> None:
    """Write the spec as its next revision; an approval of the old one ends."""
    spec = change.state.spec
    _check_base("spec", command.base_revision, spec.revision)
    parts = [command.content, *command.requirements, *command.acceptance_criteria]
    whole = "\0".join(parts)
    check_length("the spec", whole, SPEC_LIMIT, "put the bulk into a file that the workstreams can read and name it")
    change.set(
        spec=Spec(
            content=command.content,
            requirements=command.requirements,
            acceptance_criteria=command.acceptance_criteria,
            revision=spec.revision + 1,
            digest=digest(whole.encode()),
            updated_by=change.by,
            updated_at=change.now,
        ),
        hold=None,
    )
    spec = change.state.spec
    change.emit("spec_updated", revision=spec.revision, digest=spec.digest, bytes=len(whole.encode()))


def update_plan(change: Change, command: UpdatePlan) -> None:
    """Write the plan as its next revision; an approval of the old one ends."""
    revision = 0 if change.state.plan is None else change.state.plan.revision
    _check_base("plan", command.base_revision, revision)
    _write_plan(change, check_plan(command.plan), approval=None)
    change.set(hold=None)


def create_workstream(change: Change, command: CreateWorkstream) -> None:
    """Add one workstream to the plan. While the plan is carried out it keeps its approval and goes on."""
    plan = change.state.plan
    if plan is None:
        raise Rejected("plan_empty", "there is no plan to add a workstream to; write one with update_plan")
    draft = PlanDraft(
        summary=plan.summary,
        model_servers=tuple(plan.model_servers.values()),
        workstreams=(*plan.workstreams.values(), command.workstream),
    )
    running = change.state.phase is Phase.WORKSTREAM_EXECUTION
    _write_plan(change, check_plan(draft), approval=plan.approval if running else None)
    change.set(hold=None)
    if running:
        _materialise(change)
        work.reblock(change)
        serving.want_servers(change)


def _write_plan(change: Change, plan: Plan, approval: Approval | None) -> None:
    before = change.state.plan
    plan = plan.model_copy(
        update={
            "revision": 1 if before is None else before.revision + 1,
            "created_by": change.by if before is None else before.created_by,
            "updated_by": change.by,
            "updated_at": change.now,
            "approval": approval,
        }
    )
    known = {} if before is None else before.workstreams
    # A result is of what was asked: a workstream that says something else now is to be done again.
    redone = [
        name
        for name, draft in plan.workstreams.items()
        if name in change.state.workstreams
        and (draft.description, draft.executor) != (known[name].description, known[name].executor)
    ]
    dropped = change.state.workstreams.keys() - plan.workstreams.keys()
    attempts = {name: change.state.workstreams[name].attempt for name in (*dropped, *redone)}
    change.set(
        plan=plan,
        workstreams={n: ws for n, ws in change.state.workstreams.items() if n not in attempts},
        dropped_attempts={**change.state.dropped_attempts, **{n: a for n, a in attempts.items() if a}},
    )
    messages.close_approvals(
        change, "the plan no longer has this workstream as it was", lambda m: m.workstream_id in attempts
    )
    change.emit(
        "plan_updated",
        revision=plan.revision,
        digest=plan.digest,
        summary=plan.summary[:1_000],
        workstreams=list(plan.workstreams),
        model_servers=list(plan.model_servers),
        to_be_redone=[*redone],
    )


def _check_base(what: str, base: int | None, current: int) -> None:
    if base is not None and base != current:
        raise Rejected(
            "stale_revision",
            f"this edit is of {what} revision {base}, but the {what} is at revision {current}; read that one, put your "
            "changes into it and send them again",
        )


# -- approvals of gates -------------------------------------------------------------------------------------------


def approve_spec(change: Change, command: ApproveSpec) -> None:
    """Approve the spec: it has content, and it is the revision that was read."""
    _check_gate_phase(change.state, "spec")
    if not change.state.spec.content.strip():
        raise Rejected("spec_empty", "the spec has no content yet; write it before it is approved")
    _approve(change, "spec", command.revision, command.comment)


def approve_plan(change: Change, command: ApprovePlan) -> None:
    """Approve the plan: it has workstreams, and it is the revision that was read."""
    _check_gate_phase(change.state, "plan")
    _check_plan_not_empty(change.state)
    _approve(change, "plan", command.revision, command.comment)


def approve_review(change: Change, command: ApproveReview) -> None:
    """Accept the finished work."""
    _check_gate_phase(change.state, "review")
    _approve(change, "review", command.revision, command.comment)


_GATE_PHASE: dict[Gate, Phase] = {
    "spec": Phase.SPEC_CLARIFICATION,
    "plan": Phase.PLANNING,
    "review": Phase.REVIEW,
}


def _check_gate_phase(state: TaskState, gate: Gate) -> None:
    subject = None if gate == "plan" and state.plan is None else gate_object(state, gate)
    if subject is not None and subject.approval is not None:
        approval = subject.approval
        raise Rejected(
            "already_approved",
            f"{gate} revision {approval.revision} was already approved by {approval.by} at "
            f"{approval.at:%Y-%m-%d %H:%M} UTC",
        )
    if state.phase is not _GATE_PHASE[gate]:
        raise Rejected(
            "invalid_phase",
            f"the {gate} is approved in phase {_GATE_PHASE[gate].value}, and the task is in {state.phase.value}",
        )


def _approve(change: Change, gate: Gate, revision: int | None, comment: str) -> None:
    subject = gate_object(change.state, gate)
    if revision is not None and revision != subject.revision:
        raise Rejected(
            "stale_revision",
            f"this approves {gate} revision {revision}, but the {gate} is at revision {subject.revision}; read that "
            "one and approve it",
        )
    check_length("the comment", comment, messages.MESSAGE_LIMIT, "post a longer one as messages")
    approval = Approval(
        by=change.by,
        at=change.now,
        revision=subject.revision,
        digest=subject.digest,
        revision_named=revision is not None,
        comment=comment,
    )
    change.set(**{gate: subject.model_copy(update={"approval": approval, "rejection": None})}, hold=None)
    payload: dict[str, JsonValue] = {"revision": subject.revision, "digest": subject.digest}
    change.emit(f"{gate}_approved", **payload, revision_named=approval.revision_named, comment=comment)


def _check_plan_not_empty(state: TaskState) -> None:
    if state.plan is None or not state.plan.workstreams:
        raise Rejected("plan_empty", "the plan has no workstreams; give it at least one before it is approved")


# -- phases -------------------------------------------------------------------------------------------------------


def _guard_planning(state: TaskState) -> None:
    if not state.spec.content.strip():
        raise Rejected("spec_empty", "the spec has no content yet; planning begins with an approved spec")
    if state.spec.approval is None:
        raise Rejected(
            "spec_not_approved",
            f"spec revision {state.spec.revision} is not approved: podctl signal approve-spec {state.task_id}",
        )


def _guard_execution(state: TaskState) -> None:
    _check_plan_not_empty(state)
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
    if running:
        raise Rejected(
            "workstreams_running",
            f"{', '.join(running[:20])} still run; wait for them, interrupt or skip them before the plan is changed",
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


def cancel_task(change: Change, command: CancelTask) -> None:
    """End the task. What it runs and holds is stopped and released by what the scheduler asks for next."""
    check_length("the reason", command.reason, messages.MESSAGE_LIMIT, "post it as a message before")
    reason = f"task cancelled by {change.by}" + (f": {command.reason}" if command.reason else "")
    work.stop_all(change, reason[: work.RESULT_LIMIT])
    change.set(cancelled_by=change.by, cancel_reason=command.reason)
    change.emit("task_cancelled", reason=command.reason)
    _move(change, Phase.CANCELLED, reason)


def change_config(change: Change, command: ChangeConfig) -> None:
    """Replace the task's settings."""
    before = change.state.config.model_dump(mode="json")
    after = command.config.model_dump(mode="json")
    change.set(config=command.config)
    change.emit("config_changed", **{name: value for name, value in after.items() if value != before[name]})


def evaluate(change: Change) -> None:
    """End cooldowns and holds, so that the scheduler decides anew."""
    change.put_workstreams(
        ws.model_copy(update={"cooldown_until": None})
        for ws in change.state.workstreams.values()
        if ws.cooldown_until is not None
    )
    if change.state.hold is not None:
        change.set(hold=None)


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
    _materialise(change)
    work.reblock(change)
    serving.want_servers(change)


def _enter_review(change: Change, _: Phase) -> None:
    messages.close_approvals(change, "the task moved on to review", _about_work)
    outcome = b"\0".join(ws.model_dump_json().encode() for ws in change.state.workstreams.values())
    change.set(review=Review(revision=change.state.review.revision + 1, digest=digest(outcome)))


def _enter_final(change: Change, _: Phase) -> None:
    messages.close_approvals(change, f"the task is {change.state.phase.value}")


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


def _materialise(change: Change) -> None:
    """Make the plan's workstreams real: those already there keep what they have reached. Plan order."""
    state = change.state
    if state.plan is None:
        return
    workstreams: dict[str, Workstream] = {}
    for name, draft in state.plan.workstreams.items():
        known = state.workstreams.get(name)
        if known is None:
            attempt = state.dropped_attempts.get(name, 0)
            known = Workstream(ws_id=name, priority=draft.priority, attempt=attempt)
            change.emit(
                "workstream_created",
                workstream=name,
                title=draft.title,
                depends_on=list(draft.depends_on),
                executor=draft.executor.type,
                priority=draft.priority.value,
            )
        workstreams[name] = known
    dropped = {n: a for n, a in state.dropped_attempts.items() if n not in workstreams}
    change.set(workstreams=workstreams, dropped_attempts=dropped)
