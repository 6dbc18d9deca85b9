"""A worker in this process on the test's own task queue, a client of it, and simulated machines to work on."""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest
from temporalio.client import Client

import worker
from podctl.client import PodctlClient
from remote.ssh import SshPool
from simulator.api import MachineConfig, SimulatedMachine, simulate
from simulator.models import Gpu
from tests.workflow.support import SimulatedPod, Tasks, register


@pytest.fixture(autouse=True)
def _workers_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # The watches of a test's pods last as long as its worker: waiting for them would only cost time.
    monkeypatch.setattr(worker, "GRACEFUL_SHUTDOWN", timedelta(0))


@pytest.fixture(autouse=True)
def _workers_may_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    # A worker that other tests leave little time to is no worker that is missing.
    monkeypatch.setattr("podctl.client.ANSWER_TIMEOUT", 20.0)


@pytest.fixture
async def pool() -> AsyncIterator[SshPool]:
    pool = SshPool()
    yield pool
    await pool.close()


@pytest.fixture
async def podctl(client: Client, pool: SshPool, task_queue: str) -> AsyncIterator[PodctlClient]:
    """A client whose task queue is served by a worker in this process."""
    async with worker.build_worker(client, pool, task_queue):
        yield PodctlClient(client, task_queue)


@pytest.fixture
def tasks(podctl: PodctlClient, unique: Callable[[str], str]) -> Tasks:
    return Tasks(podctl, unique)


@pytest.fixture(scope="module")
async def simulated(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SimulatedMachine]:
    """A machine with two GPUs for all tests of a module; use ``machine``."""
    async with simulate(tmp_path_factory.mktemp("machines"), [MachineConfig(name="sim", gpus=(Gpu(), Gpu()))]) as [one]:
        yield one


@pytest.fixture
async def machine(simulated: SimulatedMachine) -> AsyncIterator[SimulatedMachine]:
    """The module's machine, healthy at first; a reboot ends what the test left on it."""
    await simulated.settings(**{**MachineConfig(name="sim").settings.model_dump(), "load_seconds": 0.1})
    yield simulated
    await simulated.reachable()
    await simulated.reboot()


@pytest.fixture
async def pod(podctl: PodctlClient, machine: SimulatedMachine, unique: Callable[[str], str]) -> SimulatedPod:
    """The machine as a GPU pod of the test's own: another name, and a folder of its own on it."""
    return await register(podctl, machine, unique("pod"))
