"""The wire between clients and a machine's SSH server, which can be cut, frozen and drawn out.

Every connection runs through two pumps. Frozen, they move nothing in either direction and no end notices: what an
unreachable machine looks like. What was under way arrives when the machine is reachable again, as TCP would do it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Literal

from simulator.folder import listen

Outage = Literal["hang", "refuse"]


class Network:
    """A listener and the connections it accepted; ``serve`` is given the machine's end of each."""

    def __init__(self, listener: socket.socket, serve: Callable[[socket.socket], Awaitable[object]]) -> None:
        self._listener: socket.socket | None = listener
        self._address: tuple[str, int] = listener.getsockname()
        self._serve = serve
        self._passing = asyncio.Event()
        self._passing.set()
        self._accepting: asyncio.Task[None] | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._return: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Accept connections."""
        if self._listener is None:
            self._listener = listen(*self._address)
        if self._accepting is None:
            self._accepting = asyncio.create_task(self._accept(self._listener))

    async def drop(self) -> None:
        """Cut every connection with a reset."""
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    def unreachable(self, seconds: float | None, outage: Outage) -> None:
        """Let nothing through for ``seconds`` (None: until ``reachable``); ``refuse`` also refuses new connections."""
        self._passing.clear()
        self._stop_accepting()
        if outage == "refuse" and self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._return is not None:
            self._return.cancel()
            self._return = None
        if seconds is not None:
            self._return = asyncio.get_running_loop().call_later(seconds, self.reachable)

    def reachable(self) -> None:
        """Let everything through again."""
        if self._return is not None:
            self._return.cancel()
            self._return = None
        self._passing.set()
        self.start()

    async def stop(self) -> None:
        """Accept nothing any more and cut every connection."""
        self._stop_accepting()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await self.drop()

    def _stop_accepting(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            self._accepting = None

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(listener)
            connection = asyncio.create_task(self._connect(client))
            self._connections.add(connection)
            connection.add_done_callback(self._connections.discard)

    async def _connect(self, client: socket.socket) -> None:
        near, far = socket.socketpair()
        for end in (client, near, far):
            end.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server = asyncio.ensure_future(self._serve(far))
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(client, near))
                pumps.create_task(self._pump(near, client))
        except asyncio.CancelledError:
            # cut: a reset, not an orderly end
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raise
        finally:
            client.close()
            near.close()
            server.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(server, return_exceptions=True)

    async def _pump(self, source: socket.socket, target: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while True:
                await self._passing.wait()
                data = await loop.sock_recv(source, 65_536)
                await self._passing.wait()
                if not data:
                    break
                await loop.sock_sendall(target, data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
