"""The simulator as a person uses it: one command in the foreground, another that breaks the machine."""

import asyncio
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from simulator import main, process_table
from simulator.api import SimulatedMachine, SimulationError
from tests.activity.simulator_harness import PATIENCE, connected, served, shell


class _Foreground:
    """``python -m simulator run`` and what it printed until it was up."""

    def __init__(self, process: asyncio.subprocess.Process, lines: list[str], folder: Path) -> None:
        self.process = process
        self.lines = lines
        self.folder = folder
        self.machine = SimulatedMachine(folder / "sim")


@pytest.fixture
async def foreground(tmp_path: Path) -> AsyncIterator[_Foreground]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", "-m", "simulator", "--folder", str(tmp_path), "run", "--name", "sim", "--gpus", "2"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    lines: list[str] = []
    while not lines or "Ctrl-C" not in lines[-1]:
        line = await asyncio.wait_for(process.stdout.readline(), PATIENCE)
        assert line, "it ended before it was up"
        lines.append(line.decode().rstrip())
    yield _Foreground(process, lines, tmp_path)
    if process.returncode is None:
        process.terminate()
    await asyncio.wait_for(process.wait(), PATIENCE)


async def _fault(foreground: _Foreground, what: str, value: str | None = None) -> str:
    return await asyncio.to_thread(main.fault, foreground.folder, "sim", what, value)


async def test_it_prints_the_commands_to_use_and_says_that_it_is_a_simulation(foreground: _Foreground) -> None:
    machine = foreground.machine
    assert "simulated" in foreground.lines[0]
    assert f"  {machine.ssh_command}" in foreground.lines
    [add] = [line for line in foreground.lines if "podctl pods add" in line]
    assert shlex.split(add) == [
        *("podctl", "pods", "add", "sim", machine.ssh_command, "--accept-host-key", machine.fingerprint)
    ]
    assert (await shell(machine, "nvidia-smi -L | wc -l"))[1].strip() == "2"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_ctrl_c_and_term_end_everything_on_it(foreground: _Foreground, number: signal.Signals) -> None:
    await shell(foreground.machine, "setsid -f sleep 6000 > /dev/null 2>&1 < /dev/null")
    processes = await foreground.machine.processes()
    assert processes
    foreground.process.send_signal(number)
    assert await asyncio.wait_for(foreground.process.wait(), PATIENCE) == 0
    assert not [process for process in processes if process_table.is_alive(process.pid, process.start_time)]


async def test_faults_of_the_network_and_the_machine(foreground: _Foreground) -> None:
    machine = foreground.machine
    async with connected(machine) as connection:
        assert "cut" in await _fault(foreground, "drop")
        await asyncio.wait_for(connection.wait_closed(), PATIENCE)
    assert "for 0.2 s" in await _fault(foreground, "unreachable", "0.2")
    assert (await asyncio.wait_for(shell(machine, "echo back"), PATIENCE))[1] == "back\n"
    assert "until" in await _fault(foreground, "refuse")
    assert "reachable" in await _fault(foreground, "reachable")
    boot, fingerprint = machine.boot, machine.fingerprint
    assert "boot identity" in await _fault(foreground, "reboot")
    assert machine.boot != boot
    said = await _fault(foreground, "host-key")
    assert machine.fingerprint in said
    assert machine.fingerprint != fingerprint


async def test_faults_of_model_servers(foreground: _Foreground) -> None:
    assert "0.1" in await _fault(foreground, "slow-load", "0.1")
    await _fault(foreground, "set", "seconds_from_engine_death_to_exit=0.1")
    async with served(foreground.machine) as server:
        await server.ready()
        assert "SIGSTOP" in await _fault(foreground, "hang", "org/tiny")
        assert "SIGCONT" in await _fault(foreground, "resume")
        assert "SIGKILL" in await _fault(foreground, "crash")
        assert await server.ended() == 0
    async with served(foreground.machine) as server:
        await server.ready()
        assert "engine lives on" in await _fault(foreground, "kill-root")
        assert await server.ended() == -signal.SIGKILL
        assert await server.pids("engine")
    await _fault(foreground, "reboot")
    assert "out_of_memory" in await _fault(foreground, "out-of-memory")
    async with served(foreground.machine) as server:
        assert await server.ended() == 1
    assert "none" in await _fault(foreground, "healthy")


@pytest.mark.parametrize(
    ("name", "what", "value", "said"),
    [
        ("sim", "explode", None, "there are drop, unreachable"),
        ("other", "drop", None, "no simulated machine 'other'.*there are sim"),
        ("sim", "drop", "5", "drop takes no value"),
        ("sim", "unreachable", "soon", "a number of seconds is needed, not 'soon'"),
        ("sim", "set", "speed", "NAME=VALUE"),
        ("sim", "set", "speed=1", "settings: speed"),
        ("sim", "crash", None, "no engine of any model server runs on sim"),
    ],
)
async def test_what_cannot_be_done_is_refused(
    foreground: _Foreground, name: str, what: str, value: str | None, said: str
) -> None:
    with pytest.raises(SimulationError, match=said):
        await asyncio.to_thread(main.fault, foreground.folder, name, what, value)


async def test_a_machine_that_has_ended_says_so(foreground: _Foreground) -> None:
    foreground.process.terminate()
    await asyncio.wait_for(foreground.process.wait(), PATIENCE)
    with pytest.raises(SimulationError, match="no machine is being simulated"):
        await _fault(foreground, "drop")
