"""A worker is killed while a server is being adopted: it becomes one of the pod's once, and is not touched."""

from collections.abc import Callable
from pathlib import Path

import pytest
from temporalio.client import Client

from domain.gpu.catalog import Catalog
from domain.gpu.commands import AdoptServer
from domain.gpu.request import start_request
from podctl.processes import free_ports
from simulator.api import MachineConfig, SimulatedMachine, simulate
from tests.activity.simulator_harness import ask, shell
from tests.chaos.support import MODEL, Hook, count, eventually, site


@pytest.mark.parametrize("point", ["adopt.before-process", "adopt.before-reply"])
async def test_a_worker_killed_in_the_middle_of_an_adoption(
    client: Client, unique: Callable[[str], str], tmp_path: Path, point: str
) -> None:
    async with simulate(tmp_path / "machine", [MachineConfig(name=unique("adopted"))]) as [machine]:
        await _adopt_with_a_kill(client, machine, tmp_path, point)


async def _adopt_with_a_kill(client: Client, machine: SimulatedMachine, folder: Path, point: str) -> None:
    port = free_ports(1)[0]
    start = f"setsid vllm serve {MODEL} --port {port} > server.log 2>&1 < /dev/null & echo $!"
    pid = int((await shell(machine, start))[1])

    async def healthy() -> bool:
        return (await ask(machine, "GET", "/health", port=port))[0] == 200

    await eventually(healthy, "the server that somebody else started serves")
    before = {one.pid for one in await machine.processes() if one.role != "other"}
    async with site(client, machine, folder / "workers") as told:

        async def looked_at() -> bool:
            return (await told.pod()).inventory is not None

        await eventually(looked_at, "the machine was looked at")
        hook = Hook(machine, point).set()
        command = AdoptServer(request=start_request(Catalog(), MODEL, "coder"), pid=pid, port=port, gpus=(0,))
        await told.client.execute_pod(told.pod_name, command, by="ann")
        await hook.reached()
        told.workers[-1].kill()
        told.start_worker()
        hook.release()
        server = await told.server("coder", "ready")
        assert (server.pid, server.counter) == (pid, 1)
        assert {one.pid for one in await machine.processes() if one.role != "other"} == before
        assert count(await told.events(told.pod_workflow), server="coder")["server_adopted"] == 1
        await told.stop_server("coder")
        await told.server("coder", "stopped")
        assert [one for one in await machine.processes() if one.role != "other"] == []
