"""What a person typed, made into the models that commands carry: BadInput says what cannot be so."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from pydantic import ValidationError

from domain.entity import Value
from domain.errors import BadInput
from domain.task.models import CommandExecutor, Executor, SignalExecutor

V = TypeVar("V", bound=Value)


def typed_executor(
    argv: Sequence[str], *, pod: str | None = None, server: str | None = None, timeout_seconds: float | None = None
) -> Executor:
    """Return the executor that runs ``argv``; without one, somebody outside does the work. Raises BadInput."""
    if argv:
        given = {"argv": tuple(argv), "pod": pod, "server": server, "timeout_seconds": timeout_seconds}
        return typed(CommandExecutor, given)
    if pod is not None or server is not None or timeout_seconds is not None:
        raise BadInput("--pod, --server and --timeout are for a program: give it last, after --")
    return SignalExecutor()


def typed(kind: type[V], given: Mapping[str, object]) -> V:
    """Return a model of ``kind`` made of ``given``; BadInput names the first field that cannot be so."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"{field or 'what was given'}: {first['msg'].removeprefix('Value error, ')}") from error
