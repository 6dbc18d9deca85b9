"""YAML files that people write: read as data for a model, each mistake told as ``file:line:column: field: problem``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from domain.errors import BadInput
from domain.yaml_loader import FAST_LOADER

#: Bytes. A plan at its limit may take this much, because YAML indents and quotes.
FILE_LIMIT = 2 * 1024 * 1024
#: What we read is a few levels deep; parsers recurse, so what is deeper than this is refused before it is built.
_DEPTH_LIMIT = 20
_PROBLEMS_SHOWN = 20
#: What lists and mappings are without a tag.
_COLLECTIONS = frozenset({"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"})

M = TypeVar("M", bound=BaseModel)
Path = Sequence[str | int]


class _Mark(Protocol):
    """Where something stands in a file, counted from 0; the two YAML parsers have a type each."""

    line: int
    column: int


@dataclass(frozen=True)
class YamlFile:
    """A file that is YAML: what it says, and where each part of it stands."""

    #: What the file is called in messages.
    source: str
    #: What it is in words, with its article: ``a plan``.
    kind: str
    data: dict[str, Any]
    _root: yaml.Node

    def validated(self, model: type[M]) -> M:
        """Return what the file says as a model, or raise ``BadInput`` with a line for each mistake."""
        try:
            return model.model_validate(self.data)
        except ValidationError as error:
            found = [
                (e["loc"], _words(e["type"], e["msg"])) for e in error.errors(include_url=False, include_input=False)
            ]
            self.fail(found, error)

    def fail(self, found: Sequence[tuple[Path, str]], cause: Exception | None = None) -> NoReturn:
        """Raise ``BadInput`` with a line for each (path, problem)."""
        lines = []
        for path, message in found[:_PROBLEMS_SHOWN]:
            node, field = _locate(self._root, path)
            lines.append(f"{_place(self.source, node.start_mark)}: {field or self.kind.split()[-1]}: {message}")
        if len(found) > _PROBLEMS_SHOWN:
            lines.append(f"and {len(found) - _PROBLEMS_SHOWN} more")
        raise BadInput("\n".join(lines)) from cause


def read_yaml(text: str, source: str, *, kind: str, fields: str) -> YamlFile:
    """Return what ``text`` says, or raise ``BadInput`` that names the place.

    ``kind`` is what the file is (``a plan``), ``fields`` what it has, in words for messages.
    """
    text = text.removeprefix("\N{BOM}")
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > FILE_LIMIT:
        raise BadInput(
            f"{source}: the file is {size:,} bytes, the limit is {FILE_LIMIT:,}; put long texts into files of their "
            "own and name them"
        )
    strange = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if strange is not None:
        line = text.count("\n", 0, strange.start()) + 1
        column = strange.start() - text.rfind("\n", 0, strange.start())
        raise BadInput(
            f"{source}:{line}:{column}: the character U+{ord(strange.group()):04X} cannot stand in a text file; write "
            'it as an escape in double quotes, like "\\x07", or leave it out'
        )
    try:
        _check_shape(text, source, kind)
        root = yaml.compose(text, Loader=FAST_LOADER)
        if root is None:
            raise BadInput(f"{source}: the file is empty; {kind} has {fields}")
        if not isinstance(root, yaml.MappingNode):
            raise BadInput(f"{_place(source, root.start_mark)}: {kind} is a mapping with {fields}")
        data = _Reader(source).plain(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise BadInput(f"{_place(source, mark)}: this is not YAML: {error.problem or error.context}") from error
    return YamlFile(source=source, kind=kind, data=data, _root=root)


def _check_shape(text: str, source: str, kind: str) -> None:
    """Refuse what would cost more to build than it can be worth, before it is built."""
    depth = 0
    for event in yaml.parse(text, Loader=FAST_LOADER):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise BadInput(f"{_place(source, event.start_mark)}: anchors and aliases are not allowed in {kind}")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _DEPTH_LIMIT:
                raise BadInput(f"{_place(source, event.start_mark)}: nested deeper than {kind} ever is")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Reader:
    """Turns nodes into plain Python values."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._scalars = yaml.constructor.SafeConstructor()

    def plain(self, node: yaml.Node) -> Any:  # noqa: ANN401 - whatever the file says
        """Return a node's value; a key that stands twice is a mistake, not an overwrite."""
        if isinstance(node, yaml.CollectionNode) and node.tag not in _COLLECTIONS:
            raise BadInput(f"{_place(self._source, node.start_mark)}: the tag {node.tag[:60]!r} is not allowed here")
        if isinstance(node, yaml.MappingNode):
            mapping: dict[Any, Any] = {}
            for key_node, value_node in node.value:
                key = self.plain(key_node)
                if not isinstance(key, str):
                    raise BadInput(
                        f"{_place(self._source, key_node.start_mark)}: a field's name is a text, not {str(key)[:60]}"
                    )
                if key in mapping:
                    raise BadInput(
                        f"{_place(self._source, key_node.start_mark)}: {key!r} stands here for the second time"
                    )
                mapping[key] = self.plain(value_node)
            return mapping
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(child) for child in node.value]
        try:
            return self._scalars.construct_object(node)
        except ValueError as error:
            raise BadInput(f"{_place(self._source, node.start_mark)}: {node.value[:60]!r}: {error}") from error
        except (LookupError, AttributeError, TypeError, OverflowError) as error:
            # PyYAML's own way to say that a text is not what its tag claims: `!!bool maybe`.
            kind = node.tag.rpartition(":")[2]
            raise BadInput(
                f"{_place(self._source, node.start_mark)}: {node.value[:60]!r} is not of the kind {kind!r}"
            ) from error


def _locate(root: yaml.Node, path: Path) -> tuple[yaml.Node, str]:
    """Return the node nearest to ``path``, a field's at its name, and the path in words: ``workstreams[2].title``.

    What is missing is placed at what lacks it. The name of a union's member, as in ``executor.command.argv``, is no
    field: it is what stands under ``type``, or the short form itself.
    """
    node = root
    name: yaml.Node | None = None
    words = ""
    for part in path:
        if isinstance(part, int):
            words += f"[{part}]"
            if isinstance(node, yaml.SequenceNode) and part < len(node.value):
                node, name = node.value[part], None
            continue
        pair = _member(node, part)
        if pair is None and part == _type_of(node):
            continue
        words += f".{part}" if words else part
        if pair is not None:
            name, node = pair
        elif part == path[-1] and isinstance(node, yaml.MappingNode):
            name = None
    return name or node, words


def _member(node: yaml.Node, key: str) -> tuple[yaml.Node, yaml.Node] | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next(((k, v) for k, v in node.value if k.value == key), None)


def _type_of(node: yaml.Node) -> object:
    if isinstance(node, yaml.ScalarNode):
        return node.value
    pair = _member(node, "type")
    return None if pair is None else pair[1].value


def _words(kind: str, message: str) -> str:
    words = {
        "extra_forbidden": "there is no such field",
        "missing": "this field is missing",
        "string_type": "this should be a text; put it in quotes",
        "string_unicode": "this is no text that can be written as UTF-8",
    }
    return words.get(kind, message.removeprefix("Value error, "))


def _place(source: str, mark: _Mark | None) -> str:
    return source if mark is None else f"{source}:{mark.line + 1}:{mark.column + 1}"
