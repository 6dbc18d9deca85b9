"""What was worked out for a frozen value, kept for as long as the value lives."""

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

V = TypeVar("V", bound=object)
R = TypeVar("R")


class ByIdentity(Generic[V, R]):
    """Results by the identity of the values they belong to: values that are only ever replaced, never changed."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[weakref.ref[V], R]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, value: V) -> R | None:
        """Return what is kept for exactly this value."""
        kept = self._kept.get(id(value))
        return kept[1] if kept is not None and kept[0]() is value else None

    def keep(self, value: V, result: R) -> R:
        """Keep a result until the value is gone, and return it."""
        key = id(value)
        self._kept[key] = (weakref.ref(value, lambda _: self._kept.pop(key, None)), result)
        return result


def once_for_each(function: Callable[[V], R]) -> Callable[[V], R]:
    """Have a pure function of a frozen value compute its result (never None) once for each value."""
    known: ByIdentity[V, R] = ByIdentity()

    def ask(value: V) -> R:
        result = known.get(value)
        return known.keep(value, function(value)) if result is None else result

    return ask
