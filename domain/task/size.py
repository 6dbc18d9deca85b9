"""Keeping the state small enough to be carried: what only the history needs is shed before anything is refused."""

from typing import TypeVar

from pydantic_core import to_json

from domain.by_identity import once_for_each
from domain.entity import STATE_LIMIT, check_size, shed_record
from domain.errors import Rejected
from domain.task import messages
from domain.task.encoded_size import encoded_size
from domain.task.models import (
    SCHEDULER,
    UNDER_WAY,
    ActionApproval,
    Agent,
    Approval,
    AttachedServer,
    InboxItem,
    Message,
    Plan,
    Rejection,
    Result,
    Review,
    Spec,
    TaskState,
    Tracker,
    TrackerItem,
    Workstream,
)

#: Room for what must always be accepted beside the outcome of workstreams: approvals, changes of phase, cancelling.
RESERVE = 96 * 1024
#: Room that texts leave so that workstreams can be started.
START_ROOM = 64 * 1024
#: Bytes that a workstream takes once it has been reported on, beside its name and what it depends on; what the question
#: about one that failed takes, with its inbox item; what else a person's 'fix' adds. After all has been shed.
WORKSTREAM_ROOM = 900
QUESTION_ROOM = 1_800
FIX_ROOM = 700
#: The same of a model server, of an action that is not over, and of telling people about an inbox item.
SERVER_ROOM = 2_000
ACTION_ROOM = 2_500
TELLING_ROOM = 300
#: What stays when the state has grown near its limit. All of it is in the event log in full.
_TEXT_KEPT = 200
_MESSAGES_KEPT = 50
_COMMENTS_KEPT = 3
_ACTIONS_KEPT = 10
_RESOLVED_THREADS_KEPT = 10
#: What stays when that is not enough.
_WORDS_KEPT = 80
_FEW_KEPT = 10
#: The questions that podctl asks in words of its own.
_OWN_SUBJECTS = frozenset({"workstream_failed", "agent_failed", "server_down", "transition"})


def fit(state: TaskState, before: TaskState, *, growing: bool) -> TaskState:
    """Return ``state``, without what only the history needs once it nears ``STATE_LIMIT``.

    ``before`` is the state that a command has made it from. Raises ``Rejected('state_too_large')`` for a ``growing``
    command, one that a person can do without, that leaves no room for what has to be accepted after it.
    """
    if growing:
        _check_room(state, before)
    size = encoded_size(state, before)
    if size > STATE_LIMIT - RESERVE:
        state = _shed(state)
        if encoded_size(state) > STATE_LIMIT - RESERVE:
            state = _shed_more(state)
        check_size(state, _parts(state))
    return state


def fit_refusal(state: TaskState, before: TaskState) -> TaskState:
    """Return ``state``, in which a refusal was recorded, without what only the history needs once it nears the limit.

    What was refused cannot be refused again: it always fits, because all that it adds is shed.
    """
    return state if encoded_size(state, before) <= STATE_LIMIT - RESERVE else _shed(state)


@once_for_each
def room_to_start(state: TaskState) -> bool:
    """Return whether one more workstream may start: should it fail, the question about it has to fit."""
    return _claim(state) + QUESTION_ROOM + FIX_ROOM <= STATE_LIMIT


def _check_room(state: TaskState, before: TaskState) -> None:
    limit = STATE_LIMIT - START_ROOM
    if encoded_size(state, before) + _most_needed(state) <= limit:
        return
    claim = _claim(state)
    # What makes a task smaller is welcome, however large that still is.
    if claim > limit and claim > _claim(before):
        parts = _parts(state)
        largest = max(parts, key=lambda name: len(str(parts[name])))
        raise Rejected(
            "state_too_large",
            f"this would make the task {claim:,} bytes, with the room that its workstreams and decisions need, and "
            f"{limit:,} is as far as texts may fill it; {largest} takes most of it: put long texts into files and "
            "name them",
        )


def _parts(state: TaskState) -> dict[str, object]:
    """Return what can grow, by what people call it."""
    return {
        "the spec": state.spec,
        "the plan": state.plan,
        "the messages": state.messages,
        "the review threads": state.review_threads,
        "the review": state.review,
        "the workstreams": state.workstreams,
        "the tracker": state.tracker,
        "the actions": state.actions,
        "the agents": state.agents,
        "the record of commands": state.ledger,
    }


# -- room ---------------------------------------------------------------------------------------------------------


def _claim(state: TaskState) -> int:
    """Return the bytes that a task may come to take by nothing but what must be accepted."""
    # Room for the plan is room for all that its workstreams can come to take, so of those that are there only the
    # names count; shedding and encoding hundreds of them takes longer than the command does.
    rest = state.model_copy(update={"workstreams": {}, "ledger": {}, "refusals": ()})
    names = sum(map(len, state.workstreams)) + len('"":,') * len(state.workstreams)
    return encoded_size(_shed_more(_shed(rest))) + names + _most_needed(state)


def _most_needed(state: TaskState) -> int:
    """Return the bytes that must stay free for what is to come, as if no workstream took any yet."""
    asked = sum(m.approval is not None and m.approval.subject == "workstream_failed" for m in state.open_approvals())
    under_way = sum(ws.status in UNDER_WAY for ws in state.workstreams.values())
    open_actions = sum(action.open for action in state.actions.values())
    telling = TELLING_ROOM + len((state.config.escalate_to or "").encode())
    return (
        RESERVE
        + (0 if state.plan is None else _room_for_plan(state.plan))
        + under_way * (QUESTION_ROOM + FIX_ROOM)
        + asked * FIX_ROOM
        + open_actions * ACTION_ROOM
        + len(state.inbox) * telling
    )


@once_for_each
def _room_for_plan(plan: Plan) -> int:
    workstreams = plan.workstreams.values()
    named = sum(4 * len(ws.id) + sum(len(name) + 3 for name in ws.depends_on) for ws in workstreams)
    return (
        named
        + len(workstreams) * WORKSTREAM_ROOM
        + sum(SERVER_ROOM + len(to_json(server)) for server in plan.model_servers.values())
    )


# -- shedding -----------------------------------------------------------------------------------------------------


def _shed(state: TaskState) -> TaskState:
    spoken_for = [m for m in state.messages.values() if messages.waits(m)]
    newest = list(state.messages.values())[-_MESSAGES_KEPT:]
    keep = {m.message_id for m in (*spoken_for, *newest)}
    resolved = [thread.thread_id for thread in state.review_threads.values() if thread.resolved]
    settled = set(resolved[:-_RESOLVED_THREADS_KEPT])
    return shed_record(state).model_copy(
        update={
            "messages": {name: m for name, m in state.messages.items() if name in keep},
            "workstreams": {name: _shed_result(ws) for name, ws in state.workstreams.items()},
            "tracker": None if state.tracker is None else _shed_comments(state.tracker),
            "actions": _shed_actions(state.actions),
            "review_threads": {name: t for name, t in state.review_threads.items() if name not in settled},
            "agents": {name: _shed_agent(agent) for name, agent in state.agents.items()},
        }
    )


def _shed_result(workstream: Workstream) -> Workstream:
    if workstream.result is None and workstream.error is None:
        return workstream
    result = workstream.result
    if result is not None:
        result = result.model_copy(update={"text": result.text[-_TEXT_KEPT:], "artifacts": result.artifacts[:3]})
    error = None if workstream.error is None else workstream.error[:_TEXT_KEPT]
    return workstream.model_copy(update={"result": result, "error": error})


def _shed_comments(tracker: Tracker) -> Tracker:
    def shed(item: TrackerItem) -> TrackerItem:
        if not item.comments:
            return item
        newest = [c.model_copy(update={"content": c.content[:_TEXT_KEPT]}) for c in item.comments[-_COMMENTS_KEPT:]]
        return item.model_copy(update={"comments": tuple(newest)})

    return Tracker(
        phases=tuple(p.model_copy(update={"items": tuple(shed(i) for i in p.items)}) for p in tracker.phases)
    )


def _shed_actions(actions: dict[str, ActionApproval]) -> dict[str, ActionApproval]:
    finished = [name for name, action in actions.items() if not action.open]
    dropped = set(finished[: max(0, len(finished) - _ACTIONS_KEPT)])
    return {name: _shed_action(action) for name, action in actions.items() if name not in dropped}


def _shed_action(action: ActionApproval) -> ActionApproval:
    if action.open:
        return action
    result = action.result
    if result is not None:
        result = result.model_copy(update={"text": result.text[-_TEXT_KEPT:]})
    return action.model_copy(update={"result": result, "error": action.error[:_TEXT_KEPT]})


def _shed_agent(agent: Agent) -> Agent:
    if agent.active:
        return agent
    error = None if agent.error is None else agent.error[:_TEXT_KEPT]
    texts = {"output": agent.output[-_TEXT_KEPT:], "instructions": agent.instructions[:_TEXT_KEPT], "error": error}
    return agent.model_copy(update=texts)


def _shed_more(state: TaskState) -> TaskState:
    """Return a state that has been shed already, its texts cut to what tells one from the other.

    What people and agents have yet to read of each other, and what they wrote, stays: the next of it was refused.
    """
    waiting = {name for name, m in state.messages.items() if messages.waits(m)}
    newest = {*list(state.messages)[-_FEW_KEPT:], *waiting}
    news = [name for name, item in state.inbox.items() if not item.waits]
    old_news = set(news[:-_FEW_KEPT])
    hold, pending = state.hold, state.pending_transition
    return state.model_copy(
        update={
            "spec": _cut_decisions(state.spec),
            "plan": None if state.plan is None else _cut_decisions(state.plan),
            "review": _cut_decisions(state.review),
            "workstreams": {name: _cut_workstream(ws) for name, ws in state.workstreams.items()},
            "servers": {name: _cut_server(server) for name, server in state.servers.items()},
            "messages": {name: _cut_message(m) for name, m in state.messages.items() if name in newest},
            "inbox": {name: _cut_item(item) for name, item in state.inbox.items() if name not in old_news},
            "agents": {name: _cut_agent(agent) for name, agent in state.agents.items()},
            "actions": {name: _cut_action(action) for name, action in state.actions.items()},
            "hold": None if hold is None else hold.model_copy(update={"reason": _cut(hold.reason)}),
            "pending_transition": None
            if pending is None
            else pending.model_copy(update={"reason": _cut(pending.reason)}),
            "cancel_reason": _cut(state.cancel_reason),
        }
    )


def _cut(text: str) -> str:
    """Return the beginning and the end of a text, in few characters that take few bytes."""
    if len(text) > _WORDS_KEPT:
        text = f"{text[: _WORDS_KEPT // 2 - 2]}…{text[1 - _WORDS_KEPT // 2 :]}"
    if len(to_json(text)) > 2 * _WORDS_KEPT:
        text = "".join(character if " " <= character <= "~" else "?" for character in text)
    return text


D = TypeVar("D", Spec, Plan, Review)


@once_for_each
def _cut_decisions(document: D) -> D:
    approval: Approval | None = document.approval
    rejection: Rejection | None = document.rejection
    if approval is not None:
        approval = approval.model_copy(update={"comment": _cut(approval.comment)})
    if rejection is not None:
        rejection = rejection.model_copy(update={"comment": _cut(rejection.comment)})
    return document.model_copy(update={"approval": approval, "rejection": rejection})


def _cut_workstream(workstream: Workstream) -> Workstream:
    if workstream.result is None and workstream.error is None:
        return workstream
    error = None if workstream.error is None else _cut(workstream.error)
    return workstream.model_copy(update={"result": _cut_result(workstream.result), "error": error})


def _cut_result(result: Result | None) -> Result | None:
    if result is None:
        return None
    artifacts = tuple(name for name in result.artifacts if name == _cut(name))
    return result.model_copy(update={"text": _cut(result.text), "artifacts": artifacts[:1]})


def _cut_server(server: AttachedServer) -> AttachedServer:
    return server.model_copy(update={"detail": _cut(server.detail)})


@once_for_each
def _cut_message(message: Message) -> Message:
    approval = message.approval
    own = message.author == SCHEDULER or (approval is not None and approval.subject in _OWN_SUBJECTS)
    if messages.waits(message) and not own:
        return message
    if approval is not None and approval.answer is not None:
        answer = approval.answer.model_copy(update={"comment": _cut(approval.answer.comment)})
        approval = approval.model_copy(update={"answer": answer})
    if approval is not None and approval.closed is not None:
        approval = approval.model_copy(update={"closed": _cut(approval.closed)})
    return message.model_copy(update={"content": _cut(message.content), "approval": approval})


@once_for_each
def _cut_item(item: InboxItem) -> InboxItem:
    return item.model_copy(update={"preview": _cut(item.preview), "notify_error": _cut(item.notify_error)})


def _cut_agent(agent: Agent) -> Agent:
    if agent.active:
        return agent
    error = None if agent.error is None else _cut(agent.error)
    texts = {"output": _cut(agent.output), "instructions": _cut(agent.instructions), "error": error}
    return agent.model_copy(update=texts)


def _cut_action(action: ActionApproval) -> ActionApproval:
    if action.status == "requested":
        return action
    texts = {"comment": _cut(action.comment), "error": _cut(action.error), "result": _cut_result(action.result)}
    return action.model_copy(update=texts)
