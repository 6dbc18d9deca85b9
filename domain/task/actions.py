"""Actions that need a person's yes: proposed, granted or refused, and carried out once, after the grant is recorded."""

import shlex

from domain.errors import Rejected
from domain.task import messages, tracker
from domain.task.change import Change, check_length, names
from domain.task.commands import ActionEnded, InterruptAction, RequestAction
from domain.task.models import (
    ActionApproval,
    AddItem,
    ApprovalRequest,
    ExternalSync,
    Merge,
    Plan,
    ProposedAction,
    RemoveItem,
    Result,
    Run,
    RunAction,
    TaskState,
    UpdateItem,
)
from domain.task.plan_rules import command_problem
from domain.task.readiness import server_ready
from domain.task.runs import action_run_id

OPTIONS = ("grant", "reject")
OPEN_LIMIT = 100
#: Finished actions beyond this many, the oldest first, stay in the event log only.
FINISHED_KEPT = 50
#: Encoded size of a proposed action, in bytes.
ACTION_LIMIT = 16 * 1024
REASON_LIMIT = 2_000
#: Bytes of what is kept of a run's output and of an error.
_RESULT_LIMIT = 4 * 1024
_DESCRIPTION_LIMIT = 1_000


def request_action(change: Change, command: RequestAction) -> None:
    """Propose an action; people are asked. Refused at once if it would not be possible now."""
    state = change.state
    check_length("the reason", command.reason, REASON_LIMIT, "post it as a message")
    check_length("the action", command.action.model_dump_json(), ACTION_LIMIT, "put long texts into files")
    count = sum(action.open for action in state.actions.values())
    if count >= OPEN_LIMIT:
        raise Rejected(
            "too_many_actions",
            f"{count} actions are open, which is the limit; grant or reject some: podctl action list {state.task_id}",
        )
    check_possible(state, command.action)
    action = _with_pod(state, command.action)
    number = state.actions_requested + 1
    action_id = f"action-{number}"
    change.emit(
        "action_approval_requested",
        action=action_id,
        action_type=action.type,
        description=describe(action, state.external_sync),
        reason=command.reason,
    )
    reason = f": {command.reason}" if command.reason else ""
    message = messages.post(
        change,
        f"{change.by} asks to {describe(action, state.external_sync)} ({action_id}){reason}",
        message_type="approval",
        approval=ApprovalRequest(options=OPTIONS, subject="action", action_id=action_id),
    )
    approval = ActionApproval(
        action_id=action_id,
        action=action,
        reason=command.reason,
        requested_by=change.by,
        requested_at=change.now,
        message_id=message.message_id,
    )
    change.set(actions_requested=number)
    _put(change, approval)
    if isinstance(action, Merge):
        _put_sync_state(change, "merge_requested")


def decide(change: Change, action_id: str, choice: str, comment: str) -> None:
    """Carry out a person's answer. What is not possible any more is refused, and the action stays proposed."""
    approval = find_action(change.state, action_id)
    check_undecided(approval)
    decided = approval.model_copy(
        update={"decided_by": change.by, "decided_at": change.now, "comment": comment, "status": "granted"}
    )
    if choice != "grant":
        _put(change, decided.model_copy(update={"status": "rejected"}))
        change.emit("action_approval_rejected", action=action_id, comment=comment)
        _merge_is_off(change, approval)
        return
    action = approval.action
    try:
        if isinstance(action, RunAction):
            _check_server_ready(change.state, action)
        check_possible(change.state, action, granting=True)
    except Rejected as rejected:
        raise Rejected(
            "action_not_possible",
            f"{action_id} is not possible just now: {rejected.message} ({rejected.code}); it stays proposed until it "
            "is granted or rejected",
        ) from rejected
    run = _run_of(change.state, action_id, action) if isinstance(action, RunAction) else None
    change.emit(
        "action_approval_granted",
        action=action_id,
        comment=comment,
        run_id=None if run is None else run.run_id,
        pod=None if run is None else run.pod,
    )
    _put(change, decided.model_copy(update={"run": run}))
    if isinstance(action, (AddItem, UpdateItem, RemoveItem)):
        tracker.change_items(change, action)
        end_action(change, action_id)


def action_ended(change: Change, command: ActionEnded) -> None:
    """Take how a granted action's run ended. Whatever it was, it is not repeated; a person hears of what went wrong."""
    approval = find_action(change.state, command.action_id)
    if approval.status != "granted" or approval.run is None:
        raise Rejected("action_not_running", f"{command.action_id} is {approval.status}; nothing of it runs")
    error = command.error
    if command.interrupted:
        error = f"interrupted, may have taken effect: {error or 'nobody saw how it ended'}"
    result = None if command.result is None else _cut(command.result)
    end_action(change, command.action_id, error=error, interrupted=command.interrupted, result=result)
    what = f"{command.action_id} ({describe(approval.action, change.state.external_sync)})"
    if error:
        again = "it is not repeated by itself: propose it again if it is still wanted"
        messages.post(change, f"{what}: {_end(error)}; {again}", message_type="blocker")
    else:
        messages.post(change, f"{what} is done")


def interrupt_action(change: Change, command: InterruptAction) -> None:
    """End a granted action that is not over, because a person says so; what runs of it is stopped."""
    check_length("the reason", command.reason, REASON_LIMIT, "post it as a message")
    approval = find_action(change.state, command.action_id)
    if approval.status != "granted":
        raise Rejected("action_not_running", f"{command.action_id} is {approval.status}; nothing of it is under way")
    reason = f": {command.reason}" if command.reason else ""
    _stop(change, approval, f"interrupted by {change.by}{reason}")


def end_action(
    change: Change,
    action_id: str,
    *,
    error: str = "",
    interrupted: bool = False,
    result: Result | None = None,
) -> None:
    """Note the outcome of a granted action."""
    status = "interrupted" if interrupted else "failed" if error else "done"
    approval = find_action(change.state, action_id)
    ended = {"status": status, "error": _end(error), "result": result}
    _put(change, approval.model_copy(update=ended))
    exit_code = None if result is None or result.run is None else result.run.exit_code
    outcome = "completed" if status == "done" else status
    change.emit(f"action_approval_{outcome}", action=action_id, error=_end(error), exit_code=exit_code)


def close_actions(change: Change, reason: str) -> None:
    """End every open action, because the task ends; what runs of them is stopped."""
    for approval in [action for action in change.state.actions.values() if action.open]:
        if approval.status == "granted":
            _stop(change, approval, reason)
        else:
            withdraw_action(change, approval.action_id, reason)
            _merge_is_off(change, approval)


def withdraw_action(change: Change, action_id: str, reason: str) -> None:
    """Take back a proposal that nobody has decided, because it no longer matters."""
    approval = find_action(change.state, action_id)
    withdrawn = {"status": "rejected", "decided_by": change.by, "decided_at": change.now, "comment": reason}
    _put(change, approval.model_copy(update=withdrawn))
    change.emit("action_approval_withdrawn", action=action_id, reason=reason)
    messages.close_approvals(change, reason, lambda message: message.message_id == approval.message_id)


def find_action(state: TaskState, action_id: str) -> ActionApproval:
    """Return an action, or raise ``Rejected('action_not_found')`` naming those there are."""
    approval = state.actions.get(action_id)
    if approval is None:
        raise Rejected("action_not_found", f"there is no action {action_id!r} in this task; {names(state.actions)}")
    return approval


def check_undecided(approval: ActionApproval) -> None:
    """Raise ``Rejected('already_approved')`` that says who was first, if an action has been decided."""
    if approval.status == "requested":
        return
    verb = "rejected" if approval.status == "rejected" else "granted"
    at = "" if approval.decided_at is None else f" at {approval.decided_at:%Y-%m-%d %H:%M} UTC"
    raise Rejected(
        "already_approved",
        f"{approval.action_id} was already {verb} by {approval.decided_by}{at}; it is {approval.status}",
    )


def check_possible(state: TaskState, action: ProposedAction, *, granting: bool = False) -> None:
    """Raise ``Rejected`` that says why an action cannot be carried out as the task stands."""
    if isinstance(action, RunAction):
        problem = command_problem("the action", action.executor, state.plan or Plan())
        if problem is not None:
            raise Rejected(*problem)
    elif isinstance(action, Merge):
        _check_merge(state, granting=granting)
    else:
        tracker.changed_tracker(state, action)


def merge_action(state: TaskState) -> ActionApproval | None:
    """Return the merge that is proposed or granted and not done, if there is one."""
    return next((a for a in state.actions.values() if a.open and isinstance(a.action, Merge)), None)


def describe(action: ProposedAction, sync: ExternalSync) -> str:
    """Return, in words that follow 'asks to', what an action does."""
    if isinstance(action, RunAction):
        executor = action.executor
        where = f" on pod {executor.pod}" if executor.pod is not None else ""
        server = f" with model server {executor.server}" if executor.server is not None else ""
        variables = [f"{name}={shlex.quote(value)}" for name, value in executor.environment.items()]
        command = " ".join([*variables, shlex.join(executor.argv)])
        if len(command) > _DESCRIPTION_LIMIT:
            # What is approved must be what was read: a command that is cut says so.
            command = f"{command[:_DESCRIPTION_LIMIT]}… (cut; whole: podctl action show)"
        return f"run{where}{server}: {command}"
    if isinstance(action, Merge):
        return f"merge the pull request {sync.url or sync.title}".rstrip()
    if isinstance(action, AddItem):
        owner = f", owned by {action.item.workstream_id}" if action.item.workstream_id else ""
        return f"add item {action.item.item_id} ({action.item.summary}) to phase {action.phase_id}{owner}"
    if isinstance(action, RemoveItem):
        return f"remove item {action.item_id}"
    changes = [
        f"summary {action.summary!r}" if action.summary is not None else "",
        f"owner {action.workstream_id}" if action.workstream_id is not None else "",
        f"phase {action.phase_id}" if action.phase_id is not None else "",
    ]
    return f"change item {action.item_id}: {', '.join(filter(None, changes))}"


def _check_merge(state: TaskState, *, granting: bool) -> None:
    sync = state.external_sync
    if granting and sync.state == "merge_requested":
        return
    if sync.state in ("merge_requested", "merging"):
        raise Rejected("merge_already_requested", "the merge of the pull request is asked for already")
    if sync.state not in ("draft", "open"):
        at = "" if sync.state == "none" else f" (it is {sync.state.replace('_', ' ')})"
        raise Rejected(
            "no_pull_request",
            f"there is no open pull request to merge{at}; whoever opens one tells with record_external_state",
        )


def _check_server_ready(state: TaskState, action: RunAction) -> None:
    name = action.executor.server
    if name is None:
        return
    server = state.servers.get(name)
    if server is None or not server_ready(state, server):
        status = "not attached" if server is None else server.status.value
        raise Rejected("server_not_ready", f"it needs model server {name!r}, which is {status}")


def _with_pod(state: TaskState, action: ProposedAction) -> ProposedAction:
    """Return an action that says where it runs, so that a changed plan does not change what is granted."""
    if not isinstance(action, RunAction):
        return action
    executor = action.executor.model_copy(update={"pod": (state.plan or Plan()).pod_of(action.executor)})
    return action.model_copy(update={"executor": executor})


def _run_of(state: TaskState, action_id: str, action: RunAction) -> Run:
    executor = action.executor
    if executor.pod is None:
        raise Rejected("no_pod", f"{action_id} does not say on which pod it runs")
    return Run(
        run_id=action_run_id(state.task_id, action_id),
        pod=executor.pod,
        server_launch=None if executor.server is None else state.servers[executor.server].launch_id,
    )


def _stop(change: Change, approval: ActionApproval, reason: str) -> None:
    if approval.run is not None:
        change.set(stopping_runs={**change.state.stopping_runs, approval.run.run_id: approval.run.pod})
    end_action(change, approval.action_id, error=reason, interrupted=True)
    _merge_is_off(change, approval)


def _merge_is_off(change: Change, approval: ActionApproval) -> None:
    if isinstance(approval.action, Merge) and change.state.external_sync.state in ("merge_requested", "merging"):
        _put_sync_state(change, change.state.external_sync.reported or "none")


def _put_sync_state(change: Change, state: str) -> None:
    sync = change.state.external_sync.model_copy(
        update={"state": state, "updated_by": change.by, "updated_at": change.now}
    )
    change.set(external_sync=sync)


def _put(change: Change, approval: ActionApproval) -> None:
    actions = {**change.state.actions}
    if not approval.open:
        # To the end: those that finished first are forgotten first.
        actions.pop(approval.action_id, None)
    actions[approval.action_id] = approval
    finished = [name for name, action in actions.items() if not action.open]
    for name in finished[: max(0, len(finished) - FINISHED_KEPT)]:
        del actions[name]
    change.set(actions=actions)


def _cut(result: Result) -> Result:
    return result.model_copy(update={"text": _end(result.text)})


def _end(text: str) -> str:
    return text.encode()[-_RESULT_LIMIT:].decode(errors="ignore")
