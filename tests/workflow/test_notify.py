"""The notify hook of a live task: a real program, called by a real worker."""

import asyncio
import json
from pathlib import Path

from domain.task.commands import CancelTask
from domain.task.models import TaskConfig
from tests.workflow.support import PATIENCE, Tasks
from tests.workflow.test_task_pod import BY_SIGNAL


def hook(folder: Path, text: str) -> tuple[str, ...]:
    """Return a hook that runs ``text`` as a shell's; its first argument is the folder."""
    return ("/bin/sh", "-c", text, "hook", str(folder))


def told(folder: Path) -> list[str]:
    """Return the items that the hook was told of, in order."""
    file = folder / "told"
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line)["item"] for line in lines]


#: Notes what it is told, one line each.
NOTES = 'cat >> "$1/told"; echo >> "$1/told"'


async def test_each_thing_that_waits_is_told_once(tasks: Tasks, tmp_path: Path) -> None:
    task = await tasks.create(BY_SIGNAL, config=TaskConfig(notify=hook(tmp_path, NOTES)))
    await task.until(lambda state: state.inbox["approve/spec/1/0"].notified_at, "the hook was called")
    await task.ok("approve-spec")
    await task.until(lambda state: state.inbox["approve/plan/1/1"].notified_at, "the hook was called for the plan")
    await task.ok("message", content="how?", type="question")
    state = await task.until(lambda state: state.inbox["message/m-1"].notified_at, "the hook was called again")
    assert [item.notify_error for item in state.inbox.values()] == ["", ""]
    assert await asyncio.to_thread(told, tmp_path) == ["approve/spec/1/0", "approve/plan/1/1", "message/m-1"]
    assert (await task.event_types()).count("person_notified") == 3


async def test_a_hook_that_fails_is_shown_and_the_task_goes_on(tasks: Tasks, tmp_path: Path) -> None:
    failing = hook(tmp_path, f"{NOTES}; echo no route to the office >&2; exit 4")
    task = await tasks.create(BY_SIGNAL, config=TaskConfig(notify=failing))
    state = await task.until(lambda state: state.inbox["approve/spec/1/0"].notified_at, "the hook was called")
    error = "the notify hook failed: exit code 4 (no route to the office)"
    assert state.inbox["approve/spec/1/0"].notify_error == error
    await task.work_begins()
    state = await task.reaches("workstream_execution")
    failed = [event for event in await task.events() if event.type == "notify_failed"]
    assert failed[0].payload == {"item": "approve/spec/1/0", "error": error, "urgent": False}


async def test_what_is_decided_while_the_hook_runs_does_not_wait_for_it(tasks: Tasks, tmp_path: Path) -> None:
    task = await tasks.create(BY_SIGNAL, config=TaskConfig(notify=hook(tmp_path, f"{NOTES}; sleep 1000")))
    await task.work_begins()
    await task.podctl.execute_task(task.id, CancelTask(reason="enough"), by="ann")
    await task.reaches("cancelled")
    async with asyncio.timeout(PATIENCE):
        await task.handle.result()
