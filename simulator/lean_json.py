"""JSON for the pretend programs, without the standard ``json`` package.

``json`` pulls in ``re`` and ``enum``: 1.0 MiB of private memory in each pretend model server, a quarter of what
it needs. Its two accelerators do the whole work by themselves.
"""

from __future__ import annotations

import _json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Context:
    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}  # noqa: RUF012 - the C scanner asks for it and clears it after each document


_scan = _json.make_scanner(_Context)  # type: ignore[arg-type] # any object with these attributes will do


def _refuse(value: object) -> str:
    raise TypeError(f"{value!r} is not JSON")


_encode = _json.make_encoder(None, _refuse, _json.encode_basestring_ascii, None, ": ", ", ", False, False, False)


def parse(text: str) -> Any:  # noqa: ANN401 - JSON is anything
    """Return the JSON document in ``text``; raises ValueError if it is none."""
    start = len(text) - len(text.lstrip())
    try:
        value, end = _scan(text, start)
    except StopIteration:
        raise ValueError(f"not JSON at character {start}") from None
    if text[end:].strip():
        raise ValueError(f"not JSON at character {end}: more text after the end")
    return value


def dump(value: object) -> str:
    """Return ``value`` as one line of JSON."""
    return "".join(_encode(value, 0))


def read(path: str) -> Any:  # noqa: ANN401 - JSON is anything
    """Return the JSON document in the file at ``path``."""
    with open(path, encoding="utf-8") as file:  # noqa: PTH123 - pathlib would cost every model server memory
        return parse(file.read())
