"""What a person says of a new task, made into what the task begins with."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from domain.errors import BadInput
from domain.ids import check_name, slug
from domain.task.config_file import read_config
from domain.task.models import GateMode, Gates, PlanDraft, TaskConfig, TaskInput
from domain.task.plan_file import read_plan
from podctl.client import new_command_id

#: Bytes of a file that are read at all; the rules' own limits are lower and name what is too long.
FILE_LIMIT = 4 * 1024 * 1024

M = TypeVar("M", bound=BaseModel)


def task_input(
    title: str,
    *,
    by: str,
    task_id: str | None = None,
    spec: Path | None = None,
    plan: Path | None = None,
    config: TaskConfig | None = None,
) -> TaskInput:
    """Return the input of a task; without ``task_id`` it is made of the title.

    Raises BadInput that names the file (with line and field for a plan), or the value that cannot be used.
    """
    name = check_name("task", task_id) if task_id is not None else slug(title)
    given = {
        "task_id": name,
        "title": title,
        "by": by,
        "command_id": new_command_id(),
        "spec": None if spec is None else read_text(spec),
        "plan": None if plan is None else read_plan_file(plan),
        "config": config or TaskConfig(),
    }
    return _checked(TaskInput, given)


def task_config(file: Path | None, *, gates: str = "", max_concurrent: int | None = None) -> TaskConfig:
    """Return the settings of a file, where one is given, with those that are given one by one on top.

    Raises BadInput that names file, line and field, or the value that cannot be used.
    """
    settings = (TaskConfig() if file is None else read_config_file(file)).model_dump()
    settings["gates"] |= parse_gates(gates)
    if max_concurrent is not None:
        settings["max_concurrent"] = max_concurrent
    return _checked(TaskConfig, settings)


def changed_config(config: TaskConfig, file: Path | None, changes: Sequence[str]) -> TaskConfig:
    """Return settings, those of a file in their place where one is given, with ``gates.plan=auto`` and the like on top.

    Raises BadInput that names file, line and field, or the setting that cannot be used.
    """
    settings = (config if file is None else read_config_file(file)).model_dump(mode="json")
    for change in changes:
        name, equals, value = change.partition("=")
        *groups, last = name.strip().split(".")
        group: Any = settings
        for part in groups:
            group = group.get(part) if isinstance(group, dict) else None
        if not equals or not isinstance(group, dict) or last not in group:
            known = ", ".join(group if isinstance(group, dict) else settings)
            raise BadInput(f"--set {change!r} names no setting: write KEY=VALUE; there are {known}")
        try:
            group[last] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise BadInput(f"--set {change!r}: the value is not YAML: {str(error).splitlines()[0]}") from error
    return _checked(TaskConfig, settings)


def config_text(config: TaskConfig) -> str:
    """Return settings as a YAML file that ``read_config`` reads."""
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text


def _checked(model: type[M], given: Mapping[str, object]) -> M:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BadInput(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error


def parse_gates(text: str) -> dict[str, GateMode]:
    """Return the gates that ``spec=human,plan=auto`` names, and how they are to be."""
    modes: dict[str, GateMode] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        gate, equals, mode = part.partition("=")
        if gate not in Gates.model_fields or not equals or mode not in {known.value for known in GateMode}:
            raise BadInput(
                f"{part!r} is not a gate and its mode: write for example spec=human,plan=auto; gates are "
                f"{', '.join(Gates.model_fields)}; modes are {', '.join(GateMode)}"
            )
        if gate in modes:
            raise BadInput(f"the gate {gate} is named twice in {text!r}")
        modes[gate] = GateMode(mode)
    return modes


def read_config_file(path: Path) -> TaskConfig:
    """Return the settings in a YAML file. BadInput names file, line and field of what is wrong."""
    return read_config(read_text(path), str(path))


def read_plan_file(path: Path) -> PlanDraft:
    """Return the plan in a YAML file. BadInput names file, line and field of what is wrong."""
    return read_plan(read_text(path), str(path))


def read_input(path: Path) -> str:
    """Return a file's text, or that of standard input for ``-``. BadInput as ``read_text``."""
    if str(path) == "-":
        return _text(sys.stdin.buffer.read(FILE_LIMIT + 1), "standard input")
    return read_text(path)


def read_text(path: Path) -> str:
    """Return a file's text. BadInput names the file if it cannot be read, is no text, or too large for anything."""
    try:
        with path.open("rb") as file:
            return _text(file.read(FILE_LIMIT + 1), str(path))
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from error


def _text(data: bytes, source: str) -> str:
    if len(data) > FILE_LIMIT:
        raise BadInput(
            f"{source} is larger than {FILE_LIMIT:,} bytes; put the bulk into files that the workstreams can read and "
            "name them"
        )
    try:
        return data.decode("utf-8").removeprefix("\N{BOM}")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise BadInput(f"{source}:{line}:{column}: this is not UTF-8 text: {error.reason}") from error
