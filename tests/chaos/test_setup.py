"""A worker dies in the middle of a setup's step, and for a while there is none: the step goes on, and was done once."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from temporalio.client import Client

from domain.gpu.commands import StartSetup
from domain.gpu.setup import Setup
from simulator.api import MachineConfig, simulate
from tests.chaos.support import Hook, Site, eventually, site


async def completed(one: Site) -> Setup:
    async def there() -> Setup | None:
        setup = (await one.pod()).setup
        assert setup is None or setup.state != "failed", setup
        return setup if setup is not None and setup.state == "completed" else None

    return await eventually(there, "the setup is completed")


def uv_calls(one: Site, words: str) -> int:
    return sum(call.startswith(words) for call in (one.machine.folder / "uv.log").read_text().splitlines())


@contextlib.asynccontextmanager
async def dead_while_uv_installs(client: Client, name: str, folder: Path) -> AsyncIterator[tuple[Site, Hook]]:
    """A pod whose only worker was killed while uv, which waits at the hook, installs."""
    async with (
        simulate(folder / "machines", [MachineConfig(name=name)]) as [machine],
        site(client, machine, folder) as one,
    ):
        await one.held_by(one.pod_workflow, "watch_pod", one.workers[-1])
        hook = Hook(machine, "uv.install").set()
        await one.client.execute_pod(one.pod_name, StartSetup(), by="ann")
        await hook.reached()
        one.workers[-1].kill()
        yield one, hook


async def test_a_worker_that_is_killed_while_uv_installs_is_replaced_and_uv_ran_once(
    client: Client, tmp_path: Path
) -> None:
    async with dead_while_uv_installs(client, "killed", tmp_path) as (one, hook):
        worker = one.start_worker()
        await one.held_by(one.pod_workflow, "setup_step", worker)
        hook.release()
        setup = await completed(one)
        assert [uv_calls(one, words) for words in ("pip compile", "venv", "pip install")] == [1, 1, 1]
        assert one.launches(one.pod_name, "setup-install") == [f"1-1-{setup.identity}"]


async def test_a_step_ends_while_there_is_no_worker_at_all_and_its_result_is_found(
    client: Client, tmp_path: Path
) -> None:
    async with dead_while_uv_installs(client, "alone", tmp_path) as (one, hook):
        hook.release()

        async def ended() -> bool:
            [launch] = one.launches(one.pod_name, "setup-install")
            return (one.launch_folder(f"{one.pod_name}/setup-install/{launch}") / "ended.json").exists()

        await eventually(ended, "the step ends by itself")
        one.start_worker()
        await completed(one)
        assert uv_calls(one, "pip install") == 1
