"""domain/task/events.py against what the rules emit. The tests of the rules check every event they see as well."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from domain.task.events import EVENTS

RULES = sorted((Path(__file__).parents[3] / "domain" / "task").glob("*.py"))


def emitted() -> Iterator[tuple[str, str, set[str]]]:
    """Yield (where, type as a pattern, fields) of every ``emit(`` in the rules."""
    for path in RULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "emit":
                fields = {keyword.arg for keyword in node.keywords if keyword.arg is not None}
                for pattern in patterns(node.args[0]):
                    yield f"{path.name}:{node.lineno}", pattern, fields


def patterns(word: ast.expr) -> list[str]:
    """Return what an event's type can be, as regular expressions."""
    match word:
        case ast.Constant(value=str(text)):
            return [re.escape(text)]
        case ast.IfExp(body=one, orelse=other):
            return [*patterns(one), *patterns(other)]
        case ast.JoinedStr(values=parts):
            return ["".join(re.escape(str(p.value)) if isinstance(p, ast.Constant) else ".+" for p in parts)]
        case _:
            raise AssertionError(f"the type of an event is written out where it is emitted: {ast.unparse(word)}")


EMITTED = list(emitted())


@pytest.mark.parametrize(("where", "pattern", "fields"), EMITTED, ids=[where for where, _, _ in EMITTED])
def test_every_event_that_the_rules_emit_is_in_the_table(where: str, pattern: str, fields: set[str]) -> None:
    types = [event_type for event_type in EVENTS if re.fullmatch(pattern, event_type)]
    assert types, f"{where}: no event in domain/task/events.py is called {pattern}"
    # A pattern that stands for several can also match a type that is emitted elsewhere.
    assert any(fields <= set(EVENTS[event_type].fields) for event_type in types), (
        f"{where}: {types} in domain/task/events.py have not all of the fields {sorted(fields)}"
    )


def test_every_event_of_the_table_is_emitted_somewhere() -> None:
    elsewhere = {"command_refused"}
    gone = [
        event_type
        for event_type in EVENTS
        if event_type not in elsewhere and not any(re.fullmatch(pattern, event_type) for _, pattern, _ in EMITTED)
    ]
    assert not gone


def test_events_are_past_tense_words_with_a_meaning() -> None:
    for name, event_type in EVENTS.items():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)+", name), name
        assert event_type.meaning.endswith("."), name
        assert len(set(event_type.fields)) == len(event_type.fields), name
