"""The one loop of both workflows: commands change the state by the rules, the state says what to do next.

A workflow holds an ``Entity`` and gives it two things: how to carry out one action, and what to show of the state. What
is in flight is never part of the state: an action stands in ``next_actions`` until its outcome has been applied, so a
run that begins anew finds the same actions, with the same keys, and starts them again. Activities are idempotent by
what their action names; two of them overlap for a heartbeat at most.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, Protocol, TypeVar

from temporalio import workflow
from temporalio.common import RawValue, SearchAttributeUpdate
from temporalio.exceptions import ApplicationError, FailureError, is_cancelled_exception

from workflows.incoming import decode, envelope_of_update
from workflows.summaries import fitted

with workflow.unsafe.imports_passed_through():
    from pydantic import BaseModel, JsonValue

    from domain.entity import EntityState, Event, Outcome, Sender, record_refusal, refusal_message
    from domain.errors import Rejected

#: Who speaks when the rules themselves decide.
SYSTEM = "podctl"
#: Decisions of the rules carried out in one go; more would be a loop in the rules, and a workflow must not hang.
MAXIMUM_DECISIONS = 5_000
#: Seconds before an action whose outcome changed nothing may start again, doubled each time up to the maximum: rules
#: and machine then disagree, and asking faster would only fill the history.
FRUITLESS_FIRST = 1.0
FRUITLESS_MAXIMUM = 60.0
#: Events after which a run begins anew; the server would let it grow to 4,096. A worker that takes up a task
#: has ten seconds to replay its run, or starts over, and on a busy machine an event can take milliseconds.
HISTORY_LIMIT = 1_500
#: Signals that one workflow task takes in. What gathered without a worker arrives all at once, and the SDK gives up on
#: a workflow that thinks for two seconds: it would try again, and give up again, for ever.
SIGNALS_AT_ONCE = 200
#: Bytes of events in one answer to a query: Temporal cannot carry 2 MiB, and a run's events can be more.
EVENTS_LIMIT = 256 * 1024
#: The shortest timer.
_AT_ONCE = timedelta(milliseconds=1)


class Envelope(Protocol):
    """A command with its id and sender."""

    @property
    def command_id(self) -> str:
        """The id that makes the command idempotent."""
        ...

    @property
    def by(self) -> str:
        """Who says so."""
        ...

    @property
    def command(self) -> BaseModel:
        """The command: a model with a ``type``."""
        ...


class Action(Protocol):
    """Something that the rules want done."""

    @property
    def type(self) -> str:
        """``command``, ``wake_at``, or one that the workflow carries out."""
        ...

    @property
    def key(self) -> str:
        """Names the action while it is in flight."""
        ...


S = TypeVar("S", bound=EntityState)


@dataclass(frozen=True)
class View(Generic[S]):
    """What of the state is shown in the Temporal Web UI: memo, search attributes, Markdown details."""

    memo: Callable[[S], Mapping[str, JsonValue]]
    search_attributes: Callable[[S], Sequence[SearchAttributeUpdate[Any]]]
    details: Callable[[S], str]


@dataclass(frozen=True)
class Rules(Generic[S]):
    """The pure rules of one kind of entity."""

    envelope: type[Any]
    #: Refuse what a kind of sender outside may not say.
    check_sender: Callable[[Any, Sender], None]
    apply: Callable[[S, Any, datetime], tuple[S, tuple[Event, ...]]]
    #: Shed what a state need not carry, given the state before: what is recorded of a refusal must fit, too.
    fit: Callable[[S, S], S]
    next_actions: Callable[[S, datetime], Sequence[Any]]
    is_settled: Callable[[S], bool]
    command_from_signal: Callable[[str, list[object]], Any]
    #: What a cancellation asked for past podctl (Web UI, Temporal CLI) means; None: it is not followed.
    on_cancel: Callable[[str], BaseModel | None]
    #: Types of actions that must not be begun twice: a run begins anew only when none of them is in flight.
    once: frozenset[str] = frozenset()


class Entity(Generic[S]):
    """A state, the events of this run, and what is in flight. One writer: the workflow's own event loop."""

    def __init__(self, state: S, events: Sequence[Event], rules: Rules[S], view: View[S]) -> None:
        self.state = state
        self.events = list(events)
        self._rules = rules
        self._view = view
        self._in_flight: dict[str, asyncio.Task[None]] = {}
        self._fruitless: dict[str, int] = {}
        #: Signals that have arrived and are not taken in yet, oldest first.
        self._waiting: deque[tuple[str, Sequence[RawValue]]] = deque()
        self._signalled_at: datetime | None = None
        self._lull: asyncio.Task[None] | None = None
        #: How many more signals the workflow task that began then may take in.
        self._room: tuple[datetime, int] = (workflow.now(), SIGNALS_AT_ONCE)
        #: The keys of those in flight that must not be begun twice.
        self._once: set[str] = set()
        #: The command ids of this run's signals in the order of history, for the reader.
        self.signal_command_ids: list[str] = []
        #: What the rules made of the last command that was checked: it is applied right after, to the same state.
        self._checked: tuple[S, Envelope, datetime, tuple[S, tuple[Event, ...]]] | None = None
        #: What the rules last wanted, of which state and when.
        self._wanted: tuple[S, datetime, Sequence[Any]] | None = None
        self._shown: S | None = None
        self._changed = True
        self._decide()

    # -- messages ------------------------------------------------------------------------------------------------

    def check(self, name: str, arguments: Sequence[RawValue]) -> None:
        """Raise ``ApplicationError`` if an update is none, or the rules refuse it now; the state is only read."""
        try:
            envelope = envelope_of_update(self._rules.envelope, name, arguments)
            self._rules.check_sender(envelope, Sender.PERSON)
            now = workflow.now()
            self._checked = (self.state, envelope, now, self._rules.apply(self.state, envelope, now))
        except Rejected as rejected:
            raise _refused(rejected) from rejected

    async def execute(self, name: str, arguments: Sequence[RawValue]) -> Outcome:
        """Apply an update's command and return what became of it. Raises ``ApplicationError`` if it is refused.

        What arrived before it goes first; from then on nothing is awaited, so that two commands cannot interleave.
        """
        if self._waiting:
            await workflow.wait_condition(lambda: not self._waiting)
        try:
            envelope = envelope_of_update(self._rules.envelope, name, arguments)
            self._accept(envelope)
        except Rejected as rejected:
            raise _refused(rejected) from rejected
        return Outcome(command_id=envelope.command_id, accepted=True)

    def signal(self, name: str, arguments: Sequence[RawValue]) -> None:
        """Apply what a person signalled; a malformed or refused signal is recorded as refused and changes nothing."""
        self._signalled_at = workflow.now()
        self._waiting.append((name, arguments))
        self._take_signals()

    def _take_signals(self) -> None:
        """Take in the signals that wait, as many as this workflow task may."""
        now = workflow.now()
        began, room = self._room
        room = room if began == now else SIGNALS_AT_ONCE
        while self._waiting and room:
            room -= 1
            self._take_signal(*self._waiting.popleft())
        self._room = (now, room)
        self._changed = True

    def _take_signal(self, name: str, arguments: Sequence[RawValue]) -> None:
        command_id = f"signal-{workflow.info().run_id[:8]}-{len(self.signal_command_ids) + 1}"
        by = "unknown"
        try:
            parsed = self._rules.command_from_signal(name, [decode(argument) for argument in arguments])
            command_id, by = parsed.command_id or command_id, parsed.by
            envelope = self._rules.envelope(command_id=command_id, by=by, command=parsed.command)
            self._rules.check_sender(envelope, parsed.sender)
            self._accept(envelope)
        except Rejected as rejected:
            # A repeated signal was answered the first time: nothing to record again.
            if self.state.outcome(command_id) is None:
                state, events = record_refusal(
                    self.state, rejected, command_id=command_id, command=name[:100], by=by, now=workflow.now()
                )
                self._take(self._rules.fit(state, self.state), events)
        finally:
            self.signal_command_ids.append(command_id)

    def shown_state(self) -> JsonValue:
        """Return the state for readers, without the ledger, which only the rules need."""
        shown: JsonValue = self.state.model_dump(mode="json", exclude={"ledger"})
        return shown

    def events_since(self, sequence: int) -> JsonValue:
        """Return this run's events with a higher sequence number, as many as one answer carries, at least one."""
        found: list[JsonValue] = []
        room = EVENTS_LIMIT
        for event in self.events:
            if event.sequence > sequence:
                room -= len(event.model_dump_json().encode())
                if found and room < 0:
                    break
                found.append(event.model_dump(mode="json"))
        return found

    # -- the loop ------------------------------------------------------------------------------------------------

    async def run(self, perform: Callable[[Any], Awaitable[Sequence[BaseModel]]]) -> bool:
        """Carry out what the rules want until nothing is left (True) or the run has to begin anew (False).

        ``perform`` carries out one action and returns the commands that report its outcome.
        """
        while True:
            if self._waiting:
                self._take_signals()
            self._changed = False
            wake = self._advance(perform)
            self._show()
            settled = self._rules.is_settled(self.state) and not self._in_flight
            if not self._waiting and not self._once and (settled or self._may_begin_anew()):
                # A handler may itself wait, for signals that have arrived since and are taken in above.
                await workflow.wait_condition(lambda: workflow.all_handlers_finished() or bool(self._waiting))
                if not self._waiting:
                    return settled
                continue
            timeout = None if wake is None else max(wake.at - workflow.now(), _AT_ONCE)
            summary = fitted("the next decision" if wake is None else wake.reason)
            if self._waiting:
                # A timer ends this workflow task; the next one has room again.
                timeout, summary = _AT_ONCE, "the next signals"
            try:
                await workflow.wait_condition(lambda: self._changed, timeout=timeout, timeout_summary=summary)
            except TimeoutError:
                continue
            except asyncio.CancelledError:
                reason = workflow.cancellation_reason()
                if reason is None:
                    raise  # nobody asked: this instance is being dropped from the worker's cache
                self._cancel_requested(reason)

    def _may_begin_anew(self) -> bool:
        """Return whether the run is long enough to begin anew, and now is the time.

        The server refuses the end of a run while a signal is on its way, and then the whole run is replayed. So it is
        tried in a workflow task that is short, because it brought no signal: a timer makes one.
        """
        info = workflow.info()
        if not info.is_continue_as_new_suggested() and info.get_current_history_length() < HISTORY_LIMIT:
            return False
        if self._signalled_at != workflow.now():
            return True
        if self._lull is None:
            self._lull = asyncio.create_task(self._wait_for_lull())
        return False

    async def _wait_for_lull(self) -> None:
        await workflow.sleep(_AT_ONCE, summary="a lull, to begin a new run")
        self._lull = None
        self._changed = True

    def _cancel_requested(self, reason: str) -> None:
        command = self._rules.on_cancel(reason)
        if command is None:
            return
        command_id = f"cancel-{workflow.info().run_id[:8]}"
        try:
            self._accept(self._rules.envelope(command_id=command_id, by="temporal", command=command))
        except Rejected as rejected:
            workflow.logger.info("cancellation refused: %s", rejected)

    def _advance(self, perform: Callable[[Any], Awaitable[Sequence[BaseModel]]]) -> Any:  # noqa: ANN401 - the rules' own type of it
        """Let the rules decide, start what they want, end what they no longer want; return when to look again."""
        actions = self._decide()
        wanted = {action.key: action for action in actions if action.type != "wake_at"}
        for key, task in list(self._in_flight.items()):
            if key not in wanted:
                task.cancel()
        for key, action in wanted.items():
            if key not in self._in_flight:
                if action.type in self._rules.once:
                    if workflow.info().is_continue_as_new_suggested():
                        continue  # the next run begins it
                    self._once.add(key)
                self._in_flight[key] = asyncio.create_task(self._carry_out(action, perform))
        return min((action for action in actions if action.type == "wake_at"), key=lambda wake: wake.at, default=None)

    def _decide(self) -> Sequence[Any]:
        now = workflow.now()
        if self._wanted is not None and self._wanted[0] is self.state and self._wanted[1] == now:
            return self._wanted[2]
        refused: set[str] = set()
        for _ in range(MAXIMUM_DECISIONS):
            actions = self._rules.next_actions(self.state, now)
            decision = next((a for a in actions if a.type == "command" and a.key not in refused), None)
            if decision is None:
                actions = [action for action in actions if action.type != "command"]
                self._wanted = (self.state, now, actions)
                return actions
            try:
                self._apply(self._rules.envelope(command_id=decision.command_id, by=SYSTEM, command=decision.command))
            except Rejected as rejected:
                # The others are made all the same.
                refused.add(decision.key)
                workflow.logger.error("the rules refused their own decision %s: %s", decision.key, rejected)
        workflow.logger.error("the rules did not come to an end after %d decisions", MAXIMUM_DECISIONS)
        return []

    async def _carry_out(self, action: Action, perform: Callable[[Any], Awaitable[Sequence[BaseModel]]]) -> None:
        try:
            commands = await perform(action)
            before = self.state
            for command in commands:
                envelope = self._rules.envelope(
                    command_id=f"report-{workflow.uuid4().hex[:12]}", by=SYSTEM, command=command
                )
                try:
                    self._accept(envelope)
                except Rejected as rejected:
                    # The world has moved on while the action ran (a person was faster, a late result): what the
                    # state says now holds.
                    log = workflow.logger.error if rejected.code == "state_too_large" else workflow.logger.info
                    log("outcome of %s is not wanted any more: %s", action.key, rejected)
            # Not every change is an event: what is seen of a machine often is none, and must not slow down its watch.
            if self.state.model_copy(update={"ledger": before.ledger}) != before:
                self._fruitless.pop(action.key, None)
            else:
                await self._pause(action.key)
        except FailureError as error:
            if not is_cancelled_exception(error):
                workflow.logger.error("action %s failed: %s", action.key, error.cause or error)
                await self._pause(action.key)
        finally:
            del self._in_flight[action.key]
            self._once.discard(action.key)
            self._changed = True

    async def _pause(self, key: str) -> None:
        count = self._fruitless.get(key, 0)
        self._fruitless[key] = count + 1
        if count:
            seconds = min(FRUITLESS_MAXIMUM, FRUITLESS_FIRST * 2.0 ** (count - 1))
            await workflow.sleep(seconds, summary=fitted(f"pause before {key} is tried again"))

    def _accept(self, envelope: Envelope) -> None:
        """Apply a command, and what the rules decide upon it.

        At once, not when the loop comes round: messages that gathered while no worker ran are handled one after the
        other before the loop runs, and each has to find the state as it would have been with a worker.
        """
        self._apply(envelope)
        self._decide()

    def _apply(self, envelope: Envelope) -> None:
        now = workflow.now()
        checked, self._checked = self._checked, None
        if checked is not None and checked[0] is self.state and checked[2] == now and checked[1] == envelope:
            self._take(*checked[3])
        else:
            self._take(*self._rules.apply(self.state, envelope, now))

    def _take(self, state: S, events: Sequence[Event]) -> None:
        self.state = state
        self.events.extend(events)
        self._changed = True

    def _show(self) -> None:
        """Show the state in Temporal's list and Web UI; what is shown already adds no event."""
        if self.state is self._shown:
            return
        self._shown = self.state
        shown = workflow.memo()
        memo = {name: value for name, value in self._view.memo(self.state).items() if shown.get(name) != value}
        if memo:
            workflow.upsert_memo(memo)
        found = workflow.info().typed_search_attributes
        attributes = [a for a in self._view.search_attributes(self.state) if found.get(a.key) != a.value]
        if attributes:
            workflow.upsert_search_attributes(attributes)
        workflow.set_current_details(self._view.details(self.state))


def _refused(rejected: Rejected) -> ApplicationError:
    return ApplicationError(refusal_message(rejected), type=rejected.code, non_retryable=True)
