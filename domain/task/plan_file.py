"""Plan files: YAML as people write it, checked by the models and rules of the workflow, with the place of a mistake."""

from collections.abc import Sequence
from typing import Any, NoReturn, Protocol

import yaml
from pydantic import ValidationError

from domain.errors import BadInput
from domain.task.models import PlanDraft
from domain.task.plan_rules import problems

FILE_LIMIT = 256 * 1024
#: A plan is four levels deep; parsers recurse, so what is deeper than this is refused before it is built.
_DEPTH_LIMIT = 20
_PROBLEMS_SHOWN = 20


class _Mark(Protocol):
    """Where something stands in a file, counted from 0; the two YAML parsers have a type each."""

    line: int
    column: int


def read_plan(text: str, source_name: str) -> PlanDraft:
    """Return the plan in ``text``, or raise ``BadInput`` with one ``file:line:column: field: problem`` a line."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > FILE_LIMIT:
        raise BadInput(
            f"{source_name}: the file is {size:,} bytes, the limit is {FILE_LIMIT:,}; put long texts into files of "
            "their own and name them"
        )
    try:
        root = _compose(text, source_name)
        data = _plain(root, source_name)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise BadInput(f"{_place(source_name, mark)}: this is not YAML: {error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise BadInput(f"{source_name}:{line}: this is not YAML: {error.reason}") from error
    try:
        plan = PlanDraft.model_validate(_expand(data))
    except ValidationError as error:
        found = [(e["loc"], _words(e["type"], e["msg"])) for e in error.errors(include_url=False, include_input=False)]
        _fail(root, source_name, found, error)
    mistakes = [(problem.path, f"{problem.message} ({problem.code})") for problem in problems(plan)]
    if mistakes:
        _fail(root, source_name, mistakes, None)
    return plan


def _compose(text: str, source_name: str) -> yaml.Node:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise BadInput(f"{_place(source_name, event.start_mark)}: anchors and aliases are not allowed in a plan")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _DEPTH_LIMIT:
                raise BadInput(f"{_place(source_name, event.start_mark)}: nested deeper than any plan is")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is None:
        raise BadInput(f"{source_name}: the file is empty; a plan has a summary and workstreams")
    if not isinstance(root, yaml.MappingNode):
        raise BadInput(f"{_place(source_name, root.start_mark)}: a plan is a mapping with 'summary' and 'workstreams'")
    return root


def _plain(node: yaml.Node, source_name: str) -> Any:  # noqa: ANN401 - whatever the file says
    """Return a node as plain Python values; a key that stands twice is a mistake, not an overwrite."""
    if isinstance(node, yaml.MappingNode):
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = _plain(key_node, source_name)
            if not isinstance(key, str):
                raise BadInput(f"{_place(source_name, key_node.start_mark)}: a field's name is a text, not {key!r}")
            if key in mapping:
                raise BadInput(f"{_place(source_name, key_node.start_mark)}: {key!r} stands here for the second time")
            mapping[key] = _plain(value_node, source_name)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_plain(child, source_name) for child in node.value]
    try:
        return yaml.constructor.SafeConstructor().construct_object(node)
    except ValueError as error:
        raise BadInput(f"{_place(source_name, node.start_mark)}: {node.value[:60]!r}: {error}") from error


def _expand(data: dict[str, Any]) -> dict[str, Any]:
    """Return the plan with the short form ``executor: signal`` written out."""
    workstreams = data.get("workstreams")
    if not isinstance(workstreams, list):
        return data
    return {**data, "workstreams": [_expand_executor(workstream) for workstream in workstreams]}


def _expand_executor(workstream: Any) -> Any:  # noqa: ANN401 - whatever the file says
    if isinstance(workstream, dict) and isinstance(workstream.get("executor"), str):
        return {**workstream, "executor": {"type": workstream["executor"]}}
    return workstream


def _fail(
    root: yaml.Node, source_name: str, found: Sequence[tuple[Sequence[str | int], str]], cause: Exception | None
) -> NoReturn:
    lines = [
        f"{_place(source_name, _locate(root, path).start_mark)}: {_field(path)}: {message}"
        for path, message in found[:_PROBLEMS_SHOWN]
    ]
    if len(found) > _PROBLEMS_SHOWN:
        lines.append(f"and {len(found) - _PROBLEMS_SHOWN} more")
    raise BadInput("\n".join(lines)) from cause


def _locate(root: yaml.Node, path: Sequence[str | int]) -> yaml.Node:
    """Return the node nearest to ``path``, a field's at its name; what is missing or no place is passed over."""
    node = root
    name: yaml.Node | None = None
    for part in path:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node, name = node.value[part], None
        elif isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == part), None)
            if pair is not None:
                name, node = pair
            elif part == path[-1]:
                name = None
    return name or node


def _field(path: Sequence[str | int]) -> str:
    """Return ``workstreams[2].executor.argv`` for a path; the name of a union's member is no field."""
    text = ""
    for position, part in enumerate(path):
        if isinstance(part, int):
            text += f"[{part}]"
        elif not (position > 0 and path[position - 1] == "executor" and part in ("signal", "command")):
            text += f".{part}" if text else part
    return text or "plan"


def _words(kind: str, message: str) -> str:
    words = {
        "extra_forbidden": "there is no such field",
        "missing": "this field is missing",
        "string_type": "this should be a text; put it in quotes",
    }
    return words.get(kind, message.removeprefix("Value error, "))


def _place(source_name: str, mark: _Mark | None) -> str:
    return source_name if mark is None else f"{source_name}:{mark.line + 1}:{mark.column + 1}"
