"""The bad manners of vLLM that the pretend one has: by nature where vLLM has them by nature, else by settings."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from simulator import process_table
from simulator.api import MachineConfig, Process, Settings, SimulatedMachine, simulate
from tests.activity.simulator_harness import (
    MODEL,
    PATIENCE,
    PORT,
    ask,
    complete,
    eventually,
    metric,
    served,
)

_FAST = Settings(load_seconds=0.1, tokens_per_second=2_000, seconds_from_engine_death_to_exit=0.3)


@pytest.fixture(scope="module")
async def simulated(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SimulatedMachine]:
    async with simulate(tmp_path_factory.mktemp("manners"), [MachineConfig(name="one")]) as [one]:
        yield one


@pytest.fixture
async def machine(simulated: SimulatedMachine) -> SimulatedMachine:
    """A machine on which nothing runs, with fast and healthy settings."""
    await simulated.reboot()
    await simulated.settings(**_FAST.model_dump())
    for hook in simulated.hooks.iterdir():
        hook.unlink()
    return simulated


async def _alive(processes: list[Process]) -> list[str]:
    return [process.role for process in processes if process_table.is_alive(process.pid, process.start_time)]


async def _tree(machine: SimulatedMachine) -> list[Process]:
    return [process for process in await machine.processes() if process.role != "other"]


def _left_outside(machine: SimulatedMachine) -> list[Path]:
    return [path for note in (machine.folder / "shm").iterdir() if (path := Path(note.read_text())).exists()]


async def test_a_killed_root_leaves_engine_worker_memory_and_files(machine: SimulatedMachine) -> None:
    async with served(machine) as server:
        await server.ready()
        tree = await _tree(machine)
        await server.kill("api_server", signal.SIGKILL)
        assert await server.ended() == -signal.SIGKILL
        assert (await ask(machine, "GET", "/health"))[0] == 0
        assert await _alive(tree) == ["engine", "worker"]
        assert sum((await machine.gpu_memory()).values()) > 0
        await server.kill("engine", signal.SIGKILL)

        async def gone() -> bool:
            return not await _alive(tree)

        await eventually(gone, "the worker goes with its engine")
        assert sum((await machine.gpu_memory()).values()) == 0
        assert len(_left_outside(machine)) == 2


@pytest.mark.parametrize("role", ["engine", "worker"])
async def test_after_a_killed_engine_or_worker_health_is_503_and_the_exit_code_0(
    machine: SimulatedMachine, role: str
) -> None:
    await machine.settings(seconds_from_engine_death_to_exit=3.0)  # time enough to look
    async with served(machine) as server:
        await server.ready()
        await server.kill(role, signal.SIGKILL)

        async def unhealthy() -> bool:
            return (await ask(machine, "GET", "/health"))[0] == 503

        await eventually(unhealthy, "503")
        assert (await complete(machine, "x"))[0] == 500
        assert await server.ended() == 0
        assert "died unexpectedly" in server.log


async def test_a_stopped_engine_hangs_completions_while_health_is_200(machine: SimulatedMachine) -> None:
    async with served(machine) as server:
        await server.ready()
        await server.kill("engine", signal.SIGSTOP)
        hanging = asyncio.create_task(complete(machine, "x", max_tokens=5))

        async def taken() -> bool:
            return await metric(machine, "num_requests_running") == 1

        await eventually(taken, "the request is counted as running")
        assert (await ask(machine, "GET", "/health"))[0] == 200
        assert await metric(machine, "generation_tokens_total") == 0
        assert not hanging.done()
        await server.kill("engine", signal.SIGCONT)
        assert (await asyncio.wait_for(hanging, PATIENCE))[0] == 200


async def test_one_that_hangs_by_setting_never_completes(machine: SimulatedMachine) -> None:
    await machine.settings(hang=True)
    async with served(machine) as server:
        await server.ready()
        hanging = asyncio.create_task(complete(machine, "x"))

        async def taken() -> bool:
            return await metric(machine, "num_requests_running") == 1

        await eventually(taken, "the request is counted as running")
        await server.kill("api_server", signal.SIGTERM)
        assert await server.ended() == 0
        await asyncio.gather(hanging, return_exceptions=True)


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        ("out_of_memory", "CUDA out of memory"),
        ("kv_cache", "larger than the available KV cache memory"),
        ("gated_model", "gated repo"),
        ("missing_model", "is not a valid model identifier"),
        ("cuda_mismatch", "driver on your system is too old"),
        ("engine_init", "told to fail"),
    ],
)
async def test_failures_at_start_end_with_1_and_their_words(machine: SimulatedMachine, failure: str, said: str) -> None:
    async with served(machine, PRETEND_VLLM_START_FAILURE=failure) as server:
        assert await server.ended() == 1
        assert said in server.log
        assert "Engine core initialization failed" in server.log
    assert await _tree(machine) == []
    assert sum((await machine.gpu_memory()).values()) == 0


async def test_the_first_completion_can_kill_what_looked_healthy(machine: SimulatedMachine) -> None:
    await machine.settings(crash_after_requests=0)
    async with served(machine) as server:
        await server.ready()
        assert (await ask(machine, "GET", "/v1/models"))[0] == 200
        assert (await complete(machine, "x"))[0] == 500
        assert await server.ended() == 0


async def test_it_can_crash_by_itself_some_time_after_it_was_ready(machine: SimulatedMachine) -> None:
    async with served(machine, PRETEND_VLLM_CRASH_AFTER_SECONDS="0.2") as server:
        await server.logged("Application startup complete.")
        assert await server.ended() == 0
        assert "illegal memory access" in server.log


async def test_a_slow_load_is_held_at_the_hook_with_half_of_the_memory(machine: SimulatedMachine) -> None:
    hook = machine.hooks / "vllm.loading"
    hook.touch()
    async with served(machine) as server:

        async def reached() -> bool:
            return hook.with_suffix(".loading.reached").exists()

        await eventually(reached, "the hook")
        assert (await ask(machine, "GET", "/health"))[0] == 0
        [held] = (await machine.gpu_memory()).values()
        assert held == int(machine.gpus[0].memory_mib * 0.9) // 2
        hook.unlink()
        await server.ready()


async def test_term_while_loading_ends_it(machine: SimulatedMachine) -> None:
    (machine.hooks / "vllm.loading").touch()
    async with served(machine) as server:
        await server.logged("50% Completed")
        await server.kill("api_server", signal.SIGTERM)
        assert await server.ended() == 0
    assert await _tree(machine) == []


async def test_the_first_term_while_loading_can_be_swallowed(machine: SimulatedMachine) -> None:
    await machine.settings(swallow_first_term=True)
    hook = machine.hooks / "vllm.loading"
    hook.touch()
    async with served(machine) as server:
        await server.logged("50% Completed")
        [root] = await server.pids("api_server")
        await server.kill("api_server", signal.SIGTERM)

        async def taken() -> bool:
            """Whether the signal has reached it: before it loads on, that is."""
            status = await asyncio.to_thread(Path(f"/proc/{root}/status").read_text)
            pending = dict(line.split(":\t", 1) for line in status.splitlines())["ShdPnd"]
            return not int(pending, 16) & 1 << (signal.SIGTERM - 1)

        await eventually(taken, "it has got the signal")
        hook.unlink()
        await server.ready()
        await server.kill("api_server", signal.SIGTERM)
        assert await server.ended() == 0


async def _stream_forever(machine: SimulatedMachine) -> asyncio.StreamWriter:
    """Begin a streamed answer and return once its first piece has come."""
    reader, writer = await asyncio.open_connection(machine.address, PORT)
    body = json.dumps({"model": MODEL, "prompt": "x", "stream": True, "max_tokens": 10_000, "ignore_eos": True})
    writer.write(f"POST /v1/completions HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    await asyncio.wait_for(reader.readuntil(b"data: "), PATIENCE)
    return writer


async def test_term_with_a_client_connected_can_hang_the_root_without_its_engine(machine: SimulatedMachine) -> None:
    await machine.settings(hang_on_term="client_connected", tokens_per_second=50)
    async with served(machine) as server:
        await server.ready()
        client = await _stream_forever(machine)
        tree = await _tree(machine)
        await server.kill("api_server", signal.SIGTERM)

        async def only_the_root() -> bool:
            return await _alive(tree) == ["api_server"]

        await eventually(only_the_root, "engine and worker are gone")
        await server.kill("api_server", signal.SIGTERM)
        await server.kill("api_server", signal.SIGINT)
        assert (await ask(machine, "GET", "/health"))[0] == 0
        assert await only_the_root()
        client.close()
        assert await server.ended() == 0


async def test_term_can_hang_it_for_good(machine: SimulatedMachine) -> None:
    await machine.settings(hang_on_term="always")
    async with served(machine) as server:
        await server.ready()
        tree = await _tree(machine)
        await server.kill("api_server", signal.SIGTERM)

        async def only_the_root() -> bool:
            return await _alive(tree) == ["api_server"]

        await eventually(only_the_root, "engine and worker are gone")
        await server.kill("api_server", signal.SIGKILL)
        assert await server.ended() == -signal.SIGKILL


async def test_a_shutdown_timeout_drains_what_runs_and_refuses_what_comes(machine: SimulatedMachine) -> None:
    async with served(machine, "--shutdown-timeout", "30", PRETEND_VLLM_TOKENS_PER_SECOND="20") as server:
        await server.ready()
        running = asyncio.create_task(complete(machine, "x", max_tokens=60, ignore_eos=True))

        async def taken() -> bool:
            return await metric(machine, "num_requests_running") == 1

        await eventually(taken, "the request runs")
        await server.kill("engine", signal.SIGSTOP)  # for as long as the looks take
        await server.kill("api_server", signal.SIGTERM)
        await server.logged("Draining")
        assert (await ask(machine, "GET", "/health"))[0] == 200
        assert (await complete(machine, "late"))[0] == 500
        await server.kill("engine", signal.SIGCONT)
        status, answer = await asyncio.wait_for(running, PATIENCE)
        assert (status, answer["usage"]["completion_tokens"]) == (200, 60)
        assert await server.ended() == 0


async def test_a_client_that_leaves_aborts_its_request(machine: SimulatedMachine) -> None:
    async with served(machine, PRETEND_VLLM_TOKENS_PER_SECOND="20") as server:
        await server.ready()
        client = await _stream_forever(machine)
        client.close()

        async def aborted() -> bool:
            return await metric(machine, "num_requests_running") == 0

        await eventually(aborted, "no request runs")
        _, text = await ask(machine, "GET", "/metrics")
        assert f'vllm:request_success_total{{engine="0",model_name="{MODEL}",finished_reason="abort"}} 1.0' in text


async def test_shared_memory_can_stay_after_an_orderly_stop(machine: SimulatedMachine) -> None:
    await machine.settings(leave_shared_memory=True)
    async with served(machine) as server:
        await server.ready()
        await server.kill("api_server", signal.SIGTERM)
        assert await server.ended() == 0
    [left] = _left_outside(machine)
    assert left.name.startswith("psm_")
    await machine.reboot()
    assert not left.exists()


async def test_an_internal_port_that_is_taken_is_passed_over(machine: SimulatedMachine) -> None:
    taken = await asyncio.start_server(lambda *_: None, machine.address, 20_000)
    async with taken, served(machine, VLLM_PORT="20000") as server:
        await server.ready()
        assert f"distributed_init_method=tcp://{machine.address}:20001" in server.log
