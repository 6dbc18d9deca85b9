"""What follows a task as it happens, in a terminal and in a pipe, until it is over or until Ctrl-C."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client

import worker
from podctl.client import PodctlClient
from remote.ssh import SshPool
from tests.workflow.cli.support import CommandLine
from tests.workflow.support import eventually

PLAN = "workstreams: [{id: only, title: Only, executor: signal}]\n"


@pytest.fixture
async def task(podctl: CommandLine, unique: Callable[[str], str], tmp_path: Path) -> str:
    name = unique("task")
    for file, text in (("spec.md", "do it"), ("plan.yaml", PLAN)):
        (tmp_path / file).write_text(text)
    files = ("--spec", str(tmp_path / "spec.md"), "--plan", str(tmp_path / "plan.yaml"))
    await podctl("task", "create", "A title", "--id", name, *files, "--gates", "spec=auto,plan=auto")
    return name


async def complete(podctl: CommandLine, task: str) -> None:
    await podctl("signal", "workstream-result", task, "only")
    await podctl("signal", "approve-review", task)


async def test_events_are_followed_until_the_task_is_over(podctl: CommandLine, task: str) -> None:
    async with podctl.started("events", task, "-f", "-o", "json") as following:
        await following.line("workstream_started")
        await complete(podctl, task)
        done = await following.ended()
    assert done.status == 0
    types = [json.loads(line)["type"] for line in done.output.splitlines()]
    assert "workstream_completed" in types
    assert types[-1] == "phase_changed"
    shown = await podctl("events", task, "-o", "json")
    assert shown.output.endswith(done.output)


async def test_ctrl_c_leaves_the_task_alone_and_says_how_to_look_again(podctl: CommandLine, task: str) -> None:
    for command, again in (
        (("watch", task), f"podctl watch {task}"),
        (("events", task, "-f"), f"podctl events {task} --follow"),
    ):
        async with podctl.started(*command) as following:
            await following.line("workstream_started")
            following.interrupt()
            done = await following.ended()
        assert done.status == 130
        assert again in done.errors
        assert "Traceback" not in done.errors
    assert (await podctl.json("task", "show", task))["phase"] == "workstream_execution"


async def test_watch_gives_programs_a_state_a_line(podctl: CommandLine, task: str) -> None:
    async with podctl.started("watch", task, "-o", "json") as watching:
        first = json.loads(await watching.line())
        assert first["task_id"] == task
        await complete(podctl, task)
        done = await watching.ended()
    states = [json.loads(line) for line in done.output.splitlines()]
    assert states[-1]["phase"] == "completed"
    assert states[-1]["waits_for"] == []


async def test_watch_shows_a_terminal_the_task_as_it_is(podctl: CommandLine, task: str) -> None:
    async with podctl.on_terminal("watch", task) as watching:
        await watching.shows("in progress")
        await complete(podctl, task)
        await watching.shows("completed")
        assert await watching.ended() == 0


async def test_without_a_worker_what_people_say_is_recorded_and_processed_later(
    podctl_without_worker: CommandLine,
    unique: Callable[[str], str],
    tmp_path: Path,
    client: Client,
    pool: SshPool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    podctl = podctl_without_worker
    monkeypatch.setattr("podctl.client.ANSWER_TIMEOUT", 0.5)
    name = unique("task")
    spec = tmp_path / "spec.md"
    spec.write_text("do it")
    await podctl("task", "create", "Later", "--id", name, "--spec", str(spec))

    async def listed() -> list[dict[str, Any]]:
        return [row for row in await podctl.json("task", "list") if row["task"] == name]

    [row] = await eventually(listed, "the server's list has it")
    assert (row["phase"], row["waits_for"]) == ("spec_clarification", ["a worker takes it up: podctl up"])
    said = await podctl("signal", "approve-spec", name)
    assert f"approving the spec of task {name} (Later): revision 1, digest " in said.output
    assert "recorded, not processed yet (is a worker running? podctl status)" in said.output
    assert (await podctl.json("task", "show", name))["title"] == "Later"
    assert "no worker has taken it up" in (await podctl("events", name)).errors

    async def is_approved() -> bool:
        return (await PodctlClient(client).task(name)).spec.approval is not None

    async with worker.build_worker(client, pool):
        await eventually(is_approved, "the approval is processed")
        approval = (await podctl.json("task", "show", name))["spec"]["approval"]
    assert approval["revision_named"] is True


async def test_names_are_completed_from_the_server_and_the_cache(
    podctl: CommandLine, task: str, gpu_pod: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cli.complete import complete_pod, complete_server, complete_task

    await podctl("start", "tiny/pretend", "--name", "one")
    await podctl("list")
    for name, value in podctl.environment.items():
        monkeypatch.setenv(name, value)
    with monkeypatch.context() as patient:
        patient.setattr("cli.complete.PATIENCE", 60.0)
        # Not fewer letters: others' tasks are on the server, too.
        assert await asyncio.to_thread(complete_task, task[:12]) == [task]
    assert complete_pod("pod-") == [gpu_pod]
    assert complete_server("o") == ["one"]
    assert complete_server("x") == []
    monkeypatch.setenv("PODCTL_CONFIG_DIR", str(podctl.paths.data))
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    assert complete_pod("") == []
    assert complete_server("") == []
    assert await asyncio.to_thread(complete_task, "") == []
