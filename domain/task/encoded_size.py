"""How large a state is when it is encoded, counted from what a command has changed.

Encoding hundreds of workstreams takes ten times as long as the command that changed one of them. A state shares what
did not change with the one before, so only the rest is encoded.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic_core import to_json

from domain.by_identity import ByIdentity
from domain.entity import EntityState, Value

_known: ByIdentity[Value, int] = ByIdentity()
_ABSENT = object()


def encoded_size(state: EntityState, before: EntityState | None = None) -> int:
    """Return the bytes of ``state`` as JSON; quickly if ``before`` is the state that a command has made it from."""
    known = _known.get(state)
    if known is not None:
        return known
    size = _whole(state) if before is None else encoded_size(before) + sum(_growth(before, state))
    return _known.keep(state, size)


def _whole(state: EntityState) -> int:
    fields = state.__dict__
    return len("{}") + _commas(fields) + sum(len(name) + len('"":') + _field_size(fields[name]) for name in fields)


def _growth(before: EntityState, after: EntityState) -> Iterator[int]:
    new_fields = after.__dict__
    for name, old in before.__dict__.items():
        new = new_fields[name]
        if new is old:
            continue
        if name == "ledger":
            yield _queue_growth(old, new)
        elif isinstance(old, dict) and isinstance(new, dict):
            yield _mapping_growth(old, new)
        else:
            yield _field_size(new) - _field_size(old)


def _mapping_growth(old: Mapping[str, Any], new: Mapping[str, Any]) -> int:
    changed = [name for name, value in new.items() if old.get(name, _ABSENT) is not value]
    replaced = [name for name in changed if name in old]
    gone = [] if len(new) - len(changed) + len(replaced) == len(old) else [name for name in old if name not in new]
    return _commas(new) - _commas(old) + _entries(new, changed) - _entries(old, replaced) - _entries(old, gone)


def _queue_growth(old: dict[str, str], new: dict[str, str]) -> int:
    """Return the growth of a mapping that only ever gains at its end and loses at its beginning."""
    added = _until_known(reversed(new), old)
    gone = _until_known(iter(old), new)
    return _commas(new) - _commas(old) + _entries(new, added) - _entries(old, gone)


def _until_known(names: Iterator[str], known: Mapping[str, str]) -> list[str]:
    found: list[str] = []
    for name in names:
        if name in known:
            break
        found.append(name)
    return found


def _entries(mapping: Mapping[str, Any], names: list[str]) -> int:
    return sum(_size(name) + 1 + _size(mapping[name]) for name in names)


def _commas(mapping: Mapping[str, Any]) -> int:
    return max(0, len(mapping) - 1)


def _field_size(value: object) -> int:
    """Return the bytes of one field: documents stay the same from one state to the next, and are large."""
    if not isinstance(value, Value):
        return _size(value)
    known = _known.get(value)
    return _known.keep(value, _size(value)) if known is None else known


def _size(value: object) -> int:
    return len(to_json(value))
