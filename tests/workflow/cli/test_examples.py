"""The programs of docs/examples do what docs/programs.md says, against a real server."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from podctl.client import PodctlClient
from tests.workflow.cli.support import PATIENCE, CommandLine
from tests.workflow.support import Task

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "docs" / "examples"


@asynccontextmanager
async def running(podctl: CommandLine, folder: Path, *argv: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program as its user would, in a folder of his, with podctl on the path; ended with the context."""
    programs = folder / "bin"
    programs.mkdir()
    (programs / "podctl").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cli "$@"\n')
    (programs / "podctl").chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=folder,
        env={**os.environ, **podctl.environment, "PATH": path, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def says(process: asyncio.subprocess.Process, words: str) -> str:
    """Return the next line of the program's output with these words."""
    assert process.stdout
    seen = ""
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while line := (await process.stdout.readline()).decode():
                seen += line
                if words in line:
                    return line
    raise AssertionError(f"it has not said {words!r}, but:\n{seen}")


async def ends(process: asyncio.subprocess.Process) -> str:
    assert process.stdout
    async with asyncio.timeout(PATIENCE):
        rest = (await process.stdout.read()).decode()
        assert await process.wait() == 0, rest
    return rest


async def test_the_python_program(
    podctl: CommandLine, working: PodctlClient, unique: Callable[[str], str], tmp_path: Path
) -> None:
    name = unique("release")
    async with running(podctl, tmp_path, sys.executable, str(EXAMPLES / "release.py"), name) as program:
        await says(program, f"podctl signal approve-plan {name}")
        await podctl("signal", "approve-plan", name, "--as", "ann")
        asked = await says(program, f"podctl signal approve {name}")
        # What it tells people to type is what they type.
        await podctl(*asked.partition("podctl ")[2].split(), "--as", "ann")
        await says(program, f"podctl signal approve-review {name}")
        await podctl("signal", "approve-review", name, "--as", "ann")
        assert f"{name} is completed" in await ends(program)
    state = await Task(working, name).state()
    assert {ws_id: ws.completed_by for ws_id, ws in state.workstreams.items()} == {
        "write": "release.py",
        "publish": "release.py",
    }


async def test_the_shell_script(
    podctl: CommandLine, working: PodctlClient, unique: Callable[[str], str], tmp_path: Path
) -> None:
    name = unique("release")
    async with running(podctl, tmp_path, str(EXAMPLES / "release.sh"), name) as script:
        await says(script, f"podctl signal approve-plan {name}")
        await podctl("signal", "approve-plan", name, "--as", "ann")
        await says(script, f"podctl signal approve-review {name}")
        await podctl("signal", "approve-review", name, "--as", "ann")
        assert "task_completed" in await ends(script) or "completed" in (tmp_path / "result.json").read_text()
    state = await Task(working, name).state()
    assert state.phase == "completed"
    assert state.workstreams["write"].result
    assert state.workstreams["write"].result.artifacts == ("changelog.md",)


async def test_a_follower_ends_when_nobody_reads_it_any_more(podctl: CommandLine, unique: Callable[[str], str]) -> None:
    name = unique("task")
    await podctl("task", "create", "Nothing happens to it", "--id", name)
    for command in (("events", name, "--follow", "-o", "json"), ("watch", name), ("watch", name, "-o", "json")):
        async with podctl.started(*command) as program:
            await program.line(name)
            assert program.process.stdout
            # Closes our end of the pipe; asyncio's own reader has no other way.
            program.process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
            async with asyncio.timeout(PATIENCE):
                assert await program.process.wait() == 1
