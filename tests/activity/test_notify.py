"""The notify hook as a real program: what it is given, how it fails, and that nothing of it is left."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from activities.notify import ENVIRONMENT, call_hook
from podctl.processes import ProcessIdentity
from tests.workflow.support import eventually

TEXT = json.dumps({"task": "t1", "preview": "Ünï 'quoted' $HOME"})


def script(folder: Path, text: str) -> str:
    path = folder / "hook"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return str(path)


async def test_it_gets_the_item_its_arguments_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    seen = tmp_path / "seen.json"
    program = (
        "import json, os, sys; "
        "json.dump([sys.argv[2:], sys.stdin.read(), dict(os.environ), os.getcwd()], open(sys.argv[1], 'w'))"
    )
    assert await call_hook([sys.executable, "-c", program, str(seen), "$(touch x); *", ""], TEXT) == ""
    arguments, text, environment, folder = json.loads(seen.read_text())
    assert arguments == ["$(touch x); *", ""]
    assert text == TEXT
    assert environment.keys() <= {*ENVIRONMENT, "LC_CTYPE"}  # Python's own addition
    assert folder == str(Path.home())


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("exit 0", ""),
        ("exec 0<&-; exit 0", ""),
        ("echo no such channel >&2; exit 3", "the notify hook failed: exit code 3 (no such channel)"),
        ("head -c 3000000 /dev/zero | tr '\\0' x >&2; echo; echo end >&2; exit 1", "exit code 1"),
        ("kill -9 $$", "the notify hook failed: ended by signal 9"),
    ],
)
async def test_how_it_ended_is_told(tmp_path: Path, text: str, error: str) -> None:
    said = await call_hook([script(tmp_path, text)], TEXT)
    assert said == error or (error and error in said and len(said) < 3_000)


async def test_a_program_that_is_not_there_or_may_not_be_run_is_named(tmp_path: Path) -> None:
    assert await call_hook(["/no/such/program"], TEXT) == (
        "the notify hook /no/such/program cannot be started: No such file or directory"
    )
    path = tmp_path / "data"
    path.write_text("x")
    assert "Permission denied" in await call_hook([str(path)], TEXT)


async def test_one_that_takes_too_long_is_killed_with_what_it_started(tmp_path: Path) -> None:
    hook = script(tmp_path, f"trap '' TERM; sleep 1000 & echo $! > {tmp_path}/child; sleep 1000")
    assert await call_hook([hook], TEXT, limit=3.0) == "the notify hook took longer than 3 s and was killed"
    await gone(tmp_path / "child")


async def test_a_long_text_waits_for_a_hook_that_does_not_read_and_holds_up_nobody(tmp_path: Path) -> None:
    calling = asyncio.create_task(call_hook([script(tmp_path, "sleep 1000")], "x" * 1_000_000, limit=1.0))
    await asyncio.sleep(0)
    await eventually(lambda: asyncio.sleep(0, result=not calling.done()), "others have their turn meanwhile")
    assert await calling == "the notify hook took longer than 1 s and was killed"


async def test_a_long_text_arrives_whole(tmp_path: Path) -> None:
    count = tmp_path / "count"
    assert await call_hook([script(tmp_path, f"sleep 0.1; wc -c > {count}")], "x" * 1_000_000) == ""
    assert int(count.read_text()) == 1_000_000


async def test_what_it_leaves_running_is_killed(tmp_path: Path) -> None:
    hook = script(tmp_path, f"sleep 1000 & echo $! > {tmp_path}/child")
    assert await call_hook([hook], TEXT) == ""
    await gone(tmp_path / "child")


async def test_a_call_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    calling = asyncio.create_task(call_hook([script(tmp_path, f"echo $$ > {tmp_path}/child; sleep 1000")], TEXT))

    async def runs() -> bool:
        return (tmp_path / "child").exists() and bool((tmp_path / "child").read_text().strip())

    await eventually(runs, "the hook runs")
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    await gone(tmp_path / "child")


async def gone(file: Path) -> None:
    """Wait until the process whose number is in ``file`` is no more."""
    number = int(await asyncio.to_thread(file.read_text))

    async def no_more() -> bool:
        return ProcessIdentity.of(number) is None

    await eventually(no_more, f"process {number} is gone")
