"""Which models are known, and how vLLM serves them on which GPUs. Facts are data: ``catalog.yaml`` beside this file.

A user's own file has the same shape and wins model by model. Nothing here runs inside a workflow: the entry that
was found travels with the request (``request.StartRequest.entry``), so that history does not depend on this data.
"""

from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError

from domain.entity import Value
from domain.errors import BadInput, Rejected
from domain.gpu.arguments import check_argument
from domain.yaml_loader import FAST_LOADER


class ModelConfiguration(Value):
    """One way to serve a model: on how many GPUs, of which types or at least how large, with which arguments.

    ``types`` are those of ``inventory.gpu_type``; empty means any GPU of at least ``minimum_memory_gb``.
    """

    gpus: Annotated[int, Field(ge=1, le=64)]
    types: tuple[str, ...] = ()
    #: Memory that each GPU needs, in GB (10^9 bytes, as cards are sold).
    minimum_memory_gb: Annotated[float, Field(gt=0)] | None = None
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict)

    def describe(self) -> str:
        """Return the hardware in words: ``8 x H200/H20`` or ``1 x GPU with at least 38 GB``."""
        kind = "/".join(self.types) or "GPU"
        memory = f" with at least {self.minimum_memory_gb:g} GB" if self.minimum_memory_gb else ""
        return f"{self.gpus} x {kind}{memory}"


class ModelEntry(Value):
    """A known model: its configurations; the first that matches a type and count of GPUs is the one used."""

    configurations: Annotated[tuple[ModelConfiguration, ...], Field(min_length=1)]
    #: Which count a start takes that names none, of those that fit.
    prefers: Literal["most_gpus", "fewest_gpus"] = "most_gpus"
    #: The first vLLM that serves it: ``0.23.0``.
    min_vllm_version: Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+){1,3}$")] | None = None


class Catalog(Value):
    """Model id -> entry."""

    models: dict[str, ModelEntry] = Field(default_factory=dict)

    def extended_by(self, other: "Catalog") -> "Catalog":
        """Return this catalog with the entries of ``other`` added, replacing those of the same model."""
        return Catalog(models={**self.models, **other.models})


def read_catalog(text: str, source_name: str) -> Catalog:
    """Return the catalog that ``text`` (YAML, ``models: {id: {configurations: […]}}``) describes.

    Raises BadInput that names ``source_name``, the line, and the entry and field that are wrong.
    """
    try:
        loader = FAST_LOADER(text)
        tree = loader.get_single_node()
        content = loader.construct_document(tree) if tree is not None else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise BadInput(f"{source_name}{place}: not valid YAML: {getattr(error, 'problem', None) or error}") from error
    if content is None:
        return Catalog()
    models = content.get("models", {}) if isinstance(content, dict) else None
    if not isinstance(models, dict) or content.keys() - {"models"}:
        raise BadInput(f"{source_name}: expected one mapping 'models' of model id to entry, and nothing else")
    entries = {}
    for model, entry in models.items():
        try:
            _check_key(model, _places(tree, ("models", model)))
            entries[model] = _read_entry(entry)
        except (ValidationError, BadInput) as error:
            where, what = _problem(error)
            line = _line(tree, ("models", model, *where))
            field = ".".join(str(part) for part in where) or "entry"
            raise BadInput(f"{source_name}:{line}: model {str(model)!r}, {field}: {what}") from error
    return Catalog(models=entries)


@cache
def builtin_catalog() -> Catalog:
    """Return the catalog that comes with podctl."""
    name = "catalog.yaml"
    return read_catalog(resources.files(__package__).joinpath(name).read_text(encoding="utf-8"), name)


def _check_key(model: object, lines: Sequence[int]) -> None:
    if not isinstance(model, str):
        raise BadInput("a model id is text: put it in quotes")
    if len(lines) > 1:
        raise BadInput(f"it stands there twice, first in line {lines[0]}")


def _read_entry(entry: object) -> ModelEntry:
    read = ModelEntry.model_validate(entry)
    for configuration in read.configurations:
        for argument in configuration.arguments:
            try:
                check_argument(argument)
            except Rejected as rejected:
                raise BadInput(rejected.message) from rejected
    return read


def _problem(error: ValidationError | BadInput) -> tuple[tuple[int | str, ...], str]:
    """Return where in an entry a problem is, and what it is."""
    if isinstance(error, BadInput):
        return (), str(error)
    first = error.errors(include_url=False, include_context=False)[0]
    return first["loc"], first["msg"]


def _line(tree: yaml.Node | None, path: Sequence[object]) -> int:
    """Return the line of the value at ``path``, or of its nearest parent that is there."""
    while path:
        places = _places(tree, path)
        if places:
            return places[-1]
        path = path[:-1]
    return 1


def _places(node: yaml.Node | None, path: Sequence[object]) -> list[int]:
    """Return the lines where ``path`` begins: none, one, or several for a key that stands there more than once."""
    first, rest = path[0], path[1:]
    found: list[tuple[int, yaml.Node]] = []
    if isinstance(node, yaml.MappingNode):
        found = [(key.start_mark.line + 1, value) for key, value in node.value if key.value == str(first)]
    elif isinstance(node, yaml.SequenceNode) and isinstance(first, int) and first < len(node.value):
        found = [(node.value[first].start_mark.line + 1, node.value[first])]
    if not rest:
        return [line for line, _ in found]
    return [line for _, child in found for line in _places(child, rest)]
