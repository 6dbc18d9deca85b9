"""Record the histories that tests/replay replays, from a real run: ``python tools/record_histories.py``.

Before the first release a change to the workflows may record them anew. Afterwards never: each release adds its own.
"""

import asyncio
import shutil
from collections.abc import Callable
from datetime import timedelta
from importlib import resources
from pathlib import Path

from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from domain.gpu.commands import PodInput
from domain.gpu.ssh_target import parse_ssh
from domain.ids import gpu_pod_workflow_id, task_workflow_id
from domain.task.models import TaskInput, TaskState
from domain.task.plan_file import read_plan
from podctl.client import PodctlClient
from podctl.embedded import DYNAMIC_CONFIGURATION, temporal_program
from podctl.live import follow_pod, follow_task
from remote.ssh import SshPool
from simulator.api import MachineConfig, Settings, simulate
from worker import build_worker
from workflows.plugin import project_plugin
from workflows.search_attributes import SEARCH_ATTRIBUTES

#: A fixed place: it stands in the recorded histories.
FOLDER = Path("/tmp/podctl-recording")  # noqa: S108 - made anew, and nothing else is read from it
HISTORIES = Path(__file__).parent.parent / "tests" / "replay" / "histories"
TASK = "kitchen-timer"
POD = "sim"


async def record() -> None:
    """Carry the demonstration's task from wish to completed, and write down what Temporal recorded."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    arguments = [word for setting in DYNAMIC_CONFIGURATION for word in ("--dynamic-config-value", setting)]
    settings = Settings(load_seconds=0.3, tokens_per_second=400)
    async with (
        await WorkflowEnvironment.start_local(
            identity="recording",
            plugins=[project_plugin()],
            search_attributes=SEARCH_ATTRIBUTES,
            dev_server_existing_path=str(temporal_program()),
            dev_server_extra_args=arguments,
            dev_server_startup_timeout=timedelta(seconds=60),
        ) as environment,
        simulate(FOLDER, [MachineConfig(name=POD, settings=settings)]) as [machine],
    ):
        pool = SshPool()
        client = PodctlClient(environment.client)
        async with build_worker(environment.client, pool):
            await client.register_pod(
                PodInput(
                    name=POD,
                    ssh=parse_ssh(machine.ssh_command),
                    host_key=machine.host_key,
                    by="ann",
                    command_id="register",
                )
            )
            await _carry_out(client)
        await pool.close()
        for name, workflow_id in (("task-pod", task_workflow_id(TASK)), ("gpu-pod", gpu_pod_workflow_id(POD))):
            await _write(environment.client, workflow_id, HISTORIES / f"{name}.json")
    shutil.rmtree(FOLDER)


async def _carry_out(client: PodctlClient) -> None:
    files = resources.files("demo")
    plan = read_plan(files.joinpath("plan.yaml").read_text(encoding="utf-8"), "plan.yaml")
    spec = files.joinpath("spec.md").read_text(encoding="utf-8")
    title = "A leaflet about kitchen timers"
    await client.create_task(TaskInput(task_id=TASK, title=title, by="ann", command_id="create", spec=spec, plan=plan))
    await client.signal_task(TASK, "approve-plan", {"by": "ann", "comment": "too early: this one is refused"})
    await client.signal_task(TASK, "approve-spec", {"by": "ann", "revision": 1})
    await client.signal_task(TASK, "approve-plan", {"by": "ann", "revision": 1})
    await _until(client, lambda task: task.review.revision > 0)
    await client.signal_task(TASK, "approve-review", {"by": "ann", "comment": "well written"})
    await _until(client, lambda task: task.final)
    async for pod in follow_pod(client, POD):
        if all(server.finished for server in pod.servers.values()):
            return


async def _until(client: PodctlClient, reached: Callable[[TaskState], bool]) -> None:
    async for task in follow_task(client, TASK):
        if reached(task):
            return
    raise RuntimeError("the task ended before it was reached")


async def _write(client: Client, workflow_id: str, path: Path) -> None:
    history = await client.get_workflow_handle(workflow_id).fetch_history()
    await asyncio.to_thread(path.write_text, history.to_json() + "\n", encoding="utf-8")
    print(f"{path.name}: {len(history.events)} events")


if __name__ == "__main__":
    asyncio.run(record())
