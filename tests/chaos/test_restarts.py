"""Model servers that are launched again, once, while workers die, connections break and machines reboot."""

import signal
from collections.abc import Callable
from pathlib import Path

from temporalio.client import Client

from domain.gpu.models import ModelServer
from simulator.api import Gpu, MachineConfig, simulate
from tests.chaos.support import Hook, Site, count, eventually, site


async def launch_ready(made: Site, counter: int) -> ModelServer:
    """Wait until the launch of that number is ready."""

    async def there() -> ModelServer | None:
        server = (await made.pod()).servers.get("coder")
        return server if server and (server.counter, server.state) == (counter, "ready") else None

    try:
        return await eventually(there, f"launch {counter} of coder is ready")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{await made.story(made.pod_workflow)}") from None


async def assert_launched_once_each(made: Site, launches: int) -> None:
    """Check that each launch of the server was one program, and that only the last one lives."""
    counters = [str(number + 1) for number in range(launches)]
    assert made.launches(made.pod_name, "coder") == counters
    assert [made.server_starts(f"{made.pod_name}/coder/{counter}") for counter in counters] == [1] * launches
    assert len(await made.roles("api_server")) == 1


async def test_worker_killed_between_failure_and_restart_launches_nothing_twice(
    client: Client, unique: Callable[[str], str], tmp_path: Path
) -> None:
    async with (
        simulate(tmp_path, [MachineConfig(name=unique("again"))]) as [machine],
        site(client, machine, tmp_path) as made,
    ):
        await machine.settings(load_seconds=0.2)
        await made.start_server("coder", restart="on-failure")
        await made.server("coder", "ready")
        verified = Hook(machine, "stop.before-reply").set()
        before_exec = Hook(machine, "launch.before-exec").set()
        await machine.signal_servers("api_server", signal.SIGKILL)
        # Its end is verified on the machine, and nobody answers for it.
        await verified.reached()
        made.workers[-1].kill()
        assert made.launches(made.pod_name, "coder") == ["1"]
        worker = made.start_worker()
        await made.reached_again(verified, worker, "coder", "restarting", "pending", "launching")
        verified.release()
        # By now its time may have come while nobody was there to launch it.
        await before_exec.reached()
        made.workers[-1].kill()
        made.start_worker()
        before_exec.release()

        await launch_ready(made, 2)
        await assert_launched_once_each(made, 2)
        happened = count(await made.events(made.pod_workflow), server="coder")
        assert (happened["server_failed"], happened["server_restarting"], happened["server_launching"]) == (1, 1, 2)
        assert happened["lease_granted"] == happened["lease_released"] + 1
        await made.stop_and_leave_nothing()


async def test_outage_while_it_waits_to_be_launched_again(
    client: Client, unique: Callable[[str], str], tmp_path: Path
) -> None:
    async with (
        simulate(tmp_path, [MachineConfig(name=unique("outage"))]) as [machine],
        site(client, machine, tmp_path) as made,
    ):
        await machine.settings(load_seconds=0.2)
        await made.start_server("coder", restart="on-failure")
        await made.server("coder", "ready")
        await machine.signal_servers("api_server", signal.SIGKILL)
        await made.server("coder", "restarting")
        await machine.unreachable(outage="refuse")
        await machine.drop_connections()

        async def due_and_away() -> bool:
            pod = await made.pod()
            return pod.reachable is False and pod.servers["coder"].state in {"pending", "launching"}

        # Its time has come, and it waits for the machine; nothing is concluded from its silence.
        await eventually(due_and_away, "the machine is known to be away, and the server is due")
        assert made.launches(made.pod_name, "coder") == ["1"]
        await machine.reachable()
        await launch_ready(made, 2)
        await assert_launched_once_each(made, 2)
        await made.stop_and_leave_nothing()


async def test_reboot_is_followed_by_one_launch_where_the_policy_says_always(
    client: Client, unique: Callable[[str], str], tmp_path: Path
) -> None:
    async with (
        simulate(tmp_path, [MachineConfig(name=unique("always"), gpus=(Gpu(), Gpu()))]) as [machine],
        site(client, machine, tmp_path) as made,
    ):
        await machine.settings(load_seconds=0.2)
        await made.start_server("coder", restart="always")
        await made.start_server("other", restart="on-failure")
        await made.server("coder", "ready")
        await made.server("other", "ready")
        await machine.reboot(seconds=1.0)
        made.workers[-1].kill()
        made.start_worker()
        again = await launch_ready(made, 2)
        assert again.restarts
        other = await made.server("other", "failed")
        assert other.failure is not None
        assert other.failure.type == "machine_rebooted"
        await assert_launched_once_each(made, 2)
        await made.stop_and_leave_nothing()
