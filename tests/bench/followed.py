"""A pod as a client sees it that follows it, as ``podctl start`` does; and model servers started and stopped on it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from domain.gpu.catalog import Catalog
from domain.gpu.commands import StartServer, StopServer
from domain.gpu.models import GpuPodState, ModelServer
from domain.gpu.request import start_request
from podctl.client import PodctlClient
from podctl.live import follow_pod

_MODEL = "bench/pretend"
_BY = "bench"
#: Seconds until something that does not come is a failure.
_PATIENCE = 120.0


class FollowedPod:
    """The newest state that the client has heard of."""

    def __init__(self, client: PodctlClient, name: str) -> None:
        self._client = client
        self.name = name
        self._state: GpuPodState | None = None
        self._news = asyncio.Condition()

    async def start(self, server: str) -> ModelServer:
        """Start a model server and return when the client has heard that it is ready."""
        before = self._state.servers.get(server) if self._state else None
        launches = before.counter if before else 0
        command = StartServer(request=start_request(Catalog(), _MODEL, server))
        await self._client.execute_pod(self.name, command, by=_BY)
        _, ready = await self.until(
            server, lambda seen: seen.counter > launches and (seen.state == "ready" or seen.finished)
        )
        if ready.failure is not None:
            raise RuntimeError(f"{server} did not start: {ready.failure.message}")
        return ready

    async def stop(self, server: str, grace: float) -> float:
        """Stop a model server; return the seconds until the client has heard that nothing is left of it."""
        asked = time.perf_counter()
        await self._client.execute_pod(self.name, StopServer(name=server, grace=grace), by=_BY)
        heard, _ = await self.until(server, lambda seen: seen.finished)
        return heard - asked

    async def until(self, server: str, holds: Callable[[ModelServer], bool]) -> tuple[float, ModelServer]:
        """Return when the client heard of a state of the server that fulfils ``holds``, and that state."""

        def found() -> ModelServer | None:
            seen = self._state.servers.get(server) if self._state else None
            return seen if seen is not None and holds(seen) else None

        async with asyncio.timeout(_PATIENCE), self._news:
            while (seen := found()) is None:
                await self._news.wait()
            return time.perf_counter(), seen

    async def follow(self) -> None:
        """Take in every state, for as long as this runs."""
        async for state in follow_pod(self._client, self.name):
            async with self._news:
                self._state = state
                self._news.notify_all()


@asynccontextmanager
async def followed(client: PodctlClient, name: str) -> AsyncIterator[FollowedPod]:
    """Follow a pod while the context lasts."""
    pod = FollowedPod(client, name)
    async with asyncio.TaskGroup() as group:
        following = group.create_task(pod.follow())
        yield pod
        following.cancel()
