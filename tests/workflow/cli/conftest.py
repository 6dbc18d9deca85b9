"""A command line with folders of its own, and a worker on the queue that it uses."""

from collections.abc import AsyncIterator, Callable

import pytest
from temporalio.client import Client

import worker
from podctl.client import PodctlClient
from podctl.paths import PodctlPaths
from remote.ssh import SshPool
from simulator.api import SimulatedMachine
from tests.workflow.cli.support import CommandLine


@pytest.fixture
def podctl_without_worker(client: Client, paths: PodctlPaths) -> CommandLine:
    """podctl for the test run's server; nobody works there unless another fixture says so."""
    return CommandLine(client.service_client.config.target_host, paths)


@pytest.fixture
async def working(client: Client, pool: SshPool) -> AsyncIterator[PodctlClient]:
    """A worker in this process on the queue that podctl uses, and a client of the same server."""
    async with worker.build_worker(client, pool):
        yield PodctlClient(client)


@pytest.fixture
def podctl(podctl_without_worker: CommandLine, working: PodctlClient) -> CommandLine:
    """podctl for the test run's server, where a worker works."""
    assert working
    return podctl_without_worker


@pytest.fixture
async def gpu_pod(podctl: CommandLine, machine: SimulatedMachine, unique: Callable[[str], str]) -> AsyncIterator[str]:
    """The name of a simulated machine that was added, and is active."""
    name = unique("pod")
    await podctl("pods", "add", name, machine.ssh_command, "--accept-host-key", machine.fingerprint)
    yield name
    await machine.reachable()
    await podctl("pods", "remove", name, "--lost")
