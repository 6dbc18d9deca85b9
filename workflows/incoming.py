"""What arrives from outside, made into what the rules understand: whatever it is, it is refused with words at worst."""

from collections.abc import Sequence
from typing import Any

from temporalio import workflow
from temporalio.common import RawValue

from workflows import names

with workflow.unsafe.imports_passed_through():
    from pydantic import BaseModel, ValidationError

    from domain.entity import problems
    from domain.errors import Rejected

_EXPECTED = 'expected is one JSON object {"command_id": "…", "by": "NAME", "command": {"type": "…", …}}'


def decode(argument: RawValue) -> object:
    """Return an argument as plain values, or raise ``Rejected('wrong_payload')``."""
    try:
        return workflow.payload_converter().from_payload(argument.payload)
    except ValidationError as error:
        raise Rejected("wrong_payload", f"the payload is not JSON: {problems(error)}") from error
    except Exception as error:  # any converter, any error: whatever it is, the payload is not ours
        raise Rejected("wrong_payload", f"the payload is not JSON: {str(error)[:200]}") from error


def envelope_of_update(kind: type[BaseModel], name: str, arguments: Sequence[RawValue]) -> Any:  # noqa: ANN401 - of that kind
    """Return the command of an update.

    Raises ``Rejected``: ``unknown_update``, ``wrong_argument_count``, ``wrong_payload``.
    """
    if name != names.EXECUTE:
        raise Rejected("unknown_update", f"there is no update {name[:100]!r}; there is {names.EXECUTE}: {_EXPECTED}")
    if len(arguments) != 1:
        raise Rejected("wrong_argument_count", f"{name} came with {len(arguments)} arguments; {_EXPECTED}")
    payload = arguments[0].payload
    if payload.metadata.get("encoding") != b"json/plain":
        raise Rejected("wrong_payload", f"{name} came with something else than JSON; {_EXPECTED}")
    try:
        return kind.model_validate_json(payload.data)
    except ValidationError as error:
        raise Rejected("wrong_payload", f"{problems(error)}; {_EXPECTED}") from error
