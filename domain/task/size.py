"""Keeping the state small enough to be carried: what only the history needs is shed before anything is refused."""

from domain.entity import STATE_LIMIT, check_size, shed_record
from domain.errors import Rejected
from domain.task import messages
from domain.task.encoded_size import encoded_size
from domain.task.models import (
    SETTLED,
    ActionApproval,
    Agent,
    TaskState,
    Tracker,
    TrackerItem,
    Workstream,
)

#: Room that specs, plans and messages leave for what must always be accepted: results, approvals, cancelling.
RESERVE = 96 * 1024
#: What stays when the state has grown near its limit. All of it is in the event log in full.
_TEXT_KEPT = 200
_MESSAGES_KEPT = 50
_COMMENTS_KEPT = 3
_ACTIONS_KEPT = 10
_RESOLVED_THREADS_KEPT = 10


def fit(state: TaskState, before: TaskState, *, growing: bool) -> TaskState:
    """Return ``state``, without what only the history needs once it nears ``STATE_LIMIT``.

    ``before`` is the state that a command has made it from. Raises ``Rejected('state_too_large')`` if it is over the
    limit all the same; a ``growing`` command, one that a person can do without, is refused ``RESERVE`` bytes earlier.
    """
    if encoded_size(state, before) <= STATE_LIMIT - RESERVE:
        return state
    state = _shed(state)
    parts = {
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
    check_size(state, parts)
    size = encoded_size(state) if growing else 0
    if size > STATE_LIMIT - RESERVE:
        largest = max(parts, key=lambda name: len(str(parts[name])))
        raise Rejected(
            "state_too_large",
            f"this would make the task {size:,} bytes, and {STATE_LIMIT - RESERVE:,} is as far as texts may fill it; "
            f"{largest} takes most of it: put long texts into files and name them",
        )
    return state


def fit_refusal(state: TaskState, before: TaskState) -> TaskState:
    """Return ``state``, in which a refusal was recorded, without what only the history needs once it nears the limit.

    What was refused cannot be refused again: it always fits, because all that it adds is shed.
    """
    return state if encoded_size(state, before) <= STATE_LIMIT - RESERVE else _shed(state)


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
    if workstream.status not in SETTLED:
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
