"""Whole tasks per second, against bare workflows that get the same messages."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable

from pydantic import JsonValue

from domain.ids import task_workflow_id
from domain.task.models import PlanDraft, SignalExecutor, TaskInput, WorkstreamDraft
from podctl.client import new_command_id
from tests.bench.figure import Figure, by_turns
from tests.bench.site import Site, start_bare

_ROUNDS = 12
#: Tasks of one round, and how many of them are under way at a time.
_TASKS = 16
_AT_A_TIME = 8
_WORKSTREAMS = ("one", "two", "three", "four")
_PLAN = PlanDraft(
    summary="Four parts, reported from outside.",
    workstreams=tuple(
        WorkstreamDraft(id=name, title=f"Part {name}", executor=SignalExecutor(), depends_on=_WORKSTREAMS[:index][-1:])
        for index, name in enumerate(_WORKSTREAMS)
    ),
)


def _messages() -> list[tuple[str, dict[str, JsonValue]]]:
    """Return a task's messages in their order."""
    reports: list[tuple[str, dict[str, JsonValue]]] = [
        ("workstream-result", {"by": "ann", "workstream": name, "status": "completed", "result": "fine"})
        for name in _WORKSTREAMS
    ]
    return [
        ("approve-spec", {"by": "ann"}),
        ("approve-plan", {"by": "ann"}),
        *reports,
        ("approve-review", {"by": "ann"}),
    ]


async def lifecycles(site: Site) -> list[Figure]:
    """Return our share of the lifecycles per second that bare workflows reach."""
    numbers = itertools.count()

    async def task() -> None:
        task_id = f"lifecycle-{next(numbers)}"
        await site.podctl.create_task(_task(task_id))
        for name, payload in _messages():
            outcome = await site.podctl.signal_task(task_id, name, payload)
            if outcome is None or not outcome.accepted:
                raise RuntimeError(f"{name} of {task_id}: {outcome}")
        await site.podctl.temporal.get_workflow_handle(task_workflow_id(task_id)).result()

    async def bare() -> None:
        workflow_id = f"bare-lifecycle-{next(numbers)}"
        await start_bare(site.bare, workflow_id, {"create": _task(workflow_id).model_dump(mode="json")})
        handle = site.bare.get_workflow_handle(workflow_id)
        for name, payload in _messages():
            command_id = new_command_id()
            await handle.signal(name, {**payload, "command_id": command_id})
            await handle.query("outcome", command_id)
        await handle.result()

    turns = await by_turns(lambda: _round(task), lambda: _round(bare), rounds=_ROUNDS)
    ours, theirs = (_TASKS / seconds for seconds in turns.medians)
    return [
        Figure(
            name="task lifecycles per second / bare workflows",
            value=1 / turns.ratio,
            unit="ratio",
            bound=">=",
            limit=0.7,
            measured=f"{ours:.1f} /s / {theirs:.1f} /s, {_ROUNDS * _TASKS} each, "
            f"{_AT_A_TIME} at a time, {len(_WORKSTREAMS)} workstreams",
        )
    ]


def _task(task_id: str) -> TaskInput:
    return TaskInput(
        task_id=task_id, title="A leaflet", by="ann", command_id=new_command_id(), spec="Write it.", plan=_PLAN
    )


async def _round(lifecycle: Callable[[], Awaitable[None]]) -> float:
    """Return the seconds that a round of lifecycles takes."""
    left = iter(range(_TASKS))

    async def some() -> None:
        for _ in left:
            await lifecycle()

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_A_TIME):
            group.create_task(some())
    return time.perf_counter() - started
