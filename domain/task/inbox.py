"""The inbox: one item for each matter that waits for a person, and news of finished workstreams until it is read."""

from pydantic import JsonValue

from domain.errors import Rejected
from domain.task.change import Change, names
from domain.task.commands import Escalate, Notified
from domain.task.models import SCHEDULER, InboxItem, InboxKind, TaskState
from domain.task.waits import open_matters, preview

#: News beyond this many is dropped, the oldest first: the event log has it all.
NEWS_KEPT = 100
#: Characters kept of why a notify hook failed.
NOTIFY_ERROR_LIMIT = 500


def update_inbox(change: Change) -> None:
    """Add items for matters that have come up, remove those that are dealt with, note completed workstreams."""
    before = change.state.inbox
    inbox: dict[str, InboxItem] = {}
    for matter in open_matters(change.state):
        item = before.get(matter.key)
        inbox[matter.key] = item or InboxItem(
            item_id=matter.key,
            recipient=_answered(change.state, matter.message_id) or change.state.created_by,
            kind=matter.kind,
            preview=preview(matter.text),
            command=matter.command,
            message_id=matter.message_id,
            workstream_id=matter.workstream_id,
            created_at=change.now,
        )
    news = {key: item for key, item in before.items() if not item.waits and not item.read}
    for event in change.events:
        if event.type == "workstream_completed":
            name, attempt = event.payload["workstream"], event.payload["attempt"]
            key = f"completed/{name}/{attempt}"
            news[key] = InboxItem(
                item_id=key,
                recipient=change.state.created_by,
                kind=InboxKind.WORKSTREAM_COMPLETED,
                preview=preview(f"workstream {name} completed by {event.by}"),
                workstream_id=str(name),
                created_at=change.now,
            )
    for key in list(news)[: max(0, len(news) - NEWS_KEPT)]:
        del news[key]
    if len(before) != len(inbox) + len(news) or before.keys() != inbox.keys() | news.keys():
        change.set(inbox={**inbox, **news})


def _answered(state: TaskState, message_id: str | None) -> str | None:
    """Return the person whom a message in a thread answers: who else spoke there last before it."""
    message = state.messages.get(message_id or "")
    if message is None or message.thread_id == message.message_id:
        return None
    answered = None
    for other in state.messages.values():
        if other.message_id == message_id:
            break
        if other.thread_id == message.thread_id and other.author not in (message.author, SCHEDULER, *state.agents):
            answered = other.author
    return answered


def escalate(change: Change, command: Escalate) -> None:
    """Make an item urgent; it goes to ``escalate_to`` where one is set."""
    item = change.state.inbox.get(command.item_id)
    if item is None or not item.waits:
        raise Rejected("item_not_found", f"nothing waits as {command.item_id!r}; {names(change.state.inbox)}")
    if item.escalated_at is not None:
        raise Rejected("already_escalated", f"{command.item_id!r} was escalated at {item.escalated_at:%Y-%m-%d %H:%M}")
    recipient = change.state.config.escalate_to or item.recipient
    escalated = item.model_copy(update={"recipient": recipient, "escalated_at": change.now, "read": False})
    change.set(inbox={**change.state.inbox, item.item_id: escalated})
    change.emit("inbox_escalated", item=item.item_id, recipient=recipient, preview=item.preview)


def to_notify(item: InboxItem) -> bool:
    """Return whether the notify hook has yet to be called for an item: once, and once more after its escalation."""
    return item.waits and (item.notified_at is None or (item.escalated_at is not None and not item.notified_urgent))


def notification(state: TaskState, item: InboxItem) -> dict[str, JsonValue]:
    """Return what the notify hook is told of an item, in the words of ``podctl inbox -o json``."""
    return {
        "task": state.task_id,
        "title": state.title,
        "item": item.item_id,
        "kind": item.kind.value,
        "preview": item.preview,
        "command": item.command,
        "recipient": item.recipient,
        "message": item.message_id,
        "workstream": item.workstream_id,
        "created_at": item.created_at.isoformat(),
        "urgent": item.escalated_at is not None,
    }


def notified(change: Change, command: Notified) -> None:
    """Note that the notify hook was called for an item, and why that failed; the item waits all the same."""
    item = change.state.inbox.get(command.item_id)
    if item is None or not item.waits:
        raise Rejected("item_not_found", f"nothing waits as {command.item_id!r}; {names(change.state.inbox)}")
    error = command.error[:NOTIFY_ERROR_LIMIT]
    told = item.model_copy(
        update={
            "notified_at": change.now,
            "notified_urgent": item.notified_urgent or command.escalated,
            "notify_error": error,
        }
    )
    change.set(inbox={**change.state.inbox, item.item_id: told})
    if error:
        change.emit("notify_failed", item=item.item_id, error=error, urgent=command.escalated)
    else:
        change.emit("person_notified", item=item.item_id, urgent=command.escalated)
