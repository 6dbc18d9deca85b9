"""The root of a model server is killed and its engine lives on, as vLLM's does."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from temporalio.client import Client

from simulator.api import MachineConfig, simulate
from tests.chaos.support import Hook, site


@pytest.mark.parametrize("nvidia_smi", ["ok", "no_processes"])
async def test_orphaned_engine_is_ended_before_its_gpu_goes_to_the_next_in_the_queue(
    nvidia_smi: str, client: Client, unique: Callable[[str], str], tmp_path: Path
) -> None:
    async with (
        simulate(tmp_path, [MachineConfig(name=unique("orphan"))]) as [machine],
        site(client, machine, tmp_path) as made,
    ):
        await machine.settings(load_seconds=0.2, nvidia_smi=nvidia_smi)
        await made.start_server("first")
        first = await made.server("first", "ready")
        await made.start_server("second")
        await made.server("second", "pending")
        hook = Hook(machine, "stop.before-kill").set()
        await machine.signal_servers("api_server", signal.SIGKILL)

        await hook.reached()
        assert [process.role for process in await made.roles("api_server", "engine", "worker")] == ["engine", "worker"]
        assert await made.memory_used() > 0
        assert made.launches(made.pod_name, "second") == []
        hook.release()

        second = await made.server("second", "ready")
        assert second.plan is not None
        assert first.plan is not None
        assert second.plan.gpus == first.plan.gpus
        assert second.launch_id is not None
        assert made.record(second.launch_id)["memory_before"] == {second.plan.gpus[0]: 0}
        failed = await made.server("first", "failed")
        assert failed.failure is not None
        assert failed.failure.type == "killed"
        assert failed.stop_result is not None
        assert failed.stop_result.killed >= 2, "engine and worker"
        happened = [(event.type, event.payload.get("server")) for event in await made.events(made.pod_workflow)]
        order = [
            ("server_failed", "first"),
            ("server_stopped", "first"),
            ("lease_released", "first"),
            ("lease_granted", "second"),
            ("server_ready", "second"),
        ]
        assert [one for one in happened if one in order] == order
        await made.stop_and_leave_nothing("second")
