"""Pods that only some workers can reach: everything done there goes to the workers of the pod's own task queue."""

from collections.abc import AsyncIterator, Callable, Collection

import asyncssh
import pytest
from temporalio.client import Client

import worker
from domain.gpu.commands import SetTaskQueue
from domain.gpu.models import PodAddress
from domain.task.commands import CancelTask
from podctl.client import PodctlClient
from remote.ssh import SshPool
from simulator.api import SimulatedMachine
from tests.workflow.support import SimulatedPod, Task, Tasks, eventually, history_types, register

PLAN = """
summary: run it
model_servers: []
workstreams:
  - id: work
    title: work
    executor: {type: command, pod: POD, argv: ARGV}
"""


@pytest.fixture
def key_queue(unique: Callable[[str], str]) -> str:
    """The queue of the workers that alone have the machine's key."""
    return unique("keys")


class Keyless(SshPool):
    """The connections of a process that has no key for anything."""

    async def connection(
        self, address: PodAddress, full: Collection[asyncssh.SSHClientConnection] = ()
    ) -> asyncssh.SSHClientConnection:
        ssh = address.ssh.model_copy(update={"identity_files": ("/no/such/key",), "identity_agent": "none"})
        return await super().connection(address.model_copy(update={"ssh": ssh}), full)


@pytest.fixture
async def key_worker(client: Client, key_queue: str) -> AsyncIterator[None]:
    """A worker on that queue."""
    pool = SshPool()
    async with worker.build_worker(client, pool, key_queue):
        yield
    await pool.close()


@pytest.fixture
async def keyless_podctl(client: Client, task_queue: str) -> AsyncIterator[PodctlClient]:
    """A client whose task queue is served by a worker that has no key."""
    pool = Keyless()
    async with worker.build_worker(client, pool, task_queue):
        yield PodctlClient(client, task_queue)
    await pool.close()


async def begun(tasks: Tasks, pod: str, argv: str) -> Task:
    task = await tasks.create(PLAN.replace("POD", pod).replace("ARGV", argv))
    await task.work_begins()
    return task


@pytest.mark.usefixtures("key_worker")
async def test_what_is_done_on_a_pod_is_done_by_the_workers_that_have_its_key(
    keyless_podctl: PodctlClient, machine: SimulatedMachine, unique: Callable[[str], str], key_queue: str
) -> None:
    podctl, tasks = keyless_podctl, Tasks(keyless_podctl, unique)
    pod = await register(podctl, machine, unique("pod"), key_queue)
    await pod.start("coder")
    await pod.server_is("coder", "ready")
    task = await begun(tasks, pod.name, "[sh, -c, 'echo done']")
    state = await task.reaches("review")
    result = state.workstreams["work"].result
    assert result is not None
    assert result.text == "done\n"
    # One activity to be told where it belongs, one that does it.
    assert (await history_types(podctl.temporal, task.workflow_id))["ACTIVITY_TASK_SCHEDULED"] == 2


@pytest.mark.usefixtures("key_worker")
async def test_a_run_is_stopped_by_the_workers_that_have_its_key(
    keyless_podctl: PodctlClient, machine: SimulatedMachine, unique: Callable[[str], str], key_queue: str
) -> None:
    podctl, tasks = keyless_podctl, Tasks(keyless_podctl, unique)
    pod = await register(podctl, machine, unique("pod"), key_queue)
    task = await begun(tasks, pod.name, "[sleep, '1000']")

    async def sleepers() -> list[int]:
        return [process.pid for process in await machine.processes() if process.title == "sleep 1000"]

    await eventually(sleepers, "it runs")
    await podctl.execute_task(task.id, CancelTask(reason="enough"), by="ann")

    async def gone() -> bool:
        return not await sleepers()

    await eventually(gone, "it was stopped")
    await task.reaches("cancelled")


@pytest.mark.usefixtures("key_worker")
async def test_a_pod_that_gets_another_queue_goes_on_with_its_workers(
    keyless_podctl: PodctlClient, machine: SimulatedMachine, unique: Callable[[str], str], key_queue: str
) -> None:
    podctl, tasks = keyless_podctl, Tasks(keyless_podctl, unique)
    pod = await register(podctl, machine, unique("pod"))
    state = await pod.until(lambda pod: pod.reachable is False, "nobody here has the key")
    assert "there is no key" in state.unreachable_reason
    task = await begun(tasks, pod.name, "[echo, done]")
    await podctl.execute_pod(pod.name, SetTaskQueue(task_queue=key_queue), by="ann")
    await pod.until(lambda pod: pod.reachable, "the other workers reach it")
    await task.reaches("review")


async def test_where_all_workers_have_the_key_a_run_is_one_activity(tasks: Tasks, pod: SimulatedPod) -> None:
    task = await begun(tasks, pod.name, "[echo, done]")
    await task.reaches("review")
    assert (await history_types(task.podctl.temporal, task.workflow_id))["ACTIVITY_TASK_SCHEDULED"] == 1
