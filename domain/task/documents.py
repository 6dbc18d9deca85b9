"""What people write and approve: spec, plan and review, with their revisions."""

from pydantic import JsonValue

from domain.errors import Rejected
from domain.task import agent_records, messages, serving, threads, work
from domain.task.change import Change, check_length, names
from domain.task.commands import (
    ApprovePlan,
    ApproveReview,
    ApproveSpec,
    CreateWorkstream,
    ReassignExecutor,
    UpdatePlan,
    UpdateSpec,
)
from domain.task.models import (
    SATISFIED,
    UNDER_WAY,
    AgentType,
    Approval,
    Phase,
    Plan,
    PlanDraft,
    Spec,
    TaskState,
    digest,
)
from domain.task.plan_rules import check_plan
from domain.task.waits import Gate, gate_object

#: Bytes of a spec's content, requirements and acceptance criteria together.
SPEC_LIMIT = 256 * 1024
#: Bytes of a review's report.
REPORT_LIMIT = 64 * 1024


# -- spec and plan ------------------------------------------------------------------------------------------------


def update_spec(change: Change, command: UpdateSpec) -> None:
    """Write the spec as its next revision; an approval of the old one ends."""
    spec = change.state.spec
    _check_base("spec", command.base_revision, spec.revision)
    before = change.state
    parts = [command.content, *command.requirements, *command.acceptance_criteria]
    whole = "\0".join(parts)
    check_spec(whole)
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
    threads.follow(change, "spec", before)
    agent_records.written_by_hand(change, AgentType.SPEC_WRITER)


def check_spec(text: str) -> None:
    """Raise ``Rejected('content_too_long')`` for a spec that is over its limit, lists included."""
    check_length("the spec", text, SPEC_LIMIT, "put the bulk into a file that the workstreams can read and name it")


def update_plan(change: Change, command: UpdatePlan) -> None:
    """Write the plan as its next revision; an approval of the old one ends."""
    revision = 0 if change.state.plan is None else change.state.plan.revision
    _check_base("plan", command.base_revision, revision)
    _write_plan(change, check_plan(command.plan), approval=None)
    change.set(hold=None)
    agent_records.written_by_hand(change, AgentType.PLANNER)


def reassign_executor(change: Change, command: ReassignExecutor) -> None:
    """Have a workstream that nobody is at work on done in another way. What it has reached is kept."""
    plan = change.state.plan
    draft = None if plan is None else plan.workstreams.get(command.ws_id)
    if plan is None or draft is None:
        raise Rejected(
            "workstream_not_found",
            f"there is no workstream {command.ws_id!r}; {names([] if plan is None else plan.workstreams)}",
        )
    workstream = change.state.workstreams.get(command.ws_id)
    if workstream is not None and workstream.status in (*UNDER_WAY, *SATISFIED):
        raise Rejected(
            "workstream_not_pending",
            f"workstream {command.ws_id!r} is {workstream.status.value}; another executor can be had for one that is "
            "pending, blocked or failed",
        )
    running = change.state.phase is Phase.WORKSTREAM_EXECUTION
    changed = {**plan.workstreams, command.ws_id: draft.model_copy(update={"executor": command.executor})}
    new = check_plan(
        PlanDraft(
            summary=plan.summary,
            model_servers=tuple(plan.model_servers.values()),
            workstreams=tuple(changed.values()),
        )
    )
    before = change.state
    told = {"revision": plan.revision + 1, "updated_by": change.by, "updated_at": change.now}
    kept = {"created_by": plan.created_by, "approval": plan.approval if running else None}
    change.set(plan=new.model_copy(update={**told, **kept}))
    change.emit(
        "workstream_reassigned",
        workstream=command.ws_id,
        executor=command.executor.type,
        revision=plan.revision + 1,
        digest=new.digest,
    )
    threads.follow(change, "plan", before)
    agent_records.written_by_hand(change, AgentType.PLANNER)
    if running:
        serving.want_servers(change)


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
    agent_records.written_by_hand(change, AgentType.PLANNER)
    if running:
        work.materialise(change)
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
    old_state = change.state
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
    threads.follow(change, "plan", old_state)


def write_report(change: Change, text: str) -> None:
    """Write the review's report, over one that is there: the next revision of the review, which an approval names.

    Raises ``Rejected`` outside of review, once the review is approved, and for a text that is empty or too long.
    """
    _check_gate_phase(change.state, "review")
    if not text.strip():
        raise Rejected("report_empty", "the report has no content; say what was found, in markdown")
    check_length("the report", text, REPORT_LIMIT, "put the bulk into a file and name it")
    before = change.state
    review = before.review
    revision = review.report_revision + 1
    outcome = digest(f"{review.outcome_digest}\0{text}".encode())
    change.set(
        review=review.model_copy(
            update={
                "revision": review.revision + 1,
                "digest": outcome,
                "report": text,
                "reported_by": change.by,
                "report_revision": revision,
            }
        )
    )
    change.emit(
        "report_written",
        review=change.state.review.revision,
        revision=revision,
        digest=outcome,
        bytes=len(text.encode()),
    )
    threads.follow(change, "report", before)


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
    check_plan_not_empty(change.state)
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


def check_plan_not_empty(state: TaskState) -> None:
    """Raise ``Rejected('plan_empty')`` if there is nothing in the plan to carry out."""
    if state.plan is None or not state.plan.workstreams:
        raise Rejected("plan_empty", "the plan has no workstreams; give it at least one before it is approved")
