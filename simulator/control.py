"""How a machine process is told what to do: one JSON object in, one out, over a socket in the machine's folder."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from simulator.folder import SimulationError

_NAME = "control.sock"
#: Bytes of one line, such as settings with a long login output.
_LINE_LIMIT = 2**24


class ControlServer:
    """Listens in ``folder`` while its context is entered; ``obey`` gets the order and its arguments."""

    def __init__(self, folder: Path, obey: Callable[[str, dict[str, Any]], Awaitable[object]]) -> None:
        self._path = folder / _NAME
        self._obey = obey

    async def __aenter__(self) -> None:
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        _with_short_path(self._path, listener.bind)
        self._path.chmod(0o600)
        self._server = await asyncio.start_unix_server(self._answer, sock=listener, limit=_LINE_LIMIT)

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._server.close()
        self._path.unlink(missing_ok=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = json.loads(await reader.readline())
            try:
                reply = {"result": await self._obey(request["order"], request["arguments"])}
            except SimulationError as error:
                reply = {"error": str(error)}
            writer.write(json.dumps(reply).encode() + b"\n")
        finally:
            writer.close()  # whatever happened: whoever asked would wait for ever


async def tell(folder: Path, order: str, **arguments: object) -> Any:  # noqa: ANN401 - JSON is anything
    """Give an order to the machine in ``folder`` and return what it answers; raises SimulationError."""
    caller = socket.socket(socket.AF_UNIX)
    try:
        _with_short_path(folder / _NAME, caller.connect)
    except (FileNotFoundError, ConnectionRefusedError):
        caller.close()
        raise SimulationError(f"no machine is being simulated from {folder}") from None
    reader, writer = await asyncio.open_unix_connection(sock=caller, limit=_LINE_LIMIT)
    try:
        writer.write(json.dumps({"order": order, "arguments": arguments}).encode() + b"\n")
        line = await reader.readline()
    finally:
        writer.close()
    if not line:
        raise SimulationError(f"the machine in {folder} ended before it answered {order!r}")
    reply = json.loads(line)
    if "error" in reply:
        raise SimulationError(reply["error"])
    return reply["result"]


def _with_short_path(path: Path, use: Callable[[str], object]) -> None:
    """Call ``use`` with a path of the socket that fits the 108 bytes that an address has."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        use(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)
