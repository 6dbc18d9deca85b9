"""A local port that leads to a model server on a pod, for as long as somebody wants it.

The listener stays for the whole time. Each local connection gets a channel on the SSH connection that there is; one
that was lost is made anew, and new local connections wait for it. A server that was launched again is followed: it has
another port perhaps, and another key always.

```
NotReady        the model server is in no state to be connected to; says which one and what to do
```
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Self

import asyncssh
from temporalio.service import RPCError

from domain.gpu.models import GpuPodState, ModelServer, shown_state
from domain.gpu.schedule import detail
from podctl.client import ClientError, PodctlClient
from podctl.live import follow_pod
from remote.errors import RemoteError, Unreachable
from remote.podlet import Podlet
from remote.ssh import SshPool
from remote.ssh_keys import Passphrases

#: Seconds that a new local connection waits for a lost SSH connection to come back.
PATIENCE = 30.0
#: Seconds before it is looked again at a pod that could not be followed.
_FOLLOW_AGAIN = 5.0
_CHUNK = 65_536


class NotReady(ClientError):
    """The model server cannot be connected to in the state that it is in."""


@dataclass(frozen=True)
class Endpoint:
    """Where one launch of a model server listens on its machine, and what it takes to use it."""

    launch_id: str
    host: str
    port: int
    api_key: str | None
    served_name: str | None


class Tunnel:
    """A listener on this machine's loopback; use ``open_tunnel``."""

    def __init__(self, client: PodctlClient, pod: str, name: str, pool: SshPool, tell: Callable[[str], None]) -> None:
        self._client = client
        self._pod = pod
        self._name = name
        self._pool = pool
        self._podlet = Podlet(pool)
        self._tell = tell
        self.port = 0

    async def start(self, port: int) -> Self:
        """Find the server and listen. Raises ``NotReady``, ``Rejected``, ``RemoteError``, and OSError for the port."""
        state = await self._client.pod(self._pod)
        server = _ready(state, self._name)
        self.address = await self._client.pod_address(self._pod)
        self.endpoint = await self._look_up(server)
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    @property
    def environment(self) -> dict[str, str]:
        """What OpenAI's clients read."""
        return {
            "OPENAI_BASE_URL": f"http://127.0.0.1:{self.port}/v1",
            "OPENAI_API_KEY": self.endpoint.api_key or "none",  # they refuse to start without one
            "OPENAI_MODEL": self.endpoint.served_name or "",
        }

    async def keep(self) -> None:
        """Keep the SSH connection up and follow the server, telling what changes; never ends by itself."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_connection())
            group.create_task(self._follow_server())

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()

    async def _look_up(self, server: ModelServer) -> Endpoint:
        found = await self._podlet.call(self.address, "connection", {"id": server.launch_id})
        return Endpoint(launch_id=server.launch_id or "", **found)

    async def _keep_connection(self) -> None:
        lost = waiting = False
        while True:
            try:
                connection = await self._pool.connection(self.address)
            except RemoteError as error:
                if not waiting:
                    self._tell(f"{error}; new connections wait for it")
                lost = waiting = True
                await asyncio.sleep(max(0.2, error.retry_after if isinstance(error, Unreachable) else PATIENCE / 10))
                continue
            if lost:
                self._tell(f"pod {self._pod} is back")
            waiting = False
            await connection.wait_closed()
            lost = True
            self._tell(f"the connection to pod {self._pod} was lost; making it anew")

    async def _follow_server(self) -> None:
        told = "ready"
        while True:
            try:
                async for state in follow_pod(self._client, self._pod):
                    told = await self._take_in(state, told)
                raise NotReady(f"pod {self._pod} was removed")
            except RPCError:
                # The tunnel needs no Temporal; what becomes of the server is heard when it is back.
                await asyncio.sleep(_FOLLOW_AGAIN)

    async def _take_in(self, state: GpuPodState, told: str) -> str:
        server = state.server(self._name)
        shown = shown_state(state, server)
        if shown == "ready" and server.launch_id != self.endpoint.launch_id:
            self.address = await self._client.pod_address(self._pod)
            with contextlib.suppress(RemoteError):
                self.endpoint = await self._look_up(server)
                self._tell(
                    f"{self._name} was started anew (launch {server.launch_id}): the tunnel leads to it, but its key "
                    f"is another one. Fetch the environment again: podctl connect {self._name} --pod {self._pod}"
                )
        elif shown not in {told, "unreachable"}:
            # Of an unreachable machine the SSH connection itself tells.
            self._tell(f"{self._name} is {shown.replace('_', ' ')}{_because(state, server)}")
        return shown

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            remote_reader, remote_writer = await self._open_channel()
        except (RemoteError, asyncssh.Error) as error:
            self._tell(f"a connection to {self._name} failed: {error}")
            writer.transport.abort()
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pass_on(reader, remote_writer))
                group.create_task(_pass_on(remote_reader, writer))
        except* (OSError, asyncssh.Error):
            writer.transport.abort()  # half an answer must not look like a whole one
        finally:
            remote_writer.close()
            writer.close()

    async def _open_channel(self) -> tuple[asyncssh.SSHReader[bytes], asyncssh.SSHWriter[bytes]]:
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while True:
            try:
                connection = await self._pool.connection(self.address)
                return await connection.open_connection(self.endpoint.host, self.endpoint.port)
            except asyncssh.ChannelOpenError:
                if not connection.is_closed():
                    raise
            except (Unreachable, OSError, asyncssh.Error) as error:
                pause = max(0.2, error.retry_after if isinstance(error, Unreachable) else 0.0)
                if asyncio.get_running_loop().time() + pause > deadline:
                    raise
                await asyncio.sleep(pause)


@contextlib.asynccontextmanager
async def open_tunnel(
    client: PodctlClient,
    pod: str,
    name: str,
    *,
    port: int = 0,
    tell: Callable[[str], None],
    passphrases: Passphrases | None = None,
) -> AsyncIterator[Tunnel]:
    """Give a tunnel to a model server from a local ``port`` (0: a free one); ``tell`` hears what becomes of it.

    Raises as ``Tunnel.start`` does.
    """
    pool = SshPool(passphrases=passphrases)
    try:
        tunnel = await Tunnel(client, pod, name, pool, tell).start(port)
        try:
            yield tunnel
        finally:
            tunnel.close()
    finally:
        await pool.close()


def _ready(state: GpuPodState, name: str) -> ModelServer:
    server = state.server(name)
    shown = shown_state(state, server)
    if shown in {"ready", "unhealthy"}:
        return server
    what = f"model server {name} on pod {state.name} is {shown.replace('_', ' ')}{_because(state, server)}"
    if server.finished:
        raise NotReady(f"{what}. Start it: podctl start {server.model} --name {name} --pod {state.name}")
    raise NotReady(f"{what}. Wait until it is ready: podctl list --pod {state.name}, podctl logs {name} -f")


def _because(state: GpuPodState, server: ModelServer) -> str:
    why = detail(state, server)
    return f": {why}" if why else ""


async def _pass_on(
    reader: asyncio.StreamReader | asyncssh.SSHReader[bytes], writer: asyncio.StreamWriter | asyncssh.SSHWriter[bytes]
) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
