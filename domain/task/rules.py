"""``apply``: the only way in which a task changes. The table below says what each command does, and in which phase."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from domain.entity import ACCEPTED, Event, Sender, Value
from domain.errors import Rejected
from domain.task import (
    actions,
    agent_results,
    agents,
    commands,
    decisions,
    documents,
    external,
    inbox,
    lifecycle,
    messages,
    serving,
    threads,
    tracker,
    work,
)
from domain.task.change import Change
from domain.task.commands import Envelope, UpdatePlan, UpdateSpec
from domain.task.ending import already_final
from domain.task.models import FINAL_PHASES, SCHEDULER, Phase, TaskInput, TaskState
from domain.task.size import fit

_LIVE = frozenset(Phase) - FINAL_PHASES
_ALWAYS = frozenset(Phase)
_EXECUTION = frozenset({Phase.WORKSTREAM_EXECUTION})

PEOPLE = frozenset({Sender.PERSON})
POD = frozenset({Sender.POD})
PODCTL = frozenset({Sender.PODCTL})


class Rule(NamedTuple):
    """How one command is carried out."""

    handle: Callable[[Change, Any], None]
    phases: frozenset[Phase]
    #: Who may give it: who is not in it is refused before the command is looked at.
    senders: frozenset[Sender] = PEOPLE
    #: Whether it mainly adds text, and may be refused to keep room for what must be accepted.
    growing: bool = False


RULES: dict[type[Value], Rule] = {
    commands.UpdateSpec: Rule(documents.update_spec, frozenset({Phase.SPEC_CLARIFICATION}), growing=True),
    commands.UpdatePlan: Rule(
        documents.update_plan, frozenset({Phase.SPEC_CLARIFICATION, Phase.PLANNING}), growing=True
    ),
    # Approving in the wrong phase says more than 'wrong phase' where it has already happened: checked there.
    commands.ApproveSpec: Rule(documents.approve_spec, _LIVE, PEOPLE | PODCTL),
    commands.ApprovePlan: Rule(documents.approve_plan, _LIVE, PEOPLE | PODCTL),
    commands.ApproveReview: Rule(documents.approve_review, _LIVE, PEOPLE | PODCTL),
    commands.Approve: Rule(decisions.approve, _LIVE),
    commands.Reject: Rule(decisions.reject, _LIVE),
    commands.RequestTransition: Rule(lifecycle.request_transition, _LIVE, PEOPLE | PODCTL),
    commands.ApproveTransition: Rule(decisions.approve_transition, _LIVE, PEOPLE | PODCTL),
    commands.RejectTransition: Rule(decisions.reject_transition, _LIVE),
    commands.ChangeConfig: Rule(lifecycle.change_config, _LIVE, growing=True),
    commands.CancelTask: Rule(lifecycle.cancel_task, _LIVE),
    commands.Evaluate: Rule(lambda change, _: lifecycle.evaluate(change), _LIVE),
    commands.CreateWorkstream: Rule(
        documents.create_workstream, frozenset({Phase.PLANNING, Phase.WORKSTREAM_EXECUTION}), growing=True
    ),
    commands.StartWorkstream: Rule(work.start_workstream, _EXECUTION, PEOPLE | PODCTL),
    commands.CompleteWorkstream: Rule(work.complete_workstream, _EXECUTION, PEOPLE | PODCTL),
    commands.FailWorkstream: Rule(work.fail_workstream, _EXECUTION, PEOPLE | PODCTL),
    commands.WorkstreamInterrupted: Rule(work.workstream_interrupted, _EXECUTION, PODCTL),
    commands.InterruptWorkstream: Rule(work.interrupt_workstream, _EXECUTION),
    commands.RetryWorkstream: Rule(work.retry_workstream, _EXECUTION),
    commands.SkipWorkstream: Rule(work.skip_workstream, _EXECUTION),
    commands.SetPriority: Rule(work.set_priority, _EXECUTION),
    commands.RunStopped: Rule(work.run_stopped, _ALWAYS, PODCTL),
    commands.ReassignExecutor: Rule(
        documents.reassign_executor, frozenset({Phase.PLANNING, Phase.WORKSTREAM_EXECUTION}), growing=True
    ),
    commands.ReopenSpec: Rule(lifecycle.reopen_spec, _LIVE),
    commands.ReopenPlan: Rule(lifecycle.reopen_plan, _LIVE - {Phase.SPEC_CLARIFICATION}),
    commands.GenerateSpec: Rule(agents.generate_spec, frozenset({Phase.SPEC_CLARIFICATION}), growing=True),
    commands.GeneratePlan: Rule(agents.generate_plan, frozenset({Phase.PLANNING}), growing=True),
    commands.StartAgent: Rule(agents.start_agent, _LIVE, PODCTL),
    commands.RegisterAgent: Rule(agents.register, _LIVE, growing=True),
    commands.UnregisterAgent: Rule(agents.unregister, _LIVE),
    commands.InterruptAgent: Rule(agent_results.interrupt_agent, _LIVE),
    commands.RestartAgent: Rule(agents.restart, _LIVE, growing=True),
    commands.MessageAgent: Rule(decisions.message_agent, _LIVE, growing=True),
    commands.AgentDone: Rule(agent_results.agent_done, _LIVE, PEOPLE | PODCTL),
    commands.AgentFailed: Rule(agent_results.agent_failed, _LIVE, PEOPLE | PODCTL),
    commands.AgentInterrupted: Rule(agent_results.agent_interrupted, _LIVE, PODCTL),
    commands.PostMessage: Rule(messages.post_message, _LIVE, growing=True),
    commands.RequestApproval: Rule(decisions.request_approval, _LIVE, growing=True),
    commands.GiveApproval: Rule(decisions.give_approval, _LIVE),
    commands.MarkRead: Rule(messages.mark_read, _ALWAYS),
    commands.CreateTracker: Rule(tracker.create_tracker, _LIVE, growing=True),
    commands.SetItemStatus: Rule(tracker.set_item_status, _LIVE),
    commands.CommentItem: Rule(tracker.comment_item, _LIVE, growing=True),
    commands.SetEta: Rule(tracker.set_eta, _LIVE),
    commands.RequestAction: Rule(actions.request_action, _LIVE, growing=True),
    commands.GrantAction: Rule(decisions.grant_action, _LIVE),
    commands.RejectAction: Rule(decisions.reject_action, _LIVE),
    commands.InterruptAction: Rule(actions.interrupt_action, _LIVE),
    commands.ActionEnded: Rule(actions.action_ended, _LIVE, PODCTL),
    commands.OpenDraftPullRequest: Rule(external.open_draft_pull_request, _LIVE, growing=True),
    commands.RequestMerge: Rule(external.request_merge, _LIVE, growing=True),
    commands.MergePullRequest: Rule(external.merge_pull_request, _LIVE),
    commands.RecordExternalState: Rule(external.record_external_state, _LIVE),
    commands.CommentOn: Rule(threads.comment_on, _LIVE, growing=True),
    commands.ReplyToThread: Rule(threads.reply_to_thread, _LIVE, growing=True),
    commands.ResolveThread: Rule(threads.resolve_thread, _LIVE),
    commands.ReopenThread: Rule(threads.reopen_thread, _LIVE, growing=True),
    commands.Escalate: Rule(inbox.escalate, _LIVE, PODCTL),
    commands.Notified: Rule(inbox.notified, _LIVE, PODCTL),
    commands.ServerAttached: Rule(serving.server_attached, _ALWAYS, PODCTL),
    commands.ServerAttachFailed: Rule(serving.server_attach_failed, _ALWAYS, PODCTL),
    commands.ServerChanged: Rule(serving.server_changed, _ALWAYS, POD),
    commands.ReleaseServer: Rule(serving.release_server, _ALWAYS, PODCTL),
    commands.ServerReleased: Rule(serving.server_released, _ALWAYS, PODCTL),
}


def apply(state: TaskState, envelope: Envelope, now: datetime) -> tuple[TaskState, tuple[Event, ...]]:
    """Return the state after a command and the events that tell of it, or raise ``Rejected``.

    A command id that was accepted before changes nothing and returns no events; one that was refused before is
    refused again with the same code. ``now`` is the workflow's time.
    """
    known = state.outcome(envelope.command_id)
    if known is not None:
        if known.accepted:
            return state, ()
        raise Rejected(known.code, f"already refused: {known.message}")
    command = envelope.command
    rule = RULES[type(command)]
    if state.phase not in rule.phases:
        raise _wrong_phase(state, command.type, rule.phases)
    change = Change(state, command_id=envelope.command_id, by=envelope.by, now=now)
    rule.handle(change, command)
    return _finish(change, growing=rule.growing)


def check_sender(envelope: Envelope, sender: Sender) -> None:
    """Raise ``Rejected('not_allowed')`` for a command from outside that ``sender`` may not give.

    podctl's own commands never come from outside, and nobody outside speaks under its name.
    """
    _check_speaker(envelope.by)
    rule = RULES[type(envelope.command)]
    if sender not in rule.senders:
        raise Rejected("not_allowed", f"{envelope.command.type} is {_OWNER[Sender.POD in rule.senders]}, not anybody's")


_OWNER = {False: "podctl's own, when it decides or reports", True: "what a GPU pod reports, by its signal model-server"}


def create_task(task: TaskInput, now: datetime) -> tuple[TaskState, tuple[Event, ...]]:
    """Return a new task and its first events, or raise ``Rejected`` for a spec or plan that cannot be used."""
    _check_speaker(task.by)
    state = TaskState(
        task_id=task.task_id,
        title=task.title,
        phase_since=now,
        config=task.config,
        created_by=task.by,
        created_at=now,
        updated_at=now,
    )
    agents.check_config(task.config)
    change = Change(state, command_id=task.command_id, by=task.by, now=now)
    change.emit("task_created", task=task.task_id, title=task.title, config=task.config.model_dump(mode="json"))
    if task.spec is not None:
        documents.update_spec(change, UpdateSpec(content=task.spec))
    if task.plan is not None:
        documents.update_plan(change, UpdatePlan(plan=task.plan))
    return _finish(change, growing=True)


def _check_speaker(by: str) -> None:
    if by == SCHEDULER:
        raise Rejected("not_allowed", f"{SCHEDULER!r} is the scheduler's own name; say who you are (--as NAME)")


def _finish(change: Change, *, growing: bool) -> tuple[TaskState, tuple[Event, ...]]:
    lifecycle.withdraw_moot_transition(change)
    serving.forget_released(change)
    serving.ask_about_servers(change)
    inbox.update_inbox(change)
    change.set(updated_at=change.now)
    state = fit(change.state.with_ledger(change.command_id, ACCEPTED), change.before, growing=growing)
    return state, tuple(change.events)


def _wrong_phase(state: TaskState, command: str, allowed: frozenset[Phase]) -> Rejected:
    if state.final:
        return already_final(state)
    phases = ", ".join(phase.value for phase in Phase if phase in allowed)
    return Rejected("invalid_phase", f"{command} is possible in phase {phases}, and the task is in {state.phase.value}")
