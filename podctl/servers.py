"""Waiting for model servers: until one is ready, until one is gone, each change told on the way.

```
ServerFailed        the model server ended, or did not stop as it should; says why and what to try
```
"""

from collections.abc import AsyncIterator

from domain.errors import Rejected
from domain.gpu.models import GpuPodState, ModelServer
from domain.gpu.schedule import detail
from podctl.client import ClientError, PodctlClient
from podctl.listing import ServerRow, server_row
from podctl.live import follow_pod


class ServerFailed(ClientError):
    """A model server is not in the state that was asked for, and will not get there by itself."""


async def until_ready(client: PodctlClient, pod: str, name: str) -> AsyncIterator[ServerRow]:
    """Give a model server's row now and after each change, until it is ready.

    Raises ``ServerFailed`` with the reason and the end of its log, ``Rejected`` for an unknown server.
    """
    async for row, server, _ in _states(client, pod, name):
        yield row
        if server.state == "ready":
            return
        if server.failure is not None:
            tail = f"\nThe end of its log:\n{server.failure.log_tail}" if server.failure.log_tail else ""
            raise ServerFailed(
                f"model server {name} on pod {pod} failed ({server.failure.type}): {server.failure.message}. "
                f"{server.failure.advice}{tail}"
            )
        if server.finished or server.stop is not None:
            raise ServerFailed(
                f"model server {name} on pod {pod} is {row.state.replace('_', ' ')}: somebody stopped it"
            )


async def until_stopped(client: PodctlClient, pod: str, name: str) -> AsyncIterator[tuple[ServerRow, GpuPodState]]:
    """Give a model server's row, and its pod, now and after each change, until its stop is verified.

    Raises ``ServerFailed`` if its GPU memory did not come back.
    """
    async for row, server, state in _states(client, pod, name):
        yield row, state
        if server.finished:
            return
        if server.state == "memory_unexplained":
            raise ServerFailed(f"model server {name} on pod {pod}: {row.detail}")


async def _states(
    client: PodctlClient, pod: str, name: str
) -> AsyncIterator[tuple[ServerRow, ModelServer, GpuPodState]]:
    before: ServerRow | None = None
    async for state in follow_pod(client, pod):
        server = state.server(name)
        row = server_row(state, server)
        if row != before:
            before = row
            yield row, server, state
    raise ServerFailed(f"pod {pod} was removed")


def launch_of(state: GpuPodState, name: str) -> str:
    """Return the launch id of a server's newest launch.

    Raises Rejected: ``server_not_found`` (says what there is), ``not_launched`` (says what it waits for).
    """
    server = state.server(name)
    if server.launch_id is None:
        raise Rejected("not_launched", f"model server {name!r} has no log yet: {detail(state, server) or server.state}")
    return server.launch_id
