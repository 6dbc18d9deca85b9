"""JSON schemas of the files that people write: the models' own, and the short forms that files may use."""

from typing import Any, Literal

from domain.task.models import PlanDraft, TaskConfig

_TITLES = {"plan": "A podctl plan", "config": "Settings of a podctl task"}
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def file_schema(kind: Literal["plan", "config"]) -> dict[str, Any]:
    """Return the JSON schema of a plan file, or of a file of a task's settings."""
    model = PlanDraft if kind == "plan" else TaskConfig
    return {"$schema": _DIALECT, **_with_short_forms(model.model_json_schema()), "title": _TITLES[kind]}


def _with_short_forms(schema: Any) -> Any:  # noqa: ANN401 - a part of a schema
    """Return a schema in which an executor may also be written as ``signal``."""
    if isinstance(schema, list):
        return [_with_short_forms(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("discriminator", {}).get("propertyName") == "type":
        rest = {name: value for name, value in schema.items() if name not in {"discriminator", "oneOf"}}
        return {**rest, "anyOf": [{"const": "signal"}, *schema["oneOf"]]}
    return {name: _with_short_forms(part) for name, part in schema.items()}
