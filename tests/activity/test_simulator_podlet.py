"""The podlet on a simulated machine, over SSH: what it finds, starts and stops there."""

import asyncio
import contextlib
import itertools
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from simulator.api import Gpu, MachineConfig, Settings, SimulatedMachine, simulate
from tests.activity.simulator_harness import PATIENCE, ask, connected, eventually, metric

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
    assert inventory["driver"] == "570.00"
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


@contextlib.asynccontextmanager
async def _served(machine: SimulatedMachine, identity: str, **settings: object) -> AsyncIterator[None]:
    """Launch a model server, and stop it in the end."""
    environment = {f"PRETEND_VLLM_{name.upper()}": json.dumps(value) for name, value in settings.items()}
    assert (await _result(machine, **{**_launch(machine, identity), "environment": environment}))["created"]
    try:
        yield
    finally:
        await _result(machine, verb="stop", id=identity, grace=0)


@contextlib.asynccontextmanager
async def _watched(
    machine: SimulatedMachine, identity: str, **pace: object
) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """Watch; give what is told of one server, changes and beats alike."""

    async def told(process: asyncssh.SSHClientProcess[str]) -> AsyncIterator[dict[str, Any]]:
        async for text in process.stdout:
            line = json.loads(text) if text.startswith('{"podlet": 1') else {"launches": []}
            for launch in line["launches"]:
                if launch["id"] == identity:
                    yield launch

    async with connected(machine) as connection:
        process = await connection.create_process("python3 -I podlet.py")
        process.stdin.write(json.dumps({"verb": "watch", "interval": 0.05, "beat": 0.2, **pace}) + "\n")
        yield told(process)


async def _first(told: AsyncIterator[dict[str, Any]], **wanted: object) -> dict[str, Any]:
    """Return the first that is told with these values."""
    async with asyncio.timeout(PATIENCE):
        async for launch in told:
            if all(launch.get(name) == value for name, value in wanted.items()):
                return launch
    raise AssertionError(f"the watch ended before {wanted}")


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "with a request"])
async def test_a_stopped_engine_is_found_behind_a_good_health(machine: SimulatedMachine, busy: bool) -> None:
    pace = {"canary_every": 0.5, "canary_timeout": 0.5, "canary_retry": 0.1}
    identity = f"pod/{'busy' if busy else 'idle'}/1"
    async with _served(machine, identity, load_seconds=0.2), _watched(machine, identity, **pace) as told:
        await _first(told, readiness="ready", healthy=True)
        key = (machine.folder / f"home/.podctl/launches/{identity}/api_key").read_text()
        await machine.signal_servers("engine", signal.SIGSTOP)
        body = {"model": "org/m", "prompt": "x", "max_tokens": 5}
        request = asyncio.create_task(ask(machine, "POST", "/v1/completions", body, key)) if busy else None
        hung = await _first(told, readiness="ready", healthy=False)
        assert hung["unhealthy_reason"] == "3 completions in a row had no answer"
        assert (await ask(machine, "GET", "/health"))[0] == 200
        await machine.signal_servers("engine", signal.SIGCONT)
        await _first(told, readiness="ready", healthy=True)
        if request:
            assert (await request)[0] == 200


async def test_an_engines_death_is_told_before_its_server_ends(machine: SimulatedMachine) -> None:
    # Sooner than health is asked for when nothing happens: two seconds after it was asked for the last time.
    log = machine.folder / "home/.podctl/launches/pod/dies/1/output.log"
    async with (
        _served(machine, "pod/dies/1", load_seconds=0.2, seconds_from_engine_death_to_exit=1.5),
        _watched(machine, "pod/dies/1") as told,
    ):
        await _first(told, readiness="ready", healthy=True)
        before = _health_requests(log)

        async def asked() -> bool:
            return _health_requests(log) > before

        await eventually(asked, "its health is asked for")
        await machine.signal_servers("engine", signal.SIGKILL)
        await _first(told, healthy=False, unhealthy_reason="/health answered 503", exit=None)


def _health_requests(log: Path) -> int:
    return log.read_text().count("GET /health")


async def test_a_load_that_stalls_falls_silent_though_its_log_grows(machine: SimulatedMachine) -> None:
    async with (
        _served(machine, "pod/stalls/1", load_seconds=0.2, stall_loading=True),
        _watched(machine, "pod/stalls/1") as told,
    ):
        sizes = []
        async with asyncio.timeout(PATIENCE):
            async for launch in told:
                if (launch["silent_seconds"] or 0) > 2:
                    sizes.append(launch["log_size"])
                if len(set(sizes)) > 1:
                    break
        assert launch["stage"] == "load"


async def test_a_slow_download_and_a_slow_load_are_progress(machine: SimulatedMachine) -> None:
    settings = {"download_seconds": 2, "load_seconds": 2, "shards": 20}
    async with _served(machine, "pod/slow/1", **settings), _watched(machine, "pod/slow/1") as told:
        await _first(told, stage="download")
        silent = []
        async with asyncio.timeout(PATIENCE):
            async for launch in told:
                silent.append(launch["silent_seconds"] or 0)
                if launch["readiness"] == "ready":
                    break
        assert sum(later < earlier for earlier, later in itertools.pairwise(silent)) > 1, silent


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


async def test_a_killed_engine_is_an_unhealthy_server_and_then_an_exit_0_that_nobody_asked_for(
    machine: SimulatedMachine,
) -> None:
    async with _served(machine, "pod/ends/1", load_seconds=0.2), _watched(machine, "pod/ends/1") as told:
        await _first(told, readiness="ready", healthy=True)
        await machine.signal_servers("engine", signal.SIGKILL)
        dying = await _first(told, readiness="ready", healthy=False)
        assert dying["unhealthy_reason"] == "/health answered 503"
        ended = await _first(told, id="pod/ends/1", state="exited")
        assert (ended["exit"]["code"], ended["exit"]["signal"], ended["stop_requested"]) == (0, None, False)


async def test_a_term_that_is_swallowed_during_start_up_is_no_lost_stop(machine: SimulatedMachine) -> None:
    hook = machine.hooks / "vllm.loading"
    hook.touch()
    environment = {"PRETEND_VLLM_SWALLOW_FIRST_TERM": "true"}
    await _result(machine, **{**_launch(machine, "pod/swallows/1"), "environment": environment})

    async def is_loading() -> bool:
        return hook.with_name("vllm.loading.reached").exists()

    await eventually(is_loading, "it loads")
    stopped = await _result(machine, verb="stop", id="pod/swallows/1", grace=60)
    assert (stopped["state"], stopped["exit"]["signal"], stopped["killed"]) == ("stopped", None, 0)
    hook.unlink()
    assert [process.role for process in await machine.processes() if process.role != "other"] == []


async def test_a_client_that_stays_connected_does_not_hold_up_a_stop(machine: SimulatedMachine) -> None:
    settings = {"load_seconds": 0.2, "hang_on_term": "client_connected", "tokens_per_second": 50}
    async with _served(machine, "pod/clings/1", **settings), _watched(machine, "pod/clings/1") as told:
        await _first(told, readiness="ready", healthy=True)
        key = (machine.folder / "home/.podctl/launches/pod/clings/1/api_key").read_text()
        body = {"model": "org/m", "prompt": "x", "max_tokens": 10_000, "ignore_eos": True}
        client = asyncio.create_task(ask(machine, "POST", "/v1/completions", body, key))

        async def is_running() -> bool:
            return await metric(machine, "num_requests_running") >= 1

        await eventually(is_running, "the request runs")
        stopped = await _result(machine, verb="stop", id="pod/clings/1", grace=3600)
        assert (stopped["state"], stopped["killed"], stopped["ports_closed"]) == ("stopped", 1, True)
        await asyncio.gather(client, return_exceptions=True)
