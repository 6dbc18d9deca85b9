"""What task pods and GPU pods have in common: envelopes, events and the ledger that makes commands idempotent."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError

from domain.errors import Rejected

#: How many command ids are remembered; a retry later than this many commands is taken for a new command.
LEDGER_LIMIT = 5_000
#: How many refusals are kept with their full message; the ledger itself keeps only the code.
REFUSALS_KEPT = 20
#: Characters kept of a refusal's message: it may quote what a stranger sent, and refusals must not outgrow the state.
REFUSAL_MESSAGE_LIMIT = 2_000
#: Encoded size a state may have, in bytes. Temporal cannot carry 2 MiB, and a workflow that tries is stuck.
STATE_LIMIT = 1024 * 1024
#: What stays of the ledger and the refusals once a state nears its limit.
_LEDGER_KEPT_BYTES = 32 * 1024
_REFUSALS_KEPT_NEAR_LIMIT = 3
_REFUSAL_MESSAGE_KEPT = 200
#: The ledger's code for a command that was accepted.
ACCEPTED = ""

#: Printable ASCII: thousands are remembered, and each character is one byte. The longest name a pod, a server and a
#: number.
CommandId = Annotated[str, StringConstraints(pattern=r"^[ -~]+$", max_length=160)]
#: Who says something.
Speaker = Annotated[str, StringConstraints(min_length=1, max_length=200)]

S = TypeVar("S", bound="EntityState")


class Value(BaseModel):
    """A frozen model: a value that is replaced, never changed. Unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Sender(StrEnum):
    """What kind of sender a command may come from."""

    #: People, programs and agents: by update or signal.
    PERSON = "person"
    #: GPU pods: by their own signal.
    POD = "pod"
    #: podctl itself: decisions of the rules and reports of activities. Nobody outside may speak for it.
    PODCTL = "podctl"


class Event(Value):
    """One thing that happened. Sequence numbers start at 1 and have no gaps."""

    sequence: int
    type: str
    at: datetime
    by: str
    command_id: str
    payload: dict[str, JsonValue] = Field(default_factory=dict)
    #: The Temporal client identity that history recorded for the command; filled in by the reader only.
    client: str | None = None


class Refusal(Value):
    """A command that was accepted into history and refused by the rules."""

    command_id: str
    code: str
    message: str
    command: str
    by: str
    at: datetime


class Outcome(Value):
    """What became of a command: accepted (``code`` is empty) or refused."""

    command_id: str
    accepted: bool
    code: str = ""
    message: str = ""


class EntityState(Value):
    """The part of a state that both workflows share; each adds its own fields."""

    #: Which rules this run follows; raised only when a run begins anew.
    rules: int = 1
    #: Events so far.
    sequence: int = 0
    #: command id -> rejection code, or ``ACCEPTED``; oldest first.
    ledger: dict[str, str] = Field(default_factory=dict)
    refusals: tuple[Refusal, ...] = ()

    def with_ledger(self, command_id: str, code: str) -> Self:
        """Return this state with ``command_id`` remembered, the oldest forgotten beyond ``LEDGER_LIMIT``."""
        ledger = self.ledger.copy()  # of thousands: {**…} takes twenty times as long
        ledger[command_id] = code
        while len(ledger) > LEDGER_LIMIT:
            del ledger[next(iter(ledger))]
        return self.model_copy(update={"ledger": ledger})

    def outcome(self, command_id: str) -> Outcome | None:
        """Return what became of ``command_id``, or None while it is not known here."""
        code = self.ledger.get(command_id)
        if code is None:
            return None
        message = next((r.message for r in reversed(self.refusals) if r.command_id == command_id), code)
        return Outcome(
            command_id=command_id,
            accepted=code == ACCEPTED,
            code=code,
            message="" if code == ACCEPTED else message,
        )


def refusal_message(rejected: Rejected) -> str:
    """Return why a command is refused, at most ``REFUSAL_MESSAGE_LIMIT`` long: its end says what is allowed."""
    message = rejected.message
    if len(message) <= REFUSAL_MESSAGE_LIMIT:
        return message
    half = REFUSAL_MESSAGE_LIMIT // 2
    return f"{message[: half - 2]} … {message[1 - half :]}"


def record_refusal(
    state: S, rejected: Rejected, *, command_id: str, command: str, by: str, now: datetime
) -> tuple[S, tuple[Event, ...]]:
    """Return ``state`` with a refused command made visible: in ledger, ``refusals`` and as an event.

    For what must be auditable as refused (signals). A refused update leaves no trace and does not come here.
    """
    message = refusal_message(rejected)
    refusal = Refusal(command_id=command_id, code=rejected.code, message=message, command=command, by=by, at=now)
    event = Event(
        sequence=state.sequence + 1,
        type="command_refused",
        at=now,
        by=by,
        command_id=command_id,
        payload={"command": command, "code": rejected.code, "message": message},
    )
    refused = state.with_ledger(command_id, rejected.code).model_copy(
        update={"sequence": event.sequence, "refusals": (*state.refusals, refusal)[-REFUSALS_KEPT:]}
    )
    return refused, (event,)


def json_size(state: EntityState) -> int:
    """Return the bytes of ``state`` as it is carried."""
    return len(state.__pydantic_serializer__.to_json(state))


def shed_record(state: S) -> S:
    """Return ``state`` with the newest of its ledger and refusals only: the event log has the others."""
    ledger: dict[str, str] = {}
    room = _LEDGER_KEPT_BYTES
    for command_id, code in reversed(state.ledger.items()):
        # Quotes, colon and comma; what stands in an id may be escaped.
        room -= 2 * len(command_id) + len(code) + 6
        if room < 0:
            break
        ledger[command_id] = code
    refusals = [
        refusal.model_copy(update={"message": refusal.message[:_REFUSAL_MESSAGE_KEPT]})
        for refusal in state.refusals[-_REFUSALS_KEPT_NEAR_LIMIT:]
    ]
    return state.model_copy(update={"ledger": dict(reversed(ledger.items())), "refusals": tuple(refusals)})


def check_size(state: EntityState, parts: Mapping[str, Any]) -> None:
    """Raise ``Rejected('state_too_large')`` if ``state`` is over ``STATE_LIMIT`` encoded; name the largest part.

    ``parts`` names the fields that can grow, for the message.
    """
    size = json_size(state)
    if size <= STATE_LIMIT:
        return
    sizes = {name: len(str(part)) for name, part in parts.items()}
    largest = max(sizes, key=sizes.__getitem__, default="state")
    raise Rejected(
        "state_too_large",
        f"this would make the state {size:,} bytes, the limit is {STATE_LIMIT:,}; {largest} takes about "
        f"{sizes.get(largest, size):,} of them",
    )


def problems(error: ValidationError) -> str:
    """Return what is wrong with a message from outside, field by field and in few words; it may quote anything."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(
        ": ".join(filter(None, (".".join(str(part)[:60] for part in e["loc"]), e["msg"][:200]))) for e in found[:5]
    )
