"""Where two JSON values differ, in words."""

import json
from collections.abc import Iterator

from pydantic import JsonValue

_LIMIT = 200


def differences(before: JsonValue, now: JsonValue, where: str) -> Iterator[str]:
    """Yield where ``now`` differs from ``before`` (called 'the file' and 'this podctl'), and how; order counts."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*before, *now]):
            if name not in now:
                yield f"{where}.{name}: {_short(before[name])} in the file, not there with this podctl"
            elif name not in before:
                yield f"{where}.{name}: not in the file, {_short(now[name])} with this podctl"
            else:
                yield from differences(before[name], now[name], f"{where}.{name}")
        if before.keys() == now.keys() and list(before) != list(now):
            yield f"{where}: the same entries in another order"
    elif isinstance(before, list) and isinstance(now, list):
        for index, (one, other) in enumerate(zip(before, now, strict=False)):
            yield from differences(one, other, f"{where}[{index}]")
        if len(before) != len(now):
            longer, whose = (before, "the file") if len(before) > len(now) else (now, "this podctl")
            first = longer[min(len(before), len(now))]
            counts = f"{len(before)} in the file, {len(now)} with this podctl"
            yield f"{where}: {counts}; the first that only {whose} has is {_short(first)}"
    # Python takes true for 1.
    elif before != now or isinstance(before, bool) is not isinstance(now, bool):
        yield f"{where}: {_short(before)} in the file, {_short(now)} with this podctl"


def first_difference(before: JsonValue, now: JsonValue, where: str) -> str | None:
    """Return the first difference, or None if both are equal."""
    return next(differences(before, now, where), None)


def _short(value: JsonValue) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LIMIT else f"{text[:_LIMIT]} …"
