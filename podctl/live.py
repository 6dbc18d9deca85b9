"""States as they change: each new one as soon as the server tells that something happened. No timer asks."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from domain.entity import EntityState
from domain.gpu.models import GpuPodState
from domain.ids import gpu_pod_workflow_id, task_workflow_id
from domain.task.models import TaskState
from podctl.client import PodctlClient

S = TypeVar("S", bound=EntityState)


def follow_task(client: PodctlClient, task_id: str) -> AsyncIterator[TaskState]:
    """Give a task's state now and after each change, until the task is over. Raises ``NotFound``."""
    return _follow(client, task_workflow_id(task_id), lambda: client.task(task_id))


def follow_pod(client: PodctlClient, name: str) -> AsyncIterator[GpuPodState]:
    """Give a GPU pod's state now and after each change, until the pod is removed. Raises ``NotFound``."""
    return _follow(client, gpu_pod_workflow_id(name), lambda: client.pod(name))


async def _follow(client: PodctlClient, workflow_id: str, read: Callable[[], Awaitable[S]]) -> AsyncIterator[S]:
    """Read the state again after events; those that come while it is being read are one change."""
    state = await read()
    yield state
    changed = asyncio.Event()

    async def listen(since: int) -> None:
        try:
            async for _ in client.follow(workflow_id, since):
                changed.set()
        finally:
            changed.set()

    listening = asyncio.create_task(listen(state.sequence))
    try:
        while not listening.done():
            await changed.wait()
            changed.clear()
            newer = await read()
            if newer.sequence > state.sequence:
                state = newer
                yield state
        await listening  # what ended it, if it was an error
    finally:
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(listening, return_exceptions=True)
