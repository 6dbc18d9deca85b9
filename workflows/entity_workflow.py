"""What both workflows have in common for Temporal."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

from workflows import names
from workflows.entity import Entity, Rules, View

with workflow.unsafe.imports_passed_through():
    from pydantic import JsonValue, ValidationError

    from domain.entity import EntityState, Event, Outcome
    from domain.errors import Rejected

S = TypeVar("S", bound=EntityState)


class EntityWorkflow(Generic[S]):
    """A workflow that is an entity: signals, queries, and a start that cannot wedge."""

    def __init__(self, rules: Rules[S], view: View[S]) -> None:
        self._rules = rules
        self._view = view
        self._entity: Entity[S] | None = None
        self._problem = "the input says neither 'create' nor 'state'"

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Note why a start input cannot be used, instead of failing the workflow task again and again."""
        try:
            yield
        except (ValidationError, Rejected) as error:
            self._problem = str(error)

    @staticmethod
    def only(arguments: Sequence[JsonValue]) -> JsonValue:
        """Return the one argument of a start. Raises ``Rejected``.

        Workflows take any number of untyped ones: one too many, or of another shape, would fail their first workflow
        task for ever before any code of ours runs.
        """
        if len(arguments) != 1:
            raise Rejected("bad_start", f"the start has {len(arguments)} arguments, not one")
        return arguments[0]

    def begin(self, state: S, events: Sequence[Event] = ()) -> None:
        """Begin with ``state``; ``events`` tell how it came to be."""
        self._entity = Entity(state, events, self._rules, self._view)

    @property
    def entity(self) -> Entity[S]:
        """The entity; raises ``ApplicationError``, which ends the workflow, if the start input was unusable."""
        if self._entity is None:
            raise ApplicationError(
                f"this workflow was not started by podctl: {self._problem}", type="bad_start", non_retryable=True
            )
        return self._entity

    # Only a dynamic handler over raw values sees every malformed form: a named one with a missing or surplus argument
    # fails the workflow task for ever, and an undecodable payload is dropped in silence.
    @workflow.signal(dynamic=True, description="People's signals; podctl's docs list names and payloads")
    def signal(self, name: str, arguments: Sequence[RawValue]) -> None:
        """Take in a signal. Never awaits."""
        self.entity.signal(name, arguments)

    # For the same reason; what is no command at all would be refused in the SDK's words, not in ours.
    @workflow.update(dynamic=True, description=f"{names.EXECUTE}: carry out a command; refused ones leave no trace")
    async def execute(self, name: str, arguments: Sequence[RawValue]) -> Outcome:
        """Apply a command and return its outcome."""
        return await self.entity.execute(name, arguments)

    @execute.validator
    def check(self, name: str, arguments: Sequence[RawValue]) -> None:
        """Refuse a command before it enters the history."""
        self.entity.check(name, arguments)

    @workflow.query(name=names.STATE, description="The state, without the ledger of command ids")
    def state(self) -> JsonValue:
        """Return the state for readers."""
        return self.entity.shown_state()

    @workflow.query(
        name=names.EVENTS, description="The events of this run after a sequence number, the first 256 KB of them"
    )
    def events(self, since: int = 0) -> JsonValue:
        """Return this run's events with a higher sequence number; ask again from the last one on until none is left."""
        return self.entity.events_since(since)

    @workflow.query(name=names.OUTCOME, description="What became of the command with this id; null: not known")
    def outcome(self, command_id: str) -> Outcome | None:
        """Return what became of a command."""
        return self.entity.state.outcome(command_id)
