"""Calls to the podlet: one SSH exec, one JSON request in, JSON lines out.

The command that reaches the remote shell is constant text; everything a user wrote travels inside the JSON. The podlet
is uploaded once per content hash, so two versions of podctl can use one machine.
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import zlib
from collections.abc import AsyncIterator, Mapping
from functools import cache
from importlib import resources
from typing import Any

import asyncssh

from domain.gpu.models import PodAddress
from remote.errors import PodletError, PodletUnusable, Unreachable
from remote.ssh import SshPool

#: The podlet's protocol: lines that do not begin so come from a banner or a chatty shell and are skipped.
LINE_PREFIX = b'{"podlet": 1'
_MISSING = 66
_NO_PYTHON = 67
_STDERR_LIMIT = 2_000
#: Seconds for an upload, a few ten kilobytes.
_UPLOAD_TIMEOUT = 60.0
#: Connections to one pod before it counts as one that takes no calls at all.
_CONNECTIONS_MAXIMUM = 16

Line = dict[str, Any]


class Podlet:
    """The podlet of every pod that the pool can reach."""

    def __init__(self, pool: SshPool) -> None:
        self._pool = pool

    async def call(self, address: PodAddress, verb: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the result of one podlet call, its stream lines dropped.

        Raises ``Unreachable`` (also when the connection is lost before the result arrived: what the call did is then
        not known), ``PodletError`` and what ``SshPool.connection`` raises.
        """
        async with self.stream(address, verb, request) as lines:
            async for line in lines:
                if line["type"] == "result":
                    result: dict[str, Any] = line["result"]
                    return result
        raise Unreachable(address.pod, f"the connection was lost during {verb}")

    @contextlib.asynccontextmanager
    async def stream(
        self, address: PodAddress, verb: str, request: Mapping[str, Any]
    ) -> AsyncIterator[AsyncIterator[Line]]:
        """Give the podlet's lines as they come, the result line last; leaving ends the call, not the launched work.

        Raises as ``call`` does; a podlet's error line is raised as ``PodletError``.
        """
        connection, process = await self._start(address)
        body = json.dumps({"root": address.root, **request, "verb": verb}).encode() + b"\n"
        try:
            yield self._lines(connection, address, verb, process, body)
        finally:
            process.close()

    async def _start(
        self, address: PodAddress
    ) -> "tuple[asyncssh.SSHClientConnection, asyncssh.SSHClientProcess[bytes]]":
        full: list[asyncssh.SSHClientConnection] = []
        while True:
            connection = await self._pool.connection(address, full)
            try:
                return connection, await connection.create_process(_start_command(), encoding=None)
            except asyncssh.ChannelOpenError as error:
                full.append(connection)
                # What tells a machine that is gone from one that only takes no more on this connection.
                if connection.is_closed() or len(full) == _CONNECTIONS_MAXIMUM:
                    raise Unreachable(address.pod, f"no channel could be opened: {error}") from error
            except (OSError, asyncssh.Error) as error:
                raise Unreachable(address.pod, f"no channel could be opened: {error}") from error

    async def _lines(
        self,
        connection: asyncssh.SSHClientConnection,
        address: PodAddress,
        verb: str,
        process: "asyncssh.SSHClientProcess[bytes]",
        body: bytes,
    ) -> AsyncIterator[Line]:
        uploaded = False
        while True:
            errors = asyncio.ensure_future(_read_errors(process))
            try:
                # A shell that found no podlet has gone before it read anything: its exit code says so, below.
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(body)
                async for line in _json_lines(process):
                    if line["type"] == "error":
                        raise PodletError(line.get("code", "failed"), f"pod {address.pod}: {line.get('message')}")
                    yield line
                    if line["type"] == "result":
                        return
                exit_status = (await process.wait()).exit_status
            except (OSError, asyncssh.Error) as error:
                raise Unreachable(address.pod, f"the connection was lost during {verb}: {error}") from error
            finally:
                errors.cancel()
                process.close()
            if exit_status == _MISSING and not uploaded:
                await _upload(connection, address)
                uploaded = True
                connection, process = await self._start(address)
                continue
            stderr = errors.result() if errors.done() and not errors.cancelled() else ""
            raise _ended_without_result(address, verb, exit_status, stderr)


def log_piece(line: Line) -> bytes:
    """Return what a line of type ``log`` carries."""
    return zlib.decompress(base64.b64decode(line["data"]))


async def _read_errors(process: "asyncssh.SSHClientProcess[bytes]") -> str:
    text = await process.stderr.read(_STDERR_LIMIT)
    return text.decode(errors="replace").strip()


async def _json_lines(process: "asyncssh.SSHClientProcess[bytes]") -> AsyncIterator[Line]:
    while raw := await process.stdout.readline():
        if raw.startswith(LINE_PREFIX) and raw.endswith(b"\n"):
            try:
                line = json.loads(raw)
            except ValueError:
                continue  # a shell's, that only begins like one of ours
            yield line


async def _upload(connection: asyncssh.SSHClientConnection, address: PodAddress) -> None:
    source, module = _source()
    # The size is checked before the rename: a connection lost half-way must not leave half a podlet under its name.
    script = (
        f'd="$HOME/.podctl/podlet"; t="$d/{module}.$$"; umask 077; mkdir -p "$d" && cat > "$t" && '
        f'[ "$(wc -c < "$t")" -eq {len(source)} ] && mv "$t" "$d/{module}.py"'
    )
    try:
        async with asyncio.timeout(_UPLOAD_TIMEOUT):
            process = await connection.create_process(_shell(script), encoding=None)
            # A shell that could make no folder has gone before it read anything: its exit code says so, below.
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(source)
                process.stdin.write_eof()
            done = await process.wait()
    except TimeoutError as error:
        raise Unreachable(address.pod, "the upload of the podlet took too long") from error
    except (OSError, asyncssh.Error) as error:
        raise Unreachable(address.pod, f"the connection was lost during the upload: {error}") from error
    if done.exit_status is None:
        raise Unreachable(address.pod, "the connection was lost during the upload")
    if done.exit_status != 0:
        stderr = done.stderr if isinstance(done.stderr, bytes) else b""
        raise PodletUnusable(
            "upload_failed",
            f"pod {address.pod}: the podlet could not be written to ~/.podctl/podlet: "
            f"{stderr.decode(errors='replace').strip()[-300:] or 'no reason given'}. Check space and permissions there",
        )


def _ended_without_result(address: PodAddress, verb: str, exit_status: int | None, stderr: str) -> Exception:
    if exit_status is None:
        return Unreachable(address.pod, f"the connection was lost during {verb}")
    if exit_status == _NO_PYTHON:
        return PodletUnusable(
            "no_python", f"pod {address.pod}: there is no python3 on PATH; podctl needs Python 3.8 or newer there"
        )
    detail = f": {stderr[-300:]}" if stderr else ""
    return PodletUnusable(
        "podlet_failed", f"pod {address.pod}: the podlet ended with exit code {exit_status} during {verb}{detail}"
    )


@cache
def _source() -> tuple[bytes, str]:
    """Return the podlet's source and the module name that its content gives it."""
    source = resources.files("podlet").joinpath("podlet.py").read_bytes()
    return source, f"podlet_{hashlib.sha256(source).hexdigest()[:16]}"


@cache
def _start_command() -> str:
    _, module = _source()
    # As a module, because only a module's compiled form is kept beside it: that halves the start, and a watch that is
    # made again after an outage starts on every machine at once.
    run = "import sys; sys.path.append(sys.argv[1]); sys.exit(__import__(sys.argv[2]).main())"
    return _shell(
        f'd="$HOME/.podctl/podlet"; [ -f "$d/{module}.py" ] || exit {_MISSING}; '
        f'command -v python3 >/dev/null || exit {_NO_PYTHON}; exec python3 -I -S -c "{run}" "$d" {module}'
    )


def _shell(script: str) -> str:
    """Return a command line that runs constant ``script`` by sh, whatever the login shell is."""
    if "'" in script:
        raise ValueError("a constant script holds no single quote")
    return f"exec /bin/sh -c '{script}'"
