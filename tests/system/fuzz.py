"""What a stranger might send to a task: commands made of the models' own schemas, right, nearly right, and broken."""

import json
import random
import string
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import JsonValue, TypeAdapter
from temporalio.common import RawValue

from domain.task.command_fields import field_of
from domain.task.commands import TaskCommand
from domain.task.signals import EXAMPLES
from tests.workflow.support import raw

#: Ids that may exist in the tasks that are fuzzed, and some that do not.
IDS = (
    *("docs", "docs", "second", "third", "gone"),
    *(f"{kind}-{number}" for kind in ("m", "t", "action", "writer", "spec-writer") for number in range(1, 6)),
    *("write/spec", "approve/spec/1/0", "../../etc", "a/b", "first", "handbook"),
)
WILD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**53, 2**70, -0.0, 1e308, 0.1, [], {}, [[]], {"": None}),
    *("", " ", "\0", "\u202e", "a\nb", "😀" * 50, "x" * 5_000, "<script>", "$(reboot)", "'; --", "ünï", "\x1b[31m"),
    *({"type": "signal"}, {"type": "command"}, {"type": []}, ["a"] * 600, {"by": "podctl"}, "NaN", "1", "null"),
)
SENDERS: tuple[JsonValue, ...] = (*["ann", "bob", "writer-1"] * 10, "podctl", "temporal", "", "x" * 300, 7)
_SCHEMA = TypeAdapter(TaskCommand).json_schema()
_DEFINITIONS: dict[str, Any] = _SCHEMA["$defs"]
_COMMANDS = {name: _DEFINITIONS[ref.rpartition("/")[2]] for name, ref in _SCHEMA["discriminator"]["mapping"].items()}
#: Each would end most tasks at once.
_SELDOM = frozenset({"cancel_task"})


class Fuzz:
    """Makes messages from one seed: the same ones each time."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - reproducible on purpose
        self._count = 0
        self._seed = seed

    def chance(self, part: float) -> bool:
        return self._random.random() < part

    def envelope(self) -> dict[str, JsonValue]:
        """Return a command as an update carries it; now and then something of it is wrong."""
        self._count += 1
        envelope: dict[str, JsonValue] = {
            # Sometimes one that was there before.
            "command_id": f"f{self._seed}-{self._count - (self._random.randrange(5) if self.chance(0.1) else 0)}",
            "by": self._random.choice(SENDERS),
            "command": self.command(),
        }
        if self.chance(0.03):
            envelope[self._random.choice([*envelope, "surplus"])] = self._wild()
        return envelope

    def command(self) -> JsonValue:
        name = self._random.choice([*_COMMANDS])
        while name in _SELDOM and self.chance(0.95):
            name = self._random.choice([*_COMMANDS])
        if self.chance(0.02):
            return {"type": self._random.choice(["nonsense", "", "UPDATE_SPEC", None]), "content": "x"}
        return self._object(_COMMANDS[name], name, wrong=self._random.choice((0.0, 0.0, 0.0, 0.05, 0.3)))

    def update_arguments(self) -> list[Any]:
        """Return the arguments of an update."""
        if self.chance(0.05):
            broken: list[list[Any]] = [[], [1, 2], [None], ["text"], [raw(self._bytes())], [raw(b"{}", "else")]]
            return self._random.choice(broken)
        return [self.envelope()]

    def signal(self) -> tuple[str, Sequence[RawValue]]:
        """Return a signal's name and its raw arguments."""
        name = self._random.choice([*EXAMPLES])
        payload: dict[str, Any] = json.loads(EXAMPLES[name])
        self._count += 1
        for field in list(payload):
            if self.chance(0.3):
                payload[field] = self._random.choice(IDS)
            elif self.chance(0.05):
                payload[field] = self._wild()
        if self.chance(0.2):
            payload["command_id"] = f"s{self._seed}-{self._count}"
        if self.chance(0.05):
            payload["".join(self._random.choices(string.printable, k=5))] = self._wild()
        data = json.dumps(payload).encode()
        if self.chance(0.1):
            return name, [raw(self._broken(data))]
        if self.chance(0.03):
            encoding = self._random.choice(("binary/plain", "binary/null", "json/protobuf", "binary/encrypted", "\n"))
            return name, [raw(data, encoding)]
        if self.chance(0.03):
            return self._random.choice(("", "approve_spec", "x" * 500, "\0", "__temporal", "execute", "ünï")), [
                raw(data)
            ]
        if self.chance(0.03):
            return name, [raw(data)] * self._random.choice((0, 2, 5))
        return name, [raw(data)]

    def _object(self, schema: Mapping[str, Any], command: str, wrong: float) -> JsonValue:
        required = schema.get("required", ())
        made: dict[str, JsonValue] = {}
        for name, field in schema.get("properties", {}).items():
            if "const" in field:
                made[name] = field["const"]
            elif name in required or self.chance(0.5):
                made[name] = self._field(field, command, name, wrong)
        if self.chance(wrong / 5):
            made["surplus"] = self._wild()
        if made and self.chance(wrong / 5):
            del made[self._random.choice([*made])]
        return made

    def _field(self, schema: Mapping[str, Any], command: str, name: str, wrong: float) -> JsonValue:
        if self.chance(wrong):
            return self._wild()
        known = field_of(command, name)
        if known is not None and self.chance(0.4):
            return known.example
        return self._value(schema, command, wrong)

    def _value(self, schema: Mapping[str, Any], command: str, wrong: float) -> JsonValue:  # noqa: PLR0911 - a kind of value each
        if "$ref" in schema:
            return self._value(_DEFINITIONS[schema["$ref"].rpartition("/")[2]], command, wrong)
        for choice in ("anyOf", "oneOf"):
            if choice in schema:
                return self._value(self._random.choice(schema[choice]), command, wrong)
        if "enum" in schema:
            value: JsonValue = self._random.choice(schema["enum"])
            return value
        match schema.get("type"):
            case "object" if "properties" in schema:
                return self._object(schema, command, wrong)
            case "object":
                return {self._random.choice(IDS): self._random.choice(IDS) for _ in range(self._random.randrange(3))}
            case "array":
                items = schema.get("items", {"type": "string"})
                return [self._value(items, command, wrong) for _ in range(self._random.randrange(4))]
            case "integer":
                return self._random.choice((0, 1, 1, 2, 3, 10))
            case "number":
                return self._random.choice((0.0, 0.5, 1.0, 30.0))
            case "boolean":
                return self.chance(0.5)
            case "null":
                return None
            case _:
                return self._random.choice(IDS)

    def _wild(self) -> JsonValue:
        value: JsonValue = self._random.choice(WILD)
        return value

    def _bytes(self) -> bytes:
        return self._random.randbytes(self._random.randrange(200))

    def _broken(self, data: bytes) -> bytes:
        at = self._random.randrange(len(data))
        return self._random.choice(
            (data[:at], data[:at] + self._random.randbytes(3) + data[at:], b"[" * 3_000, self._bytes(), b"")
        )
