"""A worker dies while a notify hook runs: it may have told somebody, so it is not called again, and that is said."""

from collections.abc import Callable
from pathlib import Path

from temporalio.client import Client

from domain.task.models import TaskConfig, TaskInput, TaskState
from podctl.client import PodctlClient, new_command_id
from tests.chaos.support import WorkerProcess, eventually, kill

ITEM = "approve/spec/1/0"


async def test_a_hook_whose_worker_dies_is_not_called_again(
    client: Client, task_queue: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    podctl, task_id = PodctlClient(client, task_queue), unique("told")
    calls, go = tmp_path / "calls", tmp_path / "go"
    program = f"echo call >> {calls}; while [ ! -e {go} ]; do sleep 0.05; done"
    config = TaskConfig(notify=("/bin/sh", "-c", program))
    await podctl.create_task(
        TaskInput(task_id=task_id, title="Told", by="ann", command_id=new_command_id(), spec="x", config=config)
    )
    address = client.service_client.config.target_host
    first = WorkerProcess(address, task_queue, tmp_path)

    async def called() -> bool:
        return calls.exists()

    await eventually(called, "the hook is called")
    first.kill()
    second = WorkerProcess(address, task_queue, tmp_path)
    try:

        async def known() -> TaskState | None:
            state = await podctl.task(task_id)
            return state if state.inbox[ITEM].notified_at else None

        state = await eventually(known, "the lost call is known of")
        assert "nobody saw how the notify hook ended, and it is not called again" in state.inbox[ITEM].notify_error
        await podctl.signal_task(task_id, "approve-spec", {"by": "ann"})

        async def planning() -> bool:
            return (await podctl.task(task_id)).phase == "planning"

        await eventually(planning, "the task goes on")
    finally:
        go.touch()
        kill(second.process)
    assert calls.read_text().splitlines().count("call") <= 2  # the second, if any, is for what waits in planning
