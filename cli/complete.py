"""Names for shell completion: quick, and silent where nothing can be asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: Seconds that a person waits for names after TAB.
PATIENCE = 1.5


def complete_task(incomplete: str) -> list[str]:
    """Return the tasks that begin so, those that run first, from the server's list."""
    return _matching(incomplete, _tasks)


def complete_command(incomplete: str) -> list[str]:
    """Return the commands of a task that begin so."""
    return _matching(incomplete, _commands)


def complete_pod(incomplete: str) -> list[str]:
    """Return the pods of this user that begin so."""
    return _matching(incomplete, lambda: _known_pods().keys())


def complete_server(incomplete: str) -> list[str]:
    """Return the model servers that begin so, as they were last seen on this user's pods."""
    return _matching(
        incomplete, lambda: sorted({name for pod in _known_pods().values() for name in pod.get("models") or {}})
    )


def complete_orphan(context: typer.Context, incomplete: str) -> list[str]:
    """Return the launches on the pod that was named that nobody there owns, and that begin so."""
    return _matching(incomplete, lambda: _orphans(context.params["name"]))


def complete_model(incomplete: str) -> list[str]:
    """Return the models of the catalog that begin so."""
    return _matching(incomplete, _models)


def _matching(incomplete: str, names: Callable[[], Iterable[str]]) -> list[str]:
    try:
        return [name for name in names() if name.startswith(incomplete)]
    except Exception:  # noqa: BLE001 - a message here would land in the middle of what is being typed
        return []


def _known_pods() -> dict[str, Any]:
    """Return `pods.json` as it is: its models would cost more time than reading it."""
    import json

    from podctl.paths import PodctlPaths

    pods: dict[str, Any] = json.loads(PodctlPaths.from_environment().pods_file.read_text(encoding="utf-8"))["pods"]
    return pods


def _commands() -> Iterable[str]:
    from podctl.explain import COMMANDS

    return COMMANDS


def _orphans(pod: str) -> list[str]:
    import asyncio

    from cli.context import open_client

    async def listed() -> list[str]:
        async with asyncio.timeout(PATIENCE):
            return [orphan.launch_id for orphan in (await (await open_client()).pod(pod)).orphans]

    return asyncio.run(listed())


def _models() -> Iterable[str]:
    from cli.context import user_paths
    from podctl.catalog import known_models

    return known_models(user_paths()).models


def _tasks() -> list[str]:
    import asyncio

    from cli.context import open_client

    async def listed() -> list[str]:
        async with asyncio.timeout(PATIENCE):
            tasks = await (await open_client()).tasks(limit=200)
        return [task.name for task in sorted(tasks, key=lambda task: task.status != "running")]

    return asyncio.run(listed())
