"""What people decide: answers to questions, and approvals of whatever it is that waits."""

from domain.errors import Rejected
from domain.task import (
    actions,
    agent_records,
    agents,
    documents,
    lifecycle,
    messages,
    serving,
    work,
)
from domain.task.approvable import WaitingGate, the_one_approvable, what_waits
from domain.task.change import Change, check_length
from domain.task.commands import (
    Approve,
    ApprovePlan,
    ApproveReview,
    ApproveSpec,
    ApproveTransition,
    CancelTask,
    GiveApproval,
    GrantAction,
    MessageAgent,
    Reject,
    RejectAction,
    RejectTransition,
    RequestApproval,
    RestartAgent,
    RetryWorkstream,
    SkipWorkstream,
)
from domain.task.models import Answer, ApprovalRequest, Message, Rejection, WorkstreamStatus
from domain.task.waits import Gate, gate_object, waiting_gate


def request_approval(change: Change, command: RequestApproval) -> None:
    """Ask a person to choose; a blocking question holds its agent, its workstream, or the task."""
    messages.check_content(command.content)
    if len(set(command.options)) != len(command.options):
        raise Rejected("invalid_options", f"the options {', '.join(command.options)} name one twice")
    ws_id = command.workstream_id
    if command.agent_id is not None:
        agent = agent_records.find(change, command.agent_id)
        agent_records.check_active(agent)
        if ws_id not in (None, agent.workstream_id):
            works_on = f"workstream {agent.workstream_id!r}" if agent.workstream_id else "no workstream"
            raise Rejected(
                "not_owner",
                f"agent {agent.agent_id!r} works on {works_on} and cannot hold {ws_id!r}: leave out workstream_id, or "
                "ask without agent_id",
            )
        ws_id = agent.workstream_id
    if ws_id is not None:
        workstream = change.workstream(ws_id)
        if command.blocking and workstream.status is WorkstreamStatus.IN_PROGRESS:
            change.update_workstream(ws_id, status=WorkstreamStatus.AWAITING_INPUT)
            change.emit("workstream_awaiting_input", workstream=ws_id)
    message = messages.post(
        change,
        command.content,
        message_type="approval",
        workstream_id=ws_id,
        approval=ApprovalRequest(options=command.options, blocking=command.blocking, agent_id=command.agent_id),
    )
    if command.agent_id is not None and command.blocking:
        agents.await_input(change, command.agent_id, message.message_id)


def give_approval(change: Change, command: GiveApproval) -> None:
    """Answer an approval request, and carry out what was chosen."""
    message = _answer(change, command)
    _carry_out(change, message, command.choice, command.comment)


def approve(change: Change, command: Approve) -> None:
    """Approve the one thing that waits; with a choice, answer the one question that offers it."""
    one = the_one_approvable(change.state, "approve", command.choice)
    if isinstance(one, WaitingGate):
        _approve_gate(change, one.gate, command)
    else:
        answer = GiveApproval(message_id=one.message.message_id, choice=one.choice, comment=command.comment)
        give_approval(change, answer)


def approve_transition(change: Change, command: ApproveTransition) -> None:
    """Let the pending change of phase happen."""
    message_id = lifecycle.pending_transition(change.state).message_id
    _answer(change, GiveApproval(message_id=message_id, choice="approve", comment=command.comment))
    lifecycle.transition_approved(change, command.comment)


def reject_transition(change: Change, command: RejectTransition) -> None:
    """Drop the pending change of phase."""
    message_id = lifecycle.pending_transition(change.state).message_id
    _answer(change, GiveApproval(message_id=message_id, choice="reject", comment=command.reason))
    lifecycle.transition_rejected(change, command.reason)


def grant_action(change: Change, command: GrantAction) -> None:
    """Let a proposed action happen, once."""
    _decide_action(change, command.action_id, "grant", command.comment)


def reject_action(change: Change, command: RejectAction) -> None:
    """Refuse a proposed action."""
    _decide_action(change, command.action_id, "reject", command.comment)


def reject(change: Change, command: Reject) -> None:
    """Send back what waits: the gate's author reads why, and the task stays where it is."""
    state = change.state
    if command.gate is not None:
        if waiting_gate(state) != command.gate:
            raise Rejected(
                "nothing_to_approve",
                f"the {command.gate} does not wait for approval in phase {state.phase.value}; {what_waits(state)}",
            )
        _reject_gate(change, command.gate, command)
        return
    one = the_one_approvable(state, "reject")
    if isinstance(one, WaitingGate):
        _reject_gate(change, one.gate, command)
    else:
        answer = GiveApproval(message_id=one.message.message_id, choice=one.choice, comment=command.comment)
        give_approval(change, answer)


def _decide_action(change: Change, action_id: str, choice: str, comment: str) -> None:
    approval = actions.find_action(change.state, action_id)
    # Its request may be forgotten by now: who was first stands with the action.
    actions.check_undecided(approval)
    _answer(change, GiveApproval(message_id=approval.message_id, choice=choice, comment=comment))
    actions.decide(change, action_id, choice, comment)


def _answer(change: Change, command: GiveApproval) -> Message:
    """Record the answer to an approval request, and return the request."""
    message = messages.find_message(change, command.message_id)
    approval = message.approval
    if approval is None:
        raise Rejected(
            "not_approval_request",
            f"message {message.message_id!r} is {_article(message.type)}, not a request for approval",
        )
    if approval.answer is not None:
        answer = approval.answer
        raise Rejected(
            "already_approved",
            f"{message.message_id!r} was already answered with {answer.choice!r} by {answer.by} at "
            f"{answer.at:%Y-%m-%d %H:%M} UTC",
        )
    if approval.closed is not None:
        raise Rejected("already_closed", f"{message.message_id!r} no longer matters: {approval.closed}")
    if command.choice not in approval.options:
        raise Rejected(
            "invalid_choice",
            f"{command.choice!r} is no answer to {message.message_id!r}; choose one of {', '.join(approval.options)}",
        )
    check_length("the comment", command.comment, messages.MESSAGE_LIMIT, "post a longer one as messages")
    answer = Answer(choice=command.choice, by=change.by, at=change.now, comment=command.comment)
    answered = approval.model_copy(update={"answer": answer})
    change.put_message(message.model_copy(update={"approval": answered, "read": True}))
    change.emit(
        "approval_given",
        message=message.message_id,
        choice=command.choice,
        comment=command.comment,
        workstream=message.workstream_id,
        server=approval.server,
        agent=approval.agent_id,
    )
    return message


def _carry_out(change: Change, message: Message, choice: str, comment: str) -> None:
    approval = message.approval
    if approval is None:
        return
    if approval.subject == "question":
        _question_answered(change, approval, message.workstream_id)
    elif approval.subject == "transition":
        if choice == "approve":
            lifecycle.transition_approved(change, comment)
        else:
            lifecycle.transition_rejected(change, comment)
    elif approval.subject == "action" and approval.action_id is not None:
        actions.decide(change, approval.action_id, choice, comment)
    elif choice == "cancel":
        reason = comment or f"chosen in answer to {message.message_id}"
        lifecycle.cancel_task(change, CancelTask(reason=reason))
    else:
        _decide_failure(change, message, approval, choice, comment)


def _question_answered(change: Change, approval: ApprovalRequest, ws_id: str | None) -> None:
    if approval.agent_id is not None:
        agents.answered(change, approval.agent_id)
    if approval.blocking and ws_id is not None:
        resume(change, ws_id)


def _decide_failure(change: Change, message: Message, approval: ApprovalRequest, choice: str, comment: str) -> None:
    if approval.subject == "server_down" and approval.server is not None:
        serving.want_again(change, approval.server)
    elif approval.subject == "agent_failed" and approval.agent_id is not None:
        # Writing by hand is what the inbox asks for as soon as no agent is expected any more.
        if choice == "retry":
            agents.restart(change, RestartAgent(agent_id=approval.agent_id, instructions=comment))
    elif message.workstream_id is not None:
        _decide_workstream(change, message.workstream_id, choice, comment)


def _decide_workstream(change: Change, ws_id: str, choice: str, comment: str) -> None:
    if choice == "retry":
        work.retry_workstream(change, RetryWorkstream(ws_id=ws_id))
    elif choice == "skip":
        work.skip_workstream(change, SkipWorkstream(ws_id=ws_id, reason=comment))
    else:
        work.fix_by_hand(change, ws_id)


def message_agent(change: Change, command: MessageAgent) -> None:
    """Say something to an agent; what it asked and waits for is answered by it."""
    agent = agent_records.find(change, command.agent_id)
    messages.check_content(command.content)
    agent_records.check_active(agent)
    message = messages.post(change, command.content, agent_id=agent.agent_id, workstream_id=agent.workstream_id)

    def asked(m: Message) -> bool:
        return m.approval is not None and m.approval.agent_id == agent.agent_id and m.approval.blocking

    messages.close_approvals(change, f"answered by message {message.message_id} from {change.by}", asked)
    agents.answered(change, agent.agent_id)
    if agent.workstream_id is not None:
        resume(change, agent.workstream_id)


def resume(change: Change, ws_id: str) -> None:
    """Let a workstream go on whose blocking questions are all answered."""
    workstream = change.state.workstreams.get(ws_id)
    if workstream is None or workstream.status is not WorkstreamStatus.AWAITING_INPUT or workstream.by_hand:
        return
    if not any(m.workstream_id == ws_id and m.approval and m.approval.blocking for m in change.state.open_approvals()):
        change.update_workstream(ws_id, status=WorkstreamStatus.IN_PROGRESS)
        change.emit("workstream_resumed", workstream=ws_id)


def _approve_gate(change: Change, gate: Gate, command: Approve) -> None:
    if gate == "spec":
        documents.approve_spec(change, ApproveSpec(revision=command.revision, comment=command.comment))
    elif gate == "plan":
        documents.approve_plan(change, ApprovePlan(revision=command.revision, comment=command.comment))
    else:
        documents.approve_review(change, ApproveReview(revision=command.revision, comment=command.comment))


def _reject_gate(change: Change, gate: Gate, command: Reject) -> None:
    comment = command.comment
    check_length("the comment", comment, messages.MESSAGE_LIMIT - 200, "post a longer one as messages")
    subject = gate_object(change.state, gate)
    if command.revision is not None and command.revision != subject.revision:
        raise Rejected(
            "stale_revision",
            f"this sends back {gate} revision {command.revision}, but the {gate} is at revision {subject.revision}; "
            "read that one",
        )
    rejection = Rejection(by=change.by, at=change.now, revision=subject.revision, comment=comment)
    change.set(**{gate: subject.model_copy(update={"rejection": rejection})})
    change.emit(f"{gate}_rejected", revision=subject.revision, digest=subject.digest, comment=comment)
    reason = f": {comment}" if comment else ""
    messages.post(change, f"{gate} revision {subject.revision} was sent back{reason}", message_type="review_comment")


def _article(message_type: str) -> str:
    return f"{'an' if message_type[0] in 'aeiou' else 'a'} {message_type.replace('_', ' ')}"
