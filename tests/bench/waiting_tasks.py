"""A thousand tasks that wait for approval: what each takes of a worker's memory, and how long the inbox takes."""

import asyncio
import os
import statistics
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path

from domain.ids import task_workflow_id
from domain.task.models import TaskInput
from podctl.client import PodctlClient, new_command_id
from podctl.processes import ProcessIdentity, start_detached
from tests.bench.figure import Figure
from tests.bench.process_use import memory
from tests.bench.site import PODCTL, Site, start_bare

_TASKS = 1_000
#: Workflows whose memory is measured, on a worker of their own; it keeps them all.
_MEASURED = 500
_AT_A_TIME = 20
_INBOXES = 7
_QUEUES = ("bench-idle-tasks", "bench-idle-bare")


async def waiting_tasks(site: Site) -> list[Figure]:
    """Return the memory of an idle task beyond a bare workflow's, and the seconds of ``podctl inbox``."""
    return [*await _memory(site), *await _inbox(site)]


async def _memory(site: Site) -> list[Figure]:
    tasks, bare = _QUEUES
    podctl = PodctlClient(site.podctl.temporal, tasks)

    async def task(number: int) -> None:
        task_id = f"idle-{number}"
        await podctl.create_task(_task(task_id, by="ida"))
        await podctl.ask_task(task_id)

    async def workflow(number: int) -> None:
        workflow_id = f"idle-bare-{number}"
        await start_bare(site.bare, workflow_id, {"create": _task(workflow_id, by="ida").model_dump(mode="json")}, bare)
        await site.bare.get_workflow_handle(workflow_id).query("outcome", "")

    ours = await _grown(site, ["-m", "worker", "--task-queue", tasks], task)
    theirs = await _grown(site, ["-m", "tests.bench.bare", _address(site), bare], workflow)
    return [
        Figure(
            name="worker's memory (PSS) for an idle task beyond a bare workflow",
            value=(ours - theirs) / 1e3,
            unit="KB",
            bound="<=",
            limit=150,
            measured=f"{ours / 1e3:.0f} KB / {theirs / 1e3:.0f} KB, of {_MEASURED} each",
        )
    ]


async def _grown(site: Site, arguments: Sequence[str], begin: Callable[[int], Awaitable[None]]) -> float:
    """Return the bytes by which a worker's process grows for each workflow that it holds."""
    environment = {**site.environment, "TEMPORAL_ADDRESS": _address(site), "TEMPORAL_CONFIG_FILE": os.devnull}
    worker = start_detached(
        [sys.executable, *arguments],
        log=site.folder / f"{arguments[1]}.log",
        folder=Path(__file__).parents[2],
        environment=environment,
    )
    try:
        # The first ones pay for what all share.
        await _for_each(range(-2 * _AT_A_TIME, 0), begin)
        before = memory(worker.pid)
        await _for_each(range(_MEASURED), begin)
        return (memory(worker.pid) - before) / _MEASURED
    finally:
        await asyncio.to_thread(_end, worker)


def _end(worker: ProcessIdentity) -> None:
    worker.end(grace=10.0)


async def _inbox(site: Site) -> list[Figure]:
    async def task(number: int) -> None:
        task_id = f"waiting-{number}"
        await site.podctl.create_task(_task(task_id, by="inge"))
        await site.podctl.temporal.get_workflow_handle(task_workflow_id(task_id)).query("outcome", "")

    await _for_each(range(_TASKS), task)
    seconds = [await site.run([PODCTL, "inbox", "--as", "inge"]) for _ in range(_INBOXES)]
    return [
        Figure(
            name=f"podctl inbox, {_TASKS} tasks waiting",
            value=statistics.median(seconds),
            unit="s",
            bound="<=",
            limit=1,
            measured=f"{min(seconds):.2f} to {max(seconds):.2f} s, {_INBOXES} times",
        )
    ]


def _task(task_id: str, by: str) -> TaskInput:
    return TaskInput(task_id=task_id, title="A leaflet", by=by, command_id=new_command_id(), spec="Write it.")


def _address(site: Site) -> str:
    return site.podctl.temporal.service_client.config.target_host


async def _for_each(numbers: Iterable[int], do: Callable[[int], Awaitable[None]]) -> None:
    left = iter(numbers)

    async def some() -> None:
        for number in left:
            await do(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_A_TIME):
            group.create_task(some())
