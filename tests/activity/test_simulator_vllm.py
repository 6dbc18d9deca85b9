"""The pretend vLLM in health: its tree, log, API and flags are those of ``vllm serve``."""

import http.client
import json
from asyncio import to_thread
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from simulator import process_table
from simulator.api import Gpu, MachineConfig, Settings, SimulatedMachine, simulate
from tests.activity.simulator_harness import (
    MODEL,
    PATIENCE,
    PORT,
    ModelServer,
    ask,
    complete,
    eventually,
    metric,
    served,
    shell,
)

_FAST = Settings(load_seconds=0.1, tokens_per_second=2_000)


@pytest.fixture(scope="module")
async def machine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SimulatedMachine]:
    config = MachineConfig(name="one", gpus=(Gpu(),) * 4, settings=_FAST)
    async with simulate(tmp_path_factory.mktemp("vllm"), [config]) as [one]:
        yield one


@pytest.fixture(scope="module")
async def server(machine: SimulatedMachine) -> AsyncIterator[ModelServer]:
    """A healthy one that all tests here share."""
    flags = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--max-model-len", "1k")
    async with served(machine, *flags, CUDA_VISIBLE_DEVICES="2") as running:
        await running.ready()
        yield running


async def test_three_processes_of_one_session_with_vllms_titles(server: ModelServer) -> None:
    tree = [process for process in await server.machine.processes() if process.role != "other"]
    assert [process.role for process in tree] == ["api_server", "engine", "worker"]
    root, engine, worker = tree
    assert (engine.parent, worker.parent) == (root.pid, engine.pid)
    assert len({process.session for process in tree}) == 1
    assert (engine.title, engine.name) == ("VLLM::EngineCore", "VLLM::EngineCor")
    assert (worker.title, worker.name) == ("VLLM::Worker", "VLLM::Worker")


def _environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


async def test_only_the_root_still_shows_its_environment(server: ModelServer) -> None:
    environments = {
        process.role: _environment(process.pid)
        for process in await server.machine.processes()
        if process.role != "other"
    }
    assert b"CUDA_VISIBLE_DEVICES=2" in environments["api_server"]
    assert not environments["engine"].strip(b"\0")
    assert not environments["worker"].strip(b"\0")


async def test_the_worker_holds_the_memory_of_the_visible_gpu(server: ModelServer) -> None:
    gpu = server.machine.gpus[2]
    assert await server.machine.gpu_memory() == {
        each.uuid: int(gpu.memory_mib * 0.9) if each == gpu else 0 for each in server.machine.gpus
    }
    _, out, _ = await shell(server.machine, "nvidia-smi --query-compute-apps=pid,gpu_uuid --format=csv,noheader")
    assert out == f"{(await server.pids('worker'))[0]}, {gpu.uuid}\n"


async def test_the_log_tells_the_stages_in_vllms_order_and_that_it_is_a_simulation(server: ModelServer) -> None:
    lines = [
        "simulation of vLLM",
        "Initializing a V1 LLM engine",
        "Starting to load model",
        "Loading safetensors checkpoint shards:   0% Completed | 0/4",
        "Loading safetensors checkpoint shards: 100% Completed | 4/4",
        "Loading weights took",
        "Warming up model for the compilation",
        "KV cache size: ",
        "Starting vLLM server on",
        "Application startup complete.",
    ]
    places = [server.log.find(line) for line in lines]
    assert places == sorted(places)
    assert -1 not in places


async def test_models_lists_the_served_name_and_its_context(server: ModelServer) -> None:
    status, text = await ask(server.machine, "GET", "/v1/models")
    [model] = json.loads(text)["data"]
    assert (status, model["id"], model["max_model_len"]) == (200, MODEL, 1000)


async def test_the_same_prompt_always_gets_the_same_answer_and_another_one_another(server: ModelServer) -> None:
    first, again, other = [
        (await complete(server.machine, prompt, max_tokens=64))[1]["choices"][0] for prompt in ("a b", "a b", "a c")
    ]
    assert first["text"] == again["text"] != other["text"]
    assert first["text"].startswith("Simulated answer")
    assert first["finish_reason"] == "stop"


async def test_max_tokens_ends_an_answer_and_usage_counts(server: ModelServer) -> None:
    status, answer = await complete(server.machine, "count", max_tokens=3)
    assert status == 200
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 3
    _, answer = await complete(server.machine, "count", max_tokens=200, ignore_eos=True)
    assert answer["usage"]["completion_tokens"] == 200


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"model": "org/other", "prompt": "x"}, 404, "does not exist"),
        ({"model": MODEL}, 400, "prompt"),
        ({"model": MODEL, "prompt": "x", "max_tokens": 0}, 200, "Simulated"),
        ({"model": MODEL, "prompt": "x", "max_tokens": 5_000}, 400, "maximum context length is 1000"),
        ({"model": MODEL, "prompt": "x" * 8_000}, 400, "maximum context length is 1000"),
        (["no", "object"], 400, "JSON object"),
    ],
)
async def test_requests_that_cannot_be_answered_say_why(
    server: ModelServer, body: object, status: int, word: str
) -> None:
    got, text = await ask(server.machine, "POST", "/v1/completions", body)
    assert (got, word in text) == (status, True), text


async def test_unknown_paths_and_methods(server: ModelServer) -> None:
    assert (await ask(server.machine, "GET", "/v1/unknown"))[0] == 404
    assert (await ask(server.machine, "GET", "/v1/completions"))[0] == 405


async def _events(machine: SimulatedMachine, path: str, body: dict[str, Any]) -> list[Any]:
    def stream() -> list[Any]:
        connection = http.client.HTTPConnection(machine.address, PORT, timeout=PATIENCE)
        connection.request("POST", path, json.dumps({"model": MODEL, "stream": True, **body}))
        response = connection.getresponse()
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix(b"data: ").strip() for line in response if line.startswith(b"data: ")]
        connection.close()
        assert lines.pop() == b"[DONE]"
        return [json.loads(line) for line in lines]

    return await to_thread(stream)


async def test_a_streamed_chat_says_the_same_in_pieces(server: ModelServer) -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "what is a lease?"}]
    body = {"messages": messages, "stream_options": {"include_usage": True}}
    events = await _events(server.machine, "/v1/chat/completions", body)
    pieces = [choice["delta"].get("content", "") for event in events for choice in event["choices"]]
    _, text = await ask(server.machine, "POST", "/v1/chat/completions", {"model": MODEL, "messages": messages})
    whole = json.loads(text)
    assert "".join(pieces) == whole["choices"][0]["message"]["content"]
    assert 'to "what is a lease?"' in whole["choices"][0]["message"]["content"]
    assert events[-1]["usage"] == whole["usage"]
    assert len(pieces) > 10


async def test_a_streamed_completion_ends_with_its_reason(server: ModelServer) -> None:
    events = await _events(server.machine, "/v1/completions", {"prompt": "go", "max_tokens": 4})
    assert [event["choices"][0]["finish_reason"] for event in events] == [None, None, None, "length"]


_TOOL = {
    "type": "function",
    "function": {
        "name": "read_file",
        "parameters": {
            "type": "object",
            "properties": {"path": {"type": "string"}, "lines": {"type": "integer"}},
            "required": ["path", "lines"],
        },
    },
}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_that_is_named_is_called_with_fitting_arguments(server: ModelServer, stream: bool) -> None:
    body = {"messages": [{"role": "user", "content": "use read_file"}], "tools": [_TOOL]}
    if stream:
        events = await _events(server.machine, "/v1/chat/completions", body)
        calls = [call for event in events for call in event["choices"][0]["delta"].get("tool_calls", [])]
        reason = events[-1]["choices"][0]["finish_reason"]
    else:
        _, text = await ask(server.machine, "POST", "/v1/chat/completions", {"model": MODEL, **body})
        choice = json.loads(text)["choices"][0]
        calls, reason = choice["message"]["tool_calls"], choice["finish_reason"]
    [call] = calls
    assert call["function"]["name"] == "read_file"
    assert json.loads(call["function"]["arguments"]) == {"path": "use read_file", "lines": 1}
    assert reason == "tool_calls"


async def test_the_result_of_a_tool_is_answered_with_text(server: ModelServer) -> None:
    messages = [{"role": "user", "content": "use read_file"}, {"role": "tool", "content": "42", "tool_call_id": "1"}]
    body = {"model": MODEL, "messages": messages, "tools": [_TOOL]}
    _, text = await ask(server.machine, "POST", "/v1/chat/completions", body)
    assert json.loads(text)["choices"][0]["finish_reason"] == "stop"


async def test_metrics_have_vllms_names_and_count(server: ModelServer) -> None:
    before = await metric(server.machine, "generation_tokens_total")
    await complete(server.machine, "metrics", max_tokens=7)
    assert await metric(server.machine, "generation_tokens_total") == before + 7
    assert await metric(server.machine, "num_requests_running") == 0
    _, text = await ask(server.machine, "GET", "/metrics")
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert {
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        "vllm:num_preemptions_total",
        "vllm:prompt_tokens_total",
        "vllm:request_success_total",
        "vllm:time_to_first_token_seconds",
        "vllm:inter_token_latency_seconds",
        "vllm:request_time_per_output_token_seconds",
    } <= names


async def test_a_taken_port_ends_it_with_1(server: ModelServer) -> None:
    async with served(server.machine, "--host", "127.0.0.1") as second:
        assert await second.ended() == 1
        assert "Address already in use" in second.log


async def test_memory_that_is_in_use_ends_a_second_one_on_the_gpu(server: ModelServer) -> None:
    async with served(server.machine, "--port", "8090", CUDA_VISIBLE_DEVICES="2") as second:
        assert await second.ended() == 1
        assert "is less than desired GPU memory utilization" in second.log
        assert "Engine core initialization failed" in second.log


async def test_the_key_guards_v1_and_nothing_else(machine: SimulatedMachine, server: ModelServer) -> None:
    assert server.process.returncode is None
    flags = ("--port", "8091", "--gpu-memory-utilization", "0.3")
    async with served(machine, *flags, CUDA_VISIBLE_DEVICES="0", VLLM_API_KEY="sesame") as guarded:

        async def healthy() -> bool:
            return (await ask(machine, "GET", "/health", port=8091))[0] == 200

        await eventually(healthy, "ready")
        assert (await ask(machine, "GET", "/v1/models", port=8091))[0] == 401
        assert (await ask(machine, "GET", "/v1/models", port=8091, key="guess"))[0] == 401
        assert (await ask(machine, "GET", "/v1/models", port=8091, key="sesame"))[0] == 200
        assert (await ask(machine, "GET", "/metrics", port=8091))[0] == 200
        assert "sesame" not in guarded.log
        await guarded.stop()


async def test_two_engines_of_two_workers(machine: SimulatedMachine, server: ModelServer) -> None:
    before = {process.pid for process in await machine.processes()}
    flags = ("--port", "8092", "-tp", "2", "--data-parallel-size=2", "--gpu_memory_utilization", "0.05")
    async with served(machine, *flags) as wide:
        await wide.logged("Application startup complete.")
        titles = [p.title for p in await machine.processes() if p.pid not in before and p.role in {"engine", "worker"}]
        assert sorted(titles) == [
            "VLLM::EngineCore_DP0",
            "VLLM::EngineCore_DP1",
            "VLLM::Worker_DP0_TP0",
            "VLLM::Worker_DP0_TP1",
            "VLLM::Worker_DP1_TP0",
            "VLLM::Worker_DP1_TP1",
        ]
        await wide.stop()
    assert server.process.returncode is None
    memory = await machine.gpu_memory()
    assert [memory[gpu.uuid] > 0 for gpu in machine.gpus] == [False, False, True, False]


async def test_real_flags_are_accepted(machine: SimulatedMachine) -> None:
    flags = (
        "--enable-expert-parallel --kv-cache-dtype fp8 --async-scheduling --max-num-batched-tokens 1024"
        " --reasoning-parser qwen3 --trust-remote-code --no-enable-prefix-caching -O3 --block-size 128"
        " --speculative-config.method ngram --served-model-name one two --tokenizer-mode mistral"
        " --port 8093 --gpu-memory-utilization 0.1 --shutdown-timeout 1 --dtype=bfloat16"
    )
    async with served(machine, *flags.split(), CUDA_VISIBLE_DEVICES="1") as accepted:
        await accepted.logged("Application startup complete.")
        _, text = await ask(machine, "GET", "/v1/models", port=8093)
        assert [model["id"] for model in json.loads(text)["data"]] == ["one", "two"]
        await accepted.stop()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("serve m --frobnicate", 2, "unrecognized arguments: --frobnicate"),
        ("serve m --task generate", 2, "unrecognized arguments: --task generate"),
        ("serve m --swap-space 4", 2, "unrecognized arguments"),
        ("serve m --port eight", 2, "argument --port: invalid int value: 'eight'"),
        ("serve m --port", 2, "argument --port: expected one argument"),
        ("serve", 2, "needs the model"),
        ("chat", 2, "usage"),
        ("serve ./no-such-folder", 1, "no such model"),
        ("serve m -tp 5", 1, "World size (5) is larger than the number of available GPUs (4)"),
        ("--version", 0, "0.32.0+simulated"),
    ],
)
async def test_how_it_ends_before_it_begins(machine: SimulatedMachine, arguments: str, code: int, said: str) -> None:
    got, out, err = await shell(machine, f"vllm {arguments}")
    assert (got, said in out + err) == (code, True), out + err


async def test_uuids_in_cuda_visible_devices_stop_it_as_they_stop_vllm(machine: SimulatedMachine) -> None:
    async with served(machine, "--port", "8095", CUDA_VISIBLE_DEVICES=machine.gpus[0].uuid) as refused:
        assert await refused.ended() == 1
        assert "ValueError: invalid literal for int()" in refused.log


async def test_a_stop_takes_its_files_along(machine: SimulatedMachine) -> None:
    before = set((machine.folder / "shm").iterdir())
    flags = ("--port", "8094", "--gpu-memory-utilization", "0.1")
    async with served(machine, *flags, CUDA_VISIBLE_DEVICES="3") as server:
        await server.logged("Application startup complete.")
        outside = [Path(note.read_text()) for note in set((machine.folder / "shm").iterdir()) - before]
        assert {path.name.partition("_")[0] == "psm" for path in outside} == {True, False}
        assert all(path.exists() for path in outside)
        [engine] = [p for p in await machine.processes() if p.role == "engine" and p.pid not in await _engines(machine)]
        await server.stop()
    assert not any(path.exists() for path in outside)
    assert not process_table.is_alive(engine.pid, engine.start_time)


async def _engines(machine: SimulatedMachine) -> set[int]:
    """Engines of the shared server: those on its GPU."""
    _, out, _ = await shell(machine, "nvidia-smi --query-compute-apps=pid,gpu_uuid --format=csv,noheader")
    workers = {int(line.split(", ")[0]) for line in out.splitlines() if line.endswith(machine.gpus[2].uuid)}
    return {process.parent for process in await machine.processes() if process.pid in workers}
