"""The podlet on a simulated machine, over SSH: what it finds, starts and stops there."""

import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from simulator.api import Gpu, MachineConfig, Settings, SimulatedMachine, simulate
from tests.activity.simulator_harness import connected

_PODLET = (Path(__file__).parents[2] / "podlet" / "podlet.py").read_bytes()


@pytest.fixture(scope="module")
async def machine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SimulatedMachine]:
    settings = Settings(load_seconds=0.2, tokens_per_second=1_000, login_output="Welcome")
    config = MachineConfig(name="one", gpus=(Gpu(), Gpu()), settings=settings)
    async with simulate(tmp_path_factory.mktemp("podlet"), [config]) as [one]:
        async with connected(one) as connection:
            await connection.run("cat > podlet.py", input=_PODLET, encoding=None)
        yield one


async def _podlet(machine: SimulatedMachine, **request: object) -> list[dict[str, Any]]:
    """Call the podlet; return its lines, ``watch`` until a server is ready."""
    lines: list[dict[str, Any]] = []
    async with connected(machine) as connection:
        process = await connection.create_process("python3 -I podlet.py")
        process.stdin.write(json.dumps(request) + "\n")
        async for text in process.stdout:
            if text.startswith('{"podlet": 1'):
                lines.append(json.loads(text))
                if lines[-1]["type"] == "change" and "ready" in [s["readiness"] for s in lines[-1]["launches"]]:
                    process.stdin.write_eof()
    return lines


async def _result(machine: SimulatedMachine, **request: object) -> dict[str, Any]:
    last = (await _podlet(machine, **request))[-1]
    assert last["type"] == "result", last
    result: dict[str, Any] = last["result"]
    return result


async def test_the_inventory_is_the_simulated_machines(machine: SimulatedMachine) -> None:
    inventory = await _result(machine, verb="inventory", vllm_version=True)
    assert inventory["boot"] == machine.boot
    assert [gpu["uuid"] for gpu in inventory["gpus"]] == [gpu.uuid for gpu in machine.gpus]
    assert inventory["driver"] == "570.00 (simulated)"
    assert inventory["vllm"] == {"program": f"{machine.folder}/bin/vllm", "version": "0.32.0+simulated"}


def _launch(machine: SimulatedMachine, identity: str) -> dict[str, Any]:
    return {
        "verb": "launch",
        "id": identity,
        "kind": "server",
        "argv": ["vllm", "serve", "org/m", "--host", "{loopback}", "--port", "8001"],
        "environment": {},
        "secrets": {},
        "workspace": None,
        "gpus": [{"uuid": machine.gpus[1].uuid, "share": 0.9}],
        "ports": [8001],
        "internal_ports": [20_000, 20],
        "api_key": True,
        "served_name": "org/m",
        "server": None,
    }


@pytest.mark.parametrize("orphaned", [False, True], ids=["orderly", "root killed"])
async def test_a_model_server_is_launched_watched_to_ready_and_stopped(
    machine: SimulatedMachine, orphaned: bool
) -> None:
    identity = f"pod/{'orphan' if orphaned else 'server'}/1"
    assert (await _result(machine, **_launch(machine, identity)))["created"] is True
    changes = await _podlet(machine, verb="watch", interval=0.05)
    launches = [launch for line in changes if line["type"] == "change" for launch in line["launches"]]
    assert [launch["readiness"] for launch in launches if launch["id"] == identity][-1] == "ready"
    assert (await machine.gpu_memory())[machine.gpus[1].uuid] > 0
    if orphaned:
        await machine.signal_servers("api_server", signal.SIGKILL)
    stopped = await _result(machine, verb="stop", id=identity, grace=5)
    assert stopped["state"] == "stopped"
    assert (stopped["processes_left"], stopped["gpu_processes_left"], stopped["ports_closed"]) == (0, 0, True)
    assert (await machine.gpu_memory())[machine.gpus[1].uuid] == 0
    assert [process.role for process in await machine.processes() if process.role != "other"] == []
    assert not any(path.exists() for path in _shared_memory(machine))


def _shared_memory(machine: SimulatedMachine) -> list[Path]:
    notes = [Path(note.read_text()) for note in (machine.folder / "shm").iterdir()]
    return [path for path in notes if path.name.startswith("psm_")]
