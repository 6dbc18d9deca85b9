"""The next state while one command puts it together."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from pydantic import JsonValue

from domain.entity import Event
from domain.errors import Rejected
from domain.task.models import AttachedServer, Message, TaskState, Workstream


class Change:
    """Collects what one command changes and the events that tell of it.

    Lives for one ``apply``. ``state`` is always a whole state that shares what did not change with the one before.
    """

    def __init__(self, state: TaskState, *, command_id: str, by: str, now: datetime) -> None:
        self.before = state
        self.state = state
        self.events: list[Event] = []
        self.command_id = command_id
        self.by = by
        self.now = now

    def set(self, **fields: Any) -> None:  # noqa: ANN401 - any field of the state
        """Replace fields of the state."""
        self.state = self.state.model_copy(update=fields)

    def emit(self, event_type: str, **payload: JsonValue) -> None:
        """Record that something happened."""
        event = Event(
            sequence=self.state.sequence + 1,
            type=event_type,
            at=self.now,
            by=self.by,
            command_id=self.command_id,
            payload=payload,
        )
        self.events.append(event)
        self.set(sequence=event.sequence)

    def put_workstreams(self, workstreams: Iterable[Workstream]) -> None:
        """Replace workstreams by new versions of them; one copy of the table for all."""
        changed = {ws.ws_id: ws for ws in workstreams}
        if changed:
            self.set(workstreams={**self.state.workstreams, **changed})

    def update_workstream(self, ws_id: str, **fields: Any) -> Workstream:  # noqa: ANN401 - any field of it
        """Replace fields of one workstream and return the new version."""
        workstream = self.state.workstreams[ws_id].model_copy(update=fields)
        self.put_workstreams([workstream])
        return workstream

    def put_server(self, server: AttachedServer) -> None:
        """Replace one model server by a new version of it."""
        self.set(servers={**self.state.servers, server.name: server})

    def put_message(self, message: Message) -> None:
        """Add a message, or replace it by a new version."""
        self.set(messages={**self.state.messages, message.message_id: message})

    def cool_down(self) -> None:
        """Let nothing else be started for as long as the task's settings want it after a start."""
        seconds = self.state.config.spawn_cooldown_seconds
        if seconds:
            self.set(cooldown_until=self.now + timedelta(seconds=seconds))

    def workstream(self, ws_id: str) -> Workstream:
        """Return a workstream, or raise ``Rejected('workstream_not_found')`` naming those there are."""
        workstream = self.state.workstreams.get(ws_id)
        if workstream is None:
            raise Rejected("workstream_not_found", f"there is no workstream {ws_id!r}; {names(self.state.workstreams)}")
        return workstream


def names(known: Iterable[str]) -> str:
    """Return 'there are a, b, …' for a message that has to say what exists."""
    listed = list(known)
    if not listed:
        return "there are none yet"
    more = f" and {len(listed) - 20} more" if len(listed) > 20 else ""
    return f"there are {', '.join(listed[:20])}{more}"


def check_length(what: str, text: str, limit: int, advice: str) -> None:
    """Raise ``Rejected('content_too_long')`` if ``text`` takes more than ``limit`` bytes as UTF-8."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > limit:
        raise Rejected("content_too_long", f"{what} is {size:,} bytes, the limit is {limit:,}; {advice}")
