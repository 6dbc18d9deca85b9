"""Which models are known, and how vLLM serves them on which GPUs. Facts are data: ``catalog.yaml`` beside this file.

A user's own file has the same shape and wins model by model. Nothing here runs inside a workflow: the entry that
was found travels with the request (``request.StartRequest.entry``), so that history does not depend on this data.
"""

from functools import cache
from importlib import resources
from typing import Annotated

import yaml
from pydantic import Field, ValidationError

from domain.entity import Value
from domain.errors import BadInput


class ModelConfiguration(Value):
    """One way to serve a model: on how many GPUs, of which types or at least how large, with which arguments.

    ``types`` are those of ``inventory.gpu_type``; empty means any GPU of at least ``minimum_memory_gb``.
    """

    gpus: Annotated[int, Field(ge=1, le=64)]
    types: tuple[str, ...] = ()
    #: Memory that each GPU needs, in GB (10^9 bytes, as cards are sold).
    minimum_memory_gb: float | None = None
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict)

    def describe(self) -> str:
        """Return the hardware in words: ``8 x H200/H20`` or ``1 x GPU with at least 38 GB``."""
        if self.types:
            return f"{self.gpus} x {'/'.join(self.types)}"
        if self.minimum_memory_gb:
            return f"{self.gpus} x GPU with at least {self.minimum_memory_gb:g} GB"
        return f"{self.gpus} x GPU"


class ModelEntry(Value):
    """A known model: its configurations; the first that matches a type and count of GPUs is the one used."""

    configurations: Annotated[tuple[ModelConfiguration, ...], Field(min_length=1)]


class Catalog(Value):
    """Model id -> entry."""

    models: dict[str, ModelEntry] = Field(default_factory=dict)

    def extended_by(self, other: "Catalog") -> "Catalog":
        """Return this catalog with the entries of ``other`` added, replacing those of the same model."""
        return Catalog(models={**self.models, **other.models})


def read_catalog(text: str, source_name: str) -> Catalog:
    """Return the catalog that ``text`` (YAML, ``models: {id: {configurations: […]}}``) describes.

    Raises BadInput that names ``source_name``, and the entry and field that are wrong.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise BadInput(f"{source_name}{place}: not valid YAML: {getattr(error, 'problem', None) or error}") from error
    content = {} if content is None else content
    models = content.get("models", {}) if isinstance(content, dict) else None
    if not isinstance(models, dict):
        raise BadInput(f"{source_name}: expected a mapping 'models' of model id to entry")
    entries = {}
    for model, entry in models.items():
        try:
            entries[str(model)] = ModelEntry.model_validate(entry)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise BadInput(f"{source_name}: model {str(model)!r}, {field or 'entry'}: {first['msg']}") from error
    return Catalog(models=entries)


@cache
def builtin_catalog() -> Catalog:
    """Return the catalog that comes with podctl."""
    name = "catalog.yaml"
    return read_catalog(resources.files(__package__).joinpath(name).read_text(encoding="utf-8"), name)
