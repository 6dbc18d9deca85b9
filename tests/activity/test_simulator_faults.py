"""What can happen to a simulated machine: cuts, outages, reboots, other keys, and its end."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import pytest

from simulator import process_table
from simulator.api import MachineConfig, SimulatedMachine, SimulationError, simulate
from simulator.control import tell
from tests.activity.simulator_harness import PATIENCE, connected, eventually, shell

# detaches itself twice over: no parent, session or output ties it to whoever started it
_DETACH = "setsid -f sh -c 'sh -c \"exec sleep {seconds}\" &' > /dev/null 2>&1 < /dev/null"


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[SimulatedMachine]:
    async with simulate(tmp_path, [MachineConfig(name="one")]) as [one]:
        yield one


async def _running(machine: SimulatedMachine, title: str) -> list[tuple[int, int]]:
    return [(p.pid, p.start_time) for p in await machine.processes() if p.title == title]


async def test_dropped_connections_are_lost_and_their_commands_go_on(machine: SimulatedMachine) -> None:
    async with connected(machine) as connection:
        await connection.create_process("exec sleep 1000")
        await eventually(lambda: _running(machine, "sleep 1000"), "the command runs")
        await machine.drop_connections()
        await asyncio.wait_for(connection.wait_closed(), PATIENCE)
    assert await _running(machine, "sleep 1000")
    assert (await shell(machine, "echo back"))[1] == "back\n"


async def test_an_unreachable_machine_freezes_connections_and_answers_no_new_ones(machine: SimulatedMachine) -> None:
    async with connected(machine) as connection:
        process = await connection.create_process("cat")
        await machine.unreachable()
        process.stdin.write("during the outage\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connection.run("true"), 0.3)
        reader, writer = await asyncio.open_connection(machine.address, machine.port)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.2)
        await machine.reachable()
        assert await asyncio.wait_for(process.stdout.readline(), PATIENCE) == "during the outage\n"
        assert (await asyncio.wait_for(reader.readline(), PATIENCE)).startswith(b"SSH-2.0-podctl_simulation")
        writer.close()


async def test_an_outage_ends_by_itself(machine: SimulatedMachine) -> None:
    await machine.unreachable(0.3)
    assert (await asyncio.wait_for(shell(machine, "echo back"), PATIENCE))[1] == "back\n"


async def test_an_outage_can_refuse_new_connections(machine: SimulatedMachine) -> None:
    await machine.unreachable(None, "refuse")
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(machine.address, machine.port)
    await machine.reachable()
    assert (await shell(machine, "echo back"))[1] == "back\n"


async def test_a_reboot_kills_even_what_detached_itself_and_changes_the_boot_identity(
    machine: SimulatedMachine,
) -> None:
    before = machine.boot
    await machine.occupy_gpu(0, 5_000)
    async with connected(machine) as connection:
        await connection.run(_DETACH.format(seconds=2000))
        found = await eventually(lambda: _running(machine, "sleep 2000"), "the detached process runs")
        boot = await machine.reboot()
        await asyncio.wait_for(connection.wait_closed(), PATIENCE)
    assert boot == machine.boot != before
    assert not any(process_table.is_alive(*identity) for identity in found)
    assert await machine.processes() == []
    assert set((await machine.gpu_memory()).values()) == {0}
    _, out, _ = await shell(machine, "cat $PODLET_BOOT_FILE")
    assert out.strip() == boot


async def test_a_changed_host_key_is_seen_by_who_knew_the_old_one(machine: SimulatedMachine) -> None:
    known, before = machine.host_key, machine.fingerprint
    fingerprint = await machine.change_host_key()
    assert fingerprint == machine.fingerprint != before
    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        async with connected(machine, known):
            pass
    assert (await shell(machine, "echo new"))[1] == "new\n"


async def test_the_end_of_a_simulation_leaves_no_process_and_no_file_outside(tmp_path: Path) -> None:
    sockets = Path(tempfile.mkdtemp(prefix="podctl-"))
    async with simulate(tmp_path, [MachineConfig(name="one")]) as [machine]:
        await shell(machine, _DETACH.format(seconds=3000))
        environment = f"VLLM_RPC_BASE_PATH={sockets} PRETEND_VLLM_LOAD_SECONDS=600"
        await shell(machine, f"{environment} setsid -f vllm serve org/m > log 2>&1 < /dev/null")

        async def loading() -> bool:
            return any(process.role == "worker" for process in await machine.processes())

        await eventually(loading, "a worker loads")
        await eventually(lambda: _running(machine, "sleep 3000"), "the detached process runs")
        processes = await machine.processes()
        outside = [Path(note.read_text()) for note in (machine.folder / "shm").iterdir()]
        assert len(outside) == 2
    assert not [p for p in processes if process_table.is_alive(p.pid, p.start_time)]
    assert not [path for path in [*outside, sockets] if path.exists()]


async def test_machines_end_when_their_owner_is_killed(tmp_path: Path) -> None:
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "simulator.host", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert owner.stdin is not None
    assert owner.stdout is not None
    request = {"folder": str(tmp_path), "machines": [{"name": "one"}]}
    owner.stdin.write(json.dumps(request).encode() + b"\n")
    await owner.stdout.readline()
    machine = SimulatedMachine(tmp_path / "one")
    await shell(machine, _DETACH.format(seconds=4000))
    found = await eventually(lambda: _running(machine, "sleep 4000"), "the detached process runs")
    owner.kill()
    await owner.wait()

    async def gone() -> bool:
        return not any(process_table.is_alive(*identity) for identity in found)

    await eventually(gone, "the machine ended with its owner")


async def test_everything_ends_though_the_machine_process_itself_was_killed(tmp_path: Path) -> None:
    async with simulate(tmp_path, [MachineConfig(name="one")]) as [machine]:
        await shell(machine, _DETACH.format(seconds=5000))
        found = await eventually(lambda: _running(machine, "sleep 5000"), "the detached process runs")

        async def adopted() -> int | None:
            """Return the machine's process, once what started the program is gone."""
            stat = process_table.read(found[0][0])
            assert stat is not None
            return stat.parent if "simulator.host" in process_table.arguments(stat.parent) else None

        os.kill(await eventually(adopted, "the machine has adopted it"), signal.SIGKILL)
    assert not any(process_table.is_alive(*identity) for identity in found)
    with pytest.raises(SimulationError, match="no machine is being simulated"):
        await machine.processes()


async def test_a_machine_goes_on_in_its_folder_with_address_and_keys(tmp_path: Path) -> None:
    async with simulate(tmp_path, [MachineConfig(name="one")]) as [machine]:
        first = (machine.ssh_command, machine.fingerprint)
        boot = machine.boot
        await shell(machine, "echo kept > note")
    async with simulate(tmp_path, [MachineConfig(name="one")]) as [machine]:
        assert (machine.ssh_command, machine.fingerprint) == first
        assert machine.boot != boot
        assert (await shell(machine, "cat note"))[1] == "kept\n"


async def test_one_folder_is_simulated_once(tmp_path: Path) -> None:
    async with simulate(tmp_path, [MachineConfig(name="one")]):
        with pytest.raises(SimulationError, match="being simulated already"):
            async with contextlib.AsyncExitStack() as stack:
                await stack.enter_async_context(simulate(tmp_path, [MachineConfig(name="one")]))


async def test_an_unknown_setting_is_refused_by_name(machine: SimulatedMachine) -> None:
    with pytest.raises(SimulationError, match="load_second"):
        await machine.settings(load_second=1)


async def test_an_order_that_breaks_the_machine_is_answered(machine: SimulatedMachine) -> None:
    with pytest.raises(SimulationError, match="before it answered 'leak'"):
        await asyncio.wait_for(tell(machine.folder, "leak", gpu="first", mib=1), PATIENCE)
    assert await machine.processes() == []
