"""Messages, and questions with options that wait for a person."""

from collections.abc import Callable

from domain.errors import Rejected
from domain.task.change import Change, check_length
from domain.task.commands import MarkRead, PostMessage
from domain.task.models import ApprovalRequest, InboxItem, Message, MessageType

#: Bytes of one message.
MESSAGE_LIMIT = 10_000
#: Older messages stay in the history only, unless somebody still has to answer them.
MESSAGES_KEPT = 500


def post(
    change: Change,
    content: str,
    *,
    message_type: MessageType = "update",
    workstream_id: str | None = None,
    thread_id: str | None = None,
    agent_id: str | None = None,
    approval: ApprovalRequest | None = None,
) -> Message:
    """Add a message and its event; the oldest that nobody waits for is forgotten beyond ``MESSAGES_KEPT``."""
    number = change.state.messages_posted + 1
    message_id = f"m-{number}"
    message = Message(
        message_id=message_id,
        type=message_type,
        author=change.by,
        content=content,
        thread_id=thread_id or message_id,
        workstream_id=workstream_id,
        agent_id=agent_id,
        posted_at=change.now,
        approval=approval,
    )
    messages = {**change.state.messages, message_id: message}
    if len(messages) > MESSAGES_KEPT:
        oldest = next((m.message_id for m in messages.values() if not waits(m)), None)
        if oldest is not None:
            del messages[oldest]
    change.set(messages=messages, messages_posted=number)
    if approval is None:
        change.emit(
            "message_posted",
            message=message_id,
            message_type=message_type,
            content=content,
            workstream=workstream_id,
            thread=message.thread_id,
            agent=agent_id,
        )
    else:
        change.emit(
            "approval_requested",
            message=message_id,
            content=content,
            options=list(approval.options),
            blocking=approval.blocking,
            workstream=workstream_id,
            server=approval.server,
            agent=approval.agent_id,
        )
    return message


def waits(message: Message) -> bool:
    """Return whether a person has to read or answer the message."""
    if message.approval is not None:
        return message.approval.open
    return message.type in ("question", "blocker") and not message.read


def close_approvals(change: Change, reason: str, about: Callable[[Message], bool] = lambda _: True) -> None:
    """Close the open approval requests that ``about`` picks, because of ``reason``."""
    closed = {
        m.message_id: m.model_copy(update={"approval": m.approval.model_copy(update={"closed": reason})})
        for m in change.state.open_approvals()
        if m.approval is not None and about(m)
    }
    if closed:
        change.set(messages={**change.state.messages, **closed})
        change.emit("approvals_closed", messages=list(closed), reason=reason)


def post_message(change: Change, command: PostMessage) -> None:
    """Say something. Answering a question or a blocker settles it."""
    check_content(command.content)
    if command.workstream_id is not None:
        change.workstream(command.workstream_id)
    thread_id = None
    if command.thread_id is not None:
        answered = find_message(change, command.thread_id)
        thread_id = answered.thread_id
        if not answered.read:
            change.put_message(answered.model_copy(update={"read": True}))
    post(
        change,
        command.content,
        message_type=command.message_type,
        workstream_id=command.workstream_id,
        thread_id=thread_id,
    )


def mark_read(change: Change, command: MarkRead) -> None:
    """Mark messages and inbox items as read; an item and the message it is about go together."""
    messages: dict[str, Message] = {}
    items: dict[str, InboxItem] = {}
    by_message = {item.message_id: item for item in change.state.inbox.values() if item.message_id is not None}
    for name in command.ids:
        item = change.state.inbox.get(name) or by_message.get(name)
        message = change.state.messages.get(name if item is None else item.message_id or "")
        if item is None and message is None:
            raise Rejected("message_not_found", f"there is no message or inbox item {name!r} in this task (any more)")
        if item is not None:
            items[item.item_id] = item.model_copy(update={"read": True})
        if message is not None:
            messages[message.message_id] = message.model_copy(update={"read": True})
    change.set(messages={**change.state.messages, **messages}, inbox={**change.state.inbox, **items})
    change.emit("marked_read", ids=[*command.ids[:20]], count=len(command.ids))


def find_message(change: Change, message_id: str) -> Message:
    """Return a message, or raise ``Rejected('message_not_found')``."""
    message = change.state.messages.get(message_id)
    if message is None:
        newest = list(change.state.messages)[-10:]
        there_are = f"the newest are {', '.join(newest)}" if newest else "there are none"
        raise Rejected("message_not_found", f"there is no message {message_id!r} in this task; {there_are}")
    return message


def check_content(content: str) -> None:
    """Raise ``Rejected`` for a message that says nothing, or too much."""
    if not content.strip():
        raise Rejected("content_empty", f"a message needs content: 1 to {MESSAGE_LIMIT:,} bytes")
    check_length("the message", content, MESSAGE_LIMIT, "put the text into a file and name it")
