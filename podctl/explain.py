"""What the commands of a task are, read from the rules and models themselves: for `podctl explain` and the docs."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any, get_args

from pydantic import BaseModel, JsonValue
from pydantic_core import PydanticUndefined

from domain.entity import Sender, Value
from domain.errors import BadInput
from domain.task import models
from domain.task.change import Change
from domain.task.command_fields import field_of
from domain.task.commands import TaskCommand
from domain.task.models import Phase
from domain.task.rejections import COMMON, REJECTIONS
from domain.task.rules import RULES, Rule

#: Every command, by its type, in the order of the union.
COMMANDS: dict[str, type[Value]] = {
    kind.model_fields["type"].default: kind for kind in get_args(get_args(TaskCommand)[0])
}


@dataclass(frozen=True)
class FieldPage:
    """One field: what it is called, what it holds, whether it must be there, what it means."""

    name: str
    type: str
    required: bool
    default: JsonValue
    meaning: str


@dataclass(frozen=True)
class ShapePage:
    """An object that a field can hold."""

    name: str
    meaning: str
    fields: tuple[FieldPage, ...]


@dataclass(frozen=True)
class CommandPage:
    """One command: what it does, who may give it, in which phases, with which fields, and how it can be refused."""

    command: str
    meaning: str
    #: ``person``, ``pod``, ``podctl``.
    senders: tuple[str, ...]
    phases: tuple[str, ...]
    #: Whether it is refused 96 KB before the state is full, to leave room for what must be accepted.
    growing: bool
    fields: tuple[FieldPage, ...]
    #: The objects that its fields can hold, each with the fields it has.
    shapes: tuple[ShapePage, ...]
    #: One that works as it stands, in a task that it fits.
    example: dict[str, JsonValue]
    #: Code -> what it means.
    rejections: dict[str, str]


def explain(command: str) -> CommandPage:
    """Return all about one command. Raises ``BadInput`` that names those there are."""
    kind = COMMANDS.get(command)
    if kind is None:
        raise BadInput(f"there is no command {command!r}; podctl explain lists them: {', '.join(COMMANDS)}")
    rule = RULES[kind]
    schema = kind.model_json_schema()
    return CommandPage(
        command=command,
        meaning=_words(kind),
        senders=tuple(sender.value for sender in Sender if sender in rule.senders),
        phases=tuple(phase.value for phase in Phase if phase in rule.phases),
        growing=rule.growing,
        fields=tuple(_command_fields(command, kind, schema)),
        shapes=tuple(_shapes(schema)),
        example=example(command),
        rejections={code: REJECTIONS[code] for code in sorted(rejections(rule))},
    )


def pages() -> list[CommandPage]:
    """Return all about every command."""
    return [explain(command) for command in COMMANDS]


def example(command: str) -> dict[str, JsonValue]:
    """Return a command as JSON: what it needs, and where it needs nothing, what it can have."""
    fields = {name: field for name, field in COMMANDS[command].model_fields.items() if name != "type"}
    needed = [name for name, field in fields.items() if field.is_required()] or list(fields)[:2]
    found = {name: field_of(command, name) for name in needed}
    return {"type": command, **{name: field.example for name, field in found.items() if field is not None}}


def rejections(rule: Rule) -> set[str]:
    """Return the codes with which a rule can refuse, besides those of every command.

    Read from the functions that it can reach: each code stands there as a word of the table. A function that calls
    whatever was decided, as answering a question does, can meet what that can meet.
    """
    found: set[str] = set()
    seen: set[object] = set()
    waiting: list[object] = [rule.handle]
    while waiting:
        thing = waiting.pop()
        if isinstance(thing, dict):
            waiting.extend(value for value in thing.values() if isinstance(value, FunctionType))
        if not isinstance(thing, FunctionType) or thing in seen or not thing.__module__.startswith("domain."):
            continue
        seen.add(thing)
        for code in _codes(thing.__code__):
            found.update(word for word in code.co_consts if isinstance(word, str) and word in REJECTIONS)
            waiting.extend(_reached(code, thing.__globals__))
    # A phase that only the rule itself finds wrong is worth telling.
    return found - (set(COMMON) - {"invalid_phase"})


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Yield a function's code and that of the functions written within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _reached(code: CodeType, names: dict[str, Any]) -> Iterator[object]:
    """Yield what a function's names stand for: functions, tables of them, functions of modules, a change's methods."""
    modules = [names[name] for name in code.co_names if isinstance(names.get(name), ModuleType)]
    for name in code.co_names:
        if name in names:
            yield names[name]
        for module in modules:
            yield getattr(module, name, None)
        yield getattr(Change, name, None)


def _command_fields(command: str, kind: type[BaseModel], schema: dict[str, Any]) -> Iterator[FieldPage]:
    for name, field in kind.model_fields.items():
        if name == "type":
            continue
        known = field_of(command, name)
        yield FieldPage(
            name=name,
            type=_type(schema["properties"][name], schema.get("$defs", {})),
            required=field.is_required(),
            default=_default(field.default),
            meaning="" if known is None else known.meaning,
        )


def _shapes(schema: dict[str, Any]) -> Iterator[ShapePage]:
    shapes = schema.get("$defs", {})
    for name, shape in shapes.items():
        if shape.get("type") != "object":
            continue
        comments = _comments(name)
        fields = tuple(
            FieldPage(
                name=field,
                type=_type(given, shapes),
                required=field in shape.get("required", ()),
                default=given.get("default"),
                meaning=comments.get(field, ""),
            )
            for field, given in shape["properties"].items()
        )
        yield ShapePage(name=name, meaning=_plain(shape.get("description", "")), fields=fields)


def _comments(name: str) -> dict[str, str]:
    """Return what the comments above the fields of a model say."""
    kind = getattr(models, name, None)
    found: dict[str, str] = {}
    words: list[str] = []
    for line in inspect.getsource(kind).splitlines() if isinstance(kind, type) else ():
        if comment := re.match(r"    #: (.*)", line):
            words.append(comment[1])
        else:
            if words and (field := re.match(r"    (\w+): ", line)):
                found[field[1]] = _plain(" ".join(words))
            words = []
    return found


def _type(schema: dict[str, Any], shapes: dict[str, Any]) -> str:
    """Return a JSON schema's type in words; an object is called by its name."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return name if shapes[name].get("type") == "object" else _type(shapes[name], shapes)
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return " | ".join(schema["enum"])
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " | ".join(_type(one, shapes) for one in schema[several] if one.get("type") != "null")
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items') or {}, shapes)}"
    return _SIMPLE.get(schema.get("type", ""), "anything")


_SIMPLE = {
    "string": "text",
    "integer": "whole number",
    "boolean": "true | false",
    "number": "number",
    "object": "object",
}


def _default(value: object) -> JsonValue:
    if value is PydanticUndefined:
        return None
    if isinstance(value, BaseModel):
        return {}
    if isinstance(value, tuple):
        return [*value]
    return value if isinstance(value, (str, int, float, bool)) else None


def _words(kind: type[BaseModel]) -> str:
    return _plain(inspect.getdoc(kind) or "")


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("``", "`")
