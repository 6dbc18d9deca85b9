"""What of a task can be read and searched without a worker: memo and search attributes."""

import json
from collections.abc import Iterable, Sequence

from pydantic import JsonValue

from domain.entity import Value
from domain.task.models import SATISFIED, InboxItem, InboxKind, TaskState
from domain.task.readiness import drafts
from domain.task.waits import waits_for_no_person

#: Of what the memo holds: each change of it stands in the history.
_MEMO_REASONS = 3
_MEMO_ITEMS = 10
_MEMO_NEWS = 3
#: Bytes of a search attribute's value. Temporal takes 2,048, and a workflow that sets a longer one is stuck.
_SEARCH_VALUE_LIMIT = 2_000


class SearchValues(Value):
    """What tasks can be searched by in Temporal's list view."""

    phase: str
    needs_approval: bool
    gpu_pods: tuple[str, ...]
    models: tuple[str, ...]
    #: Who has something in their inbox.
    inbox: tuple[str, ...]


def search_values(state: TaskState) -> SearchValues:
    """Return the values of the task's search attributes."""
    plan = state.plan
    return SearchValues(
        phase=state.phase.value,
        needs_approval=needs_approval(state),
        gpu_pods=() if plan is None else _bounded(sorted(plan.pods())),
        models=() if plan is None else _bounded(sorted({server.model for server in plan.model_servers.values()})),
        inbox=_bounded(dict.fromkeys(item.recipient for item in _by_urgency(state.inbox.values()))),
    )


def needs_approval(state: TaskState) -> bool:
    """Return whether a person's yes, no or choice is what the task waits for."""
    decisions = (InboxKind.NEEDS_APPROVAL, InboxKind.WORKSTREAM_FAILED)
    return any(item.kind in decisions for item in state.inbox.values())


def progress(state: TaskState) -> tuple[int, int]:
    """Return how many workstreams are completed or skipped, and how many there are."""
    done = sum(ws.status in SATISFIED for ws in state.workstreams.values())
    return done, len(drafts(state))


def memo(state: TaskState) -> dict[str, JsonValue]:
    """Return what can be read of the task without a worker."""
    done, total = progress(state)
    waits: list[JsonValue] = [*waits_for_no_person(state)[:_MEMO_REASONS]]
    return {
        "title": state.title,
        "phase": state.phase.value,
        "spec_revision": state.spec.revision,
        "plan_revision": 0 if state.plan is None else state.plan.revision,
        "review_revision": state.review.revision,
        "waits_for": waits,
        "inbox": [_inbox_entry(item) for item in listed_items(state)],
        "inbox_count": len(state.inbox),
        "needs_approval": needs_approval(state),
        "progress": f"{done}/{total}",
        "refused": len(state.refusals),
    }


def listed_items(state: TaskState) -> list[InboxItem]:
    """Return the inbox items that the memo has room for: the most urgent, and at least one for each recipient."""
    items = _by_urgency(state.inbox.values())
    news = [item for item in items if not item.waits][-_MEMO_NEWS:]
    items = [item for item in items if item.waits] + news
    first = {item.recipient: item.item_id for item in reversed(items)}
    items.sort(key=lambda item: first[item.recipient] != item.item_id)
    return _by_urgency(items[:_MEMO_ITEMS])


def _by_urgency(items: Iterable[InboxItem]) -> list[InboxItem]:
    return sorted(items, key=lambda item: (item.read, item.escalated_at is None, not item.waits))


def _inbox_entry(item: InboxItem) -> dict[str, JsonValue]:
    """Return an item as the memo holds it, without what says nothing."""
    entry: dict[str, JsonValue] = {
        "item": item.item_id,
        "recipient": item.recipient,
        "kind": item.kind.value,
        "preview": item.preview,
        "command": item.command,
        "message": item.message_id,
        "workstream": item.workstream_id,
        "created_at": item.created_at.isoformat(),
        "urgent": item.escalated_at is not None,
        "read": item.read,
    }
    return {name: value for name, value in entry.items() if value}


def _bounded(values: Iterable[str]) -> tuple[str, ...]:
    """Return the first values, as many as a search attribute can hold."""
    kept: Sequence[str] = [*values]
    while len(json.dumps(kept)) > _SEARCH_VALUE_LIMIT:
        kept = kept[:-1]
    return tuple(kept)
