"""States as they change: each new one as soon as the server tells that something happened. No timer asks for them."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

from domain.entity import EntityState
from domain.gpu.models import GpuPodState
from domain.ids import gpu_pod_workflow_id, task_workflow_id
from domain.task.models import TaskState
from podctl.client import PodctlClient

S = TypeVar("S", bound=EntityState)
T = TypeVar("T")


def follow_task(client: PodctlClient, task_id: str) -> AsyncGenerator[TaskState]:
    """Give a task's state now and after each change, until the task is over. Raises ``NotFound``."""
    return _follow(client, task_workflow_id(task_id), lambda: client.task(task_id), lambda: client.ask_task(task_id))


def follow_pod(client: PodctlClient, name: str) -> AsyncGenerator[GpuPodState]:
    """Give a GPU pod's state now and after each change, until the pod is removed. Raises ``NotFound``."""
    return _follow(client, gpu_pod_workflow_id(name), lambda: client.pod(name), lambda: client.ask_pod(name))


async def and_every(seconds: float, states: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """Give each state as it comes, and the newest one again every ``seconds`` in between, for what moves on beside it.

    Ends with ``states``, which is closed.
    """
    coming = asyncio.ensure_future(anext(states))
    try:
        state = await coming
        coming = asyncio.ensure_future(anext(states))
        while True:
            yield state
            # It may have come while the caller looked at the one before.
            await asyncio.wait({coming}, timeout=seconds)
            if coming.done():
                state = coming.result()
                coming = asyncio.ensure_future(anext(states))
    except StopAsyncIteration:
        return
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
        await states.aclose()


async def _follow(
    client: PodctlClient, workflow_id: str, read: Callable[[], Awaitable[S]], ask: Callable[[], Awaitable[S]]
) -> AsyncGenerator[S]:
    """Read the state, ask for it whenever a worker has done something, and give it if it is another one."""
    state: S | None = None
    async for _ in client.changes(workflow_id):
        newer = await (read() if state is None else ask())
        if state is None or newer.sequence > state.sequence:
            state = newer
            yield state
