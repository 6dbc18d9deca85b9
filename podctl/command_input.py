"""A command as it is typed: fields as options, or one JSON object."""

import json
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, cast

from pydantic import JsonValue, ValidationError

from domain.entity import Sender, Value
from domain.errors import BadInput
from domain.task.commands import TaskCommand
from domain.task.rules import RULES
from podctl.explain import COMMANDS


def read_command(command: str, options: Sequence[str], document: str | None) -> TaskCommand:
    """Return the command that was typed. Raises ``BadInput`` that names the field and what it takes."""
    kind = COMMANDS.get(command)
    if kind is None:
        near = get_close_matches(command, COMMANDS, 3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise BadInput(f"there is no command {command!r}; {hint}podctl explain lists them")
    rule = RULES[kind]
    if Sender.PERSON not in rule.senders:
        raise BadInput(f"{command} is not a person's to give: {', '.join(sorted(rule.senders))} does it")
    fields = _from_options(command, kind, options)
    if document is not None:
        if fields:
            raise BadInput("give the fields as options, or as one JSON object, not both")
        fields = _from_document(command, document)
    try:
        return cast("TaskCommand", kind.model_validate(fields))
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        problems = "; ".join(f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in found[:5])
        raise BadInput(f"{command}: {problems}; see podctl explain {command}") from error


def _from_document(command: str, document: str) -> dict[str, Any]:
    try:
        fields = json.loads(document)
    except ValueError as error:
        raise BadInput(f"{command}: this is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise BadInput(f"{command}: its fields are one JSON object, as in podctl explain {command}")
    if fields.get("type", command) != command:
        raise BadInput(f"{command}: the JSON object says that it is {fields['type']!r}")
    return fields


def _from_options(command: str, kind: type[Value], options: Sequence[str]) -> dict[str, Any]:
    """Return fields from ``--name value`` or ``--name=value``. A list's option is repeated; an object is JSON."""
    properties: dict[str, Any] = kind.model_json_schema()["properties"]
    fields: dict[str, Any] = {}
    waiting = list(options)
    while waiting:
        word = waiting.pop(0)
        option, equals, value = word.removeprefix("--").partition("=")
        name = option.replace("-", "_")
        if not word.startswith("--") or name not in properties or name == "type":
            known = ", ".join("--" + field.replace("_", "-") for field in properties if field != "type") or "none"
            raise BadInput(f"{command} has no option {word!r}; it has {known}")
        if not equals:
            if not waiting:
                raise BadInput(f"{word} needs a value")
            value = waiting.pop(0)
        known_type = properties[name].get("type")
        if known_type == "array" and not value.startswith("["):
            fields.setdefault(name, []).append(value)
        else:
            fields[name] = _value(word, value, properties[name])
    return fields


def _value(word: str, text: str, schema: dict[str, Any]) -> JsonValue:
    kinds = {one.get("type", "object") for one in schema.get("anyOf", [schema])}
    if not kinds & {"array", "object"} or not text.startswith(("{", "[")):
        return text
    try:
        value: JsonValue = json.loads(text)
    except ValueError as error:
        raise BadInput(f"{word}: this is not JSON: {error}") from error
    return value
