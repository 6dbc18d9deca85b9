"""A plan as the YAML text that people read, edit and comment on: ``read_plan(plan_text(plan))`` is the plan.

Written here and not by a YAML library, because review comments are anchored to its lines: every worker, whatever is
installed there, has to write the same text.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from pydantic import JsonValue

from domain.task.models import (
    CommandExecutor,
    Executor,
    ModelServerDraft,
    Plan,
    PlanDraft,
    Priority,
    WorkstreamDraft,
)

#: A list that is longer is written one element a line.
_LIST_WIDTH = 80
#: Texts that YAML takes for themselves without quotes: they begin with a letter, and hold nothing it would act on.
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./+()-]*(?: [A-Za-z0-9_./+()-]+)*")
#: What YAML takes for something else than a text.
_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})
#: Line breaks other than LF, and what no text file may hold: written as escapes.
_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def plan_draft(plan: Plan) -> PlanDraft:
    """Return a plan as its author wrote it."""
    return PlanDraft(
        summary=plan.summary,
        model_servers=tuple(plan.model_servers.values()),
        workstreams=tuple(plan.workstreams.values()),
    )


def plan_text(plan: PlanDraft) -> str:
    """Return a plan file that says what ``plan`` says; what has its default is left out."""
    lines: list[str] = []
    if plan.summary:
        lines += _field("", "summary", plan.summary)
    if plan.model_servers:
        lines += ["model_servers:"]
        for server in plan.model_servers:
            lines += _item("  ", _server(server))
    lines += ["workstreams:"] if plan.workstreams else ["workstreams: []"]
    for workstream in plan.workstreams:
        lines += _item("  ", _workstream(workstream))
    return "\n".join(lines) + "\n"


def _server(server: ModelServerDraft) -> Mapping[str, JsonValue]:
    return server.model_dump(mode="json", exclude_defaults=True)


def _workstream(draft: WorkstreamDraft) -> Mapping[str, JsonValue]:
    fields: dict[str, JsonValue] = {"id": draft.id, "title": draft.title}
    if draft.description:
        fields["description"] = draft.description
    if draft.depends_on:
        fields["depends_on"] = list(draft.depends_on)
    fields["executor"] = _executor(draft.executor)
    if draft.priority is not Priority.NORMAL:
        fields["priority"] = draft.priority.value
    if draft.estimated_hours is not None:
        fields["estimated_hours"] = draft.estimated_hours
    return fields


def _executor(executor: Executor) -> JsonValue:
    if not isinstance(executor, CommandExecutor):
        return executor.type
    return {"type": executor.type, **executor.model_dump(mode="json", exclude_defaults=True)}


def _item(indent: str, fields: Mapping[str, JsonValue]) -> Iterator[str]:
    """Yield the lines of a mapping that is an element of a list."""
    mark = f"{indent}- "
    for name, value in fields.items():
        for number, line in enumerate(_field(f"{indent}  ", name, value)):
            yield line if number else mark + line[len(mark) :]
        mark = f"{indent}  "


def _field(indent: str, name: str, value: JsonValue) -> Iterator[str]:
    name = _scalar(name)
    match value:
        case dict():
            yield f"{indent}{name}:" if value else f"{indent}{name}: {{}}"
            for inner, inner_value in value.items():
                yield from _field(f"{indent}  ", inner, inner_value)
        case list():
            yield from _list(indent, name, value)
        case str() if "\n" in value and not _ESCAPED.search(value) and not re.search(r"[\x00-\x08\x0b-\x1f]", value):
            yield from _block(indent, name, value)
        case _:
            yield f"{indent}{name}: {_scalar(value)}"


def _list(indent: str, name: str, values: Sequence[JsonValue]) -> Iterator[str]:
    elements = [_scalar(value) for value in values]
    line = f"[{', '.join(elements)}]"
    if len(line) <= _LIST_WIDTH:
        yield f"{indent}{name}: {line}"
        return
    yield f"{indent}{name}:"
    yield from (f"{indent}  - {element}" for element in elements)


def _block(indent: str, name: str, text: str) -> Iterator[str]:
    """Yield a text of several lines as it is, indented."""
    lines = text.split("\n")
    # How far it is indented is seen from its first line, unless that one begins with a space or is empty.
    indentation = "2" if lines[0][:1] in ("", " ", "\t") else ""
    ending = "-"
    if lines[-1] == "":
        lines.pop()
        ending = "+" if lines[-1] == "" else ""
    yield f"{indent}{name}: |{indentation}{ending}"
    yield from (f"{indent}  {line}" if line else "" for line in lines)


def _scalar(value: JsonValue) -> str:
    if isinstance(value, float):
        # YAML knows 1.0e-07 as a number, and 1e-07 not.
        return re.sub(r"^(\d+)e", r"\1.0e", repr(value))
    if not isinstance(value, str):
        return json.dumps(value)
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return _ESCAPED.sub(lambda found: f"\\u{ord(found.group()):04x}", json.dumps(value, ensure_ascii=False))
