"""States as they change: each new one as soon as the server tells that something happened. No timer asks."""

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
    """Read the state again after an event that it does not have yet: those that came together are one change."""
    state = await read()
    yield state
    async for event in client.follow(workflow_id, state.sequence):
        if event.sequence > state.sequence:
            newer = await read()
            if newer.sequence > state.sequence:
                state = newer
                yield state
