"""What people do while no worker runs takes effect when one comes, as it would have with one."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from temporalio.client import Client

from domain.ids import task_workflow_id
from domain.task.commands import PostMessage
from domain.task.models import TaskInput, TaskState
from domain.task.plan_file import read_plan
from podctl.client import NoWorker, PodctlClient, new_command_id
from tests.chaos.support import WorkerProcess, count, eventually, kill

SIGNALS = 5_000
PLAN = "workstreams: [{id: docs, title: Docs, executor: signal}]"


async def test_signals_sent_before_a_worker_came_are_taken_one_after_the_other(
    client: Client, task_queue: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    podctl, task_id = PodctlClient(client, task_queue), unique("unattended")
    await podctl.create_task(
        TaskInput(
            task_id=task_id,
            title="Unattended",
            by="ann",
            command_id=new_command_id(),
            spec="Do it.",
            plan=read_plan(PLAN, "plan of the test"),
        )
    )
    for name, payload in (
        ("approve-spec", {}),
        ("approve-plan", {}),
        ("workstream-result", {"workstream": "docs", "status": "completed", "result": "written"}),
        ("approve-review", {}),
    ):
        await client.get_workflow_handle(task_workflow_id(task_id)).signal(name, {"by": "ann", **payload})

    worker = WorkerProcess(client.service_client.config.target_host, task_queue, tmp_path)
    try:

        async def completed() -> TaskState | None:
            state = await podctl.task(task_id)
            return state if state.phase == "completed" else None

        await eventually(completed, "the task is completed")
    finally:
        kill(worker.process)
    events = (await podctl.log(task_workflow_id(task_id))).events
    happened = count(events)
    for once in ("spec_approved", "plan_approved", "workstream_started", "workstream_completed", "review_approved"):
        assert happened[once] == 1


async def test_thousands_of_signals_that_gathered_are_taken_in_one_after_the_other(
    client: Client, task_queue: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    """More than a workflow task can carry in the two seconds that Temporal gives it."""
    podctl, task_id = PodctlClient(client, task_queue), unique("flooded")
    await podctl.create_task(TaskInput(task_id=task_id, title="Flooded", by="ann", command_id=new_command_id()))
    handle = client.get_workflow_handle(task_workflow_id(task_id))
    ids = [f"c-{number:04}" for number in range(SIGNALS)]
    waiting = iter(ids)

    async def send() -> None:
        for command_id in waiting:
            await handle.signal("message", {"by": "ann", "content": command_id, "command_id": command_id})

    await asyncio.gather(*(send() for _ in range(20)))
    worker = WorkerProcess(client.service_client.config.target_host, task_queue, tmp_path)
    try:
        # What is sent while they are taken in comes after them.
        await eventually(lambda: _answered(podctl, task_id, "last"), "a command is answered")
    finally:
        kill(worker.process)
    events = (await podctl.log(task_workflow_id(task_id))).events
    posted = [event.command_id for event in events if event.type == "message_posted"]
    assert sorted(posted[:-1]) == ids
    assert posted[-1] == "last"


async def _answered(podctl: PodctlClient, task_id: str, command_id: str) -> bool:
    try:
        await podctl.execute_task(task_id, PostMessage(content="at last"), by="ann", command_id=command_id)
    except NoWorker:
        return False
    return True


async def test_command_that_is_cancelled_while_no_worker_answers_is_cancelled(
    client: Client, task_queue: str, unique: Callable[[str], str]
) -> None:
    podctl, task_id = PodctlClient(client, task_queue), unique("unanswered")
    task = TaskInput(task_id=task_id, title="Unanswered", by="ann", command_id=new_command_id())
    await podctl.create_task(task)
    command = asyncio.create_task(podctl.execute_task(task_id, PostMessage(content="hello"), by="ann"))
    await asyncio.sleep(0)
    command.cancel()
    with pytest.raises(asyncio.CancelledError):
        await command
