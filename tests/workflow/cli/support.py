"""podctl as a person types it: in this process where only the words matter, as a program where signals and pipes do."""

import asyncio
import contextlib
import io
import json
import os
import pty
import re
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

from cli import output
from cli.main import app
from podctl.paths import PodctlPaths
from tests.workflow.support import eventually

PATIENCE = 60.0


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    status: int
    output: str
    errors: str

    @property
    def json(self) -> Any:  # noqa: ANN401 - whatever JSON holds
        return json.loads(self.output)


class CommandLine:
    """Gives commands to the test run's server, with folders of its own."""

    def __init__(self, address: str, paths: PodctlPaths) -> None:
        self.paths = paths
        self.environment = {"TEMPORAL_ADDRESS": address, "NO_COLOR": "1", **paths.environment()}

    async def __call__(self, *arguments: str, status: int = 0) -> Done:
        """Run a command in this process and check its exit status."""
        try:
            async with asyncio.timeout(PATIENCE):
                done = await asyncio.to_thread(self._run, arguments)
        except TimeoutError:
            raise AssertionError(f"{arguments} has not ended within {PATIENCE:.0f} s") from None
        assert done.status == status, f"{arguments}\n{done.output}\n{done.errors}"
        assert "/cli/output.py" not in done.errors  # a stack trace of ours; one in a server's log is to be shown
        assert "fault in podctl" not in done.errors, f"{arguments}\n{done.errors}"
        return done

    async def json(self, *arguments: str) -> Any:  # noqa: ANN401 - whatever JSON holds
        return (await self(*arguments, "-o", "json")).json

    @contextlib.asynccontextmanager
    async def started(self, *arguments: str) -> AsyncIterator["Program"]:
        """Run a command as a program of its own, ended at the latest with the context."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "cli",
            *arguments,
            env={**os.environ, **self.environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # Whoever runs the tests in the background has Ctrl-C ignored, which a program inherits.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
        )
        try:
            yield Program(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    @contextlib.asynccontextmanager
    async def on_terminal(self, *arguments: str, columns: int = 120) -> AsyncIterator["Terminal"]:
        """Run a command as a program of its own on a terminal, ended at the latest with the context."""
        ours, its = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli", *arguments),
            env={**os.environ, **self.environment, "TERM": "xterm", "COLUMNS": str(columns)},
            stdin=its,
            stdout=its,
            stderr=its,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
        )
        os.close(its)
        os.set_blocking(ours, False)
        try:
            yield Terminal(process, ours)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            os.close(ours)

    def _run(self, arguments: tuple[str, ...]) -> Done:
        out, errors = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        argv, sys.argv = sys.argv, ["podctl", *arguments]
        # The process's own environment stays as it is: C libraries look into it, in threads of the worker that runs
        # here too, and crash when it is changed under them.
        environment = mock.patch.object(os, "environ", {**os.environ, **self.environment})
        try:
            with environment, contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
                try:
                    status = output.run(app)
                except SystemExit as ended:
                    status = int(ended.code or 0)
        finally:
            sys.argv = argv
        return Done(status, *(text.buffer.getvalue().decode() for text in (out, errors)))


class Program:
    """A command that runs as a program of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self, containing: str = "") -> str:
        """Return the next line of its output that contains the text."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while line := (await self.process.stdout.readline()).decode():
                if containing in line:
                    return line
        assert self.process.stderr is not None
        raise AssertionError(f"no line with {containing!r}; it said: {(await self.process.stderr.read()).decode()}")

    async def error_line(self, containing: str = "") -> str:
        """Return the next line of its errors that contains the text."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            while line := (await self.process.stderr.readline()).decode():
                if containing in line:
                    return line
        raise AssertionError(f"no error line with {containing!r}")

    def interrupt(self) -> None:
        """Do what Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)

    async def ended(self) -> Done:
        """Wait for its end and return what was left to read."""
        async with asyncio.timeout(PATIENCE):
            out, errors = await self.process.communicate()
        assert self.process.returncode is not None
        return Done(self.process.returncode, out.decode(), errors.decode())


class Terminal:
    """A command that runs on a terminal."""

    def __init__(self, process: asyncio.subprocess.Process, descriptor: int) -> None:
        self.process = process
        self._descriptor = descriptor
        self._seen = bytearray()

    @property
    def text(self) -> str:
        """Everything that was ever shown, without what moves the cursor and gives colours."""
        # Nothing to read just now, or its end has been closed.
        with contextlib.suppress(OSError):
            while piece := os.read(self._descriptor, 1 << 16):
                self._seen.extend(piece)
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._seen.decode(errors="replace"))

    async def shows(self, words: str) -> None:
        """Wait until it shows ``words``."""

        async def seen() -> bool:
            return words in self.text

        try:
            await eventually(seen, f"the terminal shows {words!r}")
        except AssertionError as error:
            error.add_note(self.text)
            raise

    async def ended(self) -> int:
        """Wait for its end, reading what it still shows; return its exit status."""

        async def has_ended() -> bool:
            return bool(self.text) and self.process.returncode is not None

        await eventually(has_ended, "the program on the terminal has ended")
        assert self.process.returncode is not None
        return self.process.returncode
