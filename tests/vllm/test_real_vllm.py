"""podctl with the real vLLM: readiness, chat, crashes, stops. Opt-in: `make test-vllm`. conftest.py: what is real.

Each test prints what it saw (``pytest -s`` shows it as it comes).
"""

import asyncio
import json
import os
import signal
import time
import urllib.error

import asyncssh
import pytest

from tests.activity.simulator_harness import connected
from tests.vllm.support import RealServers, ask, chat, eventually


def say(text: str) -> None:
    print(f"\n[seen] {text}", flush=True)


async def test_it_is_ready_when_it_answers_and_chats_through_the_connection(servers: RealServers) -> None:
    began = time.monotonic()
    row = await servers.start("tiny")
    ready = await servers.state("tiny", "ready")
    say(f"ready {time.monotonic() - began:.1f} s after it was asked for")
    assert ready["port"] == row["port"]
    tree = await servers.tree("tiny")
    assert set(tree) == {"api_server", "engine", "worker"}
    assert ready["pid"] == tree["api_server"].pid
    events = (await servers.podctl("events", "--pod", servers.pod, "-o", "json")).output.splitlines()
    stages = [event["payload"].get("stage") for event in map(json.loads, events) if event["type"] == "server_loading"]
    say(f"stages that were told: {stages}")
    assert {"load", "compile"} <= set(stages)

    key = servers.key("tiny")
    async with servers.tunnel(ready["port"]) as url:
        models = json.loads(await asyncio.to_thread(ask, f"{url}/v1/models", key=key))
        assert [model["id"] for model in models["data"]] == [servers.model]
        whole = json.loads(await asyncio.to_thread(ask, f"{url}/v1/chat/completions", chat(servers.model), key))
        assert whole["usage"]["completion_tokens"] >= 1
        assert whole["choices"][0]["message"]["role"] == "assistant"
        streaming = chat(servers.model, stream=True, ignore_eos=True)
        lines = (await asyncio.to_thread(ask, f"{url}/v1/chat/completions", streaming, key)).split("\n\n")
        pieces = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
        say(f"a streamed answer of 8 tokens came in {len(pieces)} pieces")
        assert len(pieces) >= 2
        assert lines[-2] == "data: [DONE]"
        for wrong in (None, "not-the-key"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                await asyncio.to_thread(ask, f"{url}/v1/models", key=wrong)
            assert refused.value.code == 401
            refused.value.close()

    traces = await servers.traces("tiny", ready["port"])
    say(f"outside of its folder: {sorted(map(str, traces.files))}")
    assert any(path.name.startswith("psm_") for path in traces.files)
    began = time.monotonic()
    await servers.podctl("stop", "tiny")
    say(f"stopped, with nobody connected, in {time.monotonic() - began:.1f} s")
    assert await traces.left(servers.machine) == []
    [stopped] = await servers.podctl.json("list")
    assert (stopped["state"], stopped["gpus"], stopped["port"]) == ("stopped", [], None)


async def test_a_stop_does_not_wait_for_a_client_that_stays(servers: RealServers) -> None:
    await servers.start("tiny")
    ready = await servers.state("tiny", "ready")
    traces = await servers.traces("tiny", ready["port"])
    async with servers.tunnel(ready["port"]) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        body = json.dumps(chat(servers.model, stream=True, max_tokens=900, ignore_eos=True)).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {servers.key('tiny')}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await reader.readuntil(b"data: ")
        began = time.monotonic()
        await servers.podctl("stop", "tiny")
        say(f"stopped, with a client in the middle of its answer, in {time.monotonic() - began:.1f} s")
        writer.close()
    assert await traces.left(servers.machine) == []


@pytest.mark.parametrize("victim", ["engine", "api_server"])
async def test_a_crash_is_told_and_leaves_nothing(servers: RealServers, victim: str) -> None:
    await servers.start("tiny")
    ready = await servers.state("tiny", "ready")
    traces = await servers.traces("tiny", ready["port"])
    tree = await servers.tree("tiny")
    began = time.monotonic()
    os.kill(tree[victim].pid, signal.SIGKILL)
    failed = await servers.state("tiny", "failed")
    say(f"{victim} killed: told {time.monotonic() - began:.1f} s later: {failed['failure']['message']}")
    assert failed["failure"]["type"] == {"engine": "engine_died", "api_server": "killed"}[victim]

    async def ended() -> bool:
        [row] = await servers.podctl.json("list")
        return bool(row["gpus"] == [])

    await eventually(ended, "its GPU is given back")
    say(f"cleaned up {time.monotonic() - began:.1f} s after the kill; exit.json: "
        f"{(servers.folder('tiny') / 'exit.json').read_text().strip()}")  # fmt: skip
    assert await traces.left(servers.machine) == []


@pytest.mark.parametrize("said", ["non-default args", "Initializing a V1 LLM engine", "Starting to load model"])
async def test_a_stop_during_the_start_is_not_swallowed(servers: RealServers, said: str) -> None:
    row = await servers.start("tiny")
    await servers.logged("tiny", said)
    traces = await servers.traces("tiny", row["port"])
    began = time.monotonic()
    await servers.podctl("stop", "tiny")
    say(f"stopped, after {said!r}, in {time.monotonic() - began:.1f} s; exit.json: "
        f"{(servers.folder('tiny') / 'exit.json').read_text().strip()}")  # fmt: skip
    assert await traces.left(servers.machine) == []
    assert "Application startup complete" not in servers.log("tiny")
    [stopped] = await servers.podctl.json("list")
    assert stopped["state"] == "stopped"


async def test_arguments_that_it_refuses_are_named(servers: RealServers) -> None:
    refused = ("start", servers.model, "--name", "tiny", "--detach", "--vllm", "--frobnicate", "1")
    await servers.podctl(*refused)
    failed = await servers.state("tiny", "failed")
    say(f"an unknown flag: {failed['failure']['message']}")
    assert failed["failure"]["type"] == "bad_arguments"
    assert "--frobnicate" in failed["failure"]["message"]
    async with connected(servers.machine) as connection:
        done = await connection.run("vllm --version", check=True)
    assert isinstance(done, asyncssh.SSHCompletedProcess)
    say(f"vllm {str(done.stdout).splitlines()[-1]}")
