"""The inbox: one item for each matter that waits for a person, and news of finished workstreams until it is read."""

from domain.errors import Rejected
from domain.task.change import Change, names
from domain.task.commands import Escalate
from domain.task.models import SCHEDULER, InboxItem, InboxKind, TaskState
from domain.task.waits import open_matters, preview

#: News beyond this many is dropped, the oldest first: the event log has it all.
NEWS_KEPT = 100


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
