"""`podctl connect`: a local port that leads to a model server, through drops, restarts and whole commands."""

import asyncio
import http.client
import json
import shlex
import signal
from typing import Any

import pytest

from podctl.client import PodctlClient
from simulator.api import SimulatedMachine
from tests.workflow.cli.support import CommandLine, Program
from tests.workflow.support import MODEL

QUESTION = {"model": MODEL, "messages": [{"role": "user", "content": "say it"}], "max_tokens": 5}


@pytest.fixture
async def coder(podctl: CommandLine, gpu_pod: str) -> str:
    """A model server that is ready on the active pod."""
    await podctl("start", MODEL, "--name", "coder", "--pod", gpu_pod)
    return "coder"


async def exports(program: Program) -> dict[str, str]:
    found = {}
    for _ in range(3):
        words = shlex.split(await program.line("export "))
        name, _, value = words[1].partition("=")
        found[name] = value
    return found


async def ask(environment: dict[str, str], path: str, body: object = None, key: str | None = None) -> tuple[int, str]:
    """Ask through the tunnel: status and the whole answer."""

    def request() -> tuple[int, str]:
        host = environment["OPENAI_BASE_URL"].removeprefix("http://").removesuffix("/v1")
        connection = http.client.HTTPConnection(host, timeout=60)
        headers = {
            "Authorization": f"Bearer {key or environment['OPENAI_API_KEY']}",
            "Content-Type": "application/json",
        }
        try:
            connection.request("POST" if body else "GET", f"/v1{path}", json.dumps(body) if body else None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    return await asyncio.to_thread(request)


async def test_a_streamed_answer_comes_through_the_tunnel(podctl: CommandLine, gpu_pod: str, coder: str) -> None:
    async with podctl.started("connect", coder, "--pod", gpu_pod) as program:
        environment = await exports(program)
        assert environment["OPENAI_MODEL"] == MODEL
        status, answer = await ask(environment, "/chat/completions", {**QUESTION, "stream": True})
        assert status == 200
        assert answer.rstrip().endswith("data: [DONE]")
        assert (await ask(environment, "/models"))[0] == 200
        assert (await ask(environment, "/models", key="wrong"))[0] == 401
        program.interrupt()
        done = await program.ended()
        assert done.status == 130
        assert "coder goes on" in done.errors


async def test_connections_that_are_lost_are_made_anew(
    podctl: CommandLine, gpu_pod: str, coder: str, machine: SimulatedMachine
) -> None:
    async with podctl.started("connect", coder, "--pod", gpu_pod, "-o", "json") as program:
        environment: dict[str, Any] = {}
        text = ""
        while not environment:
            text += await program.line()
            if text.rstrip().endswith("}"):
                environment = json.loads(text)
        for outage in (False, True):
            if outage:
                await machine.unreachable(outage="refuse")
            await machine.drop_connections()
            await program.error_line("was lost")
            if outage:
                # Asked for while it is away: it waits.
                asking = asyncio.create_task(ask(environment, "/models"))
                await program.error_line("new connections wait")
                await machine.reachable()
                assert (await asking)[0] == 200
            await program.error_line("is back")
            assert (await ask(environment, "/chat/completions", QUESTION))[0] == 200


async def test_a_command_has_the_environment_and_its_exit_code_is_ours(
    podctl: CommandLine, gpu_pod: str, coder: str
) -> None:
    script = 'test "$OPENAI_MODEL" = tiny/pretend && test -n "$OPENAI_API_KEY" && echo "at $OPENAI_BASE_URL"; exit 4'
    async with podctl.started("connect", coder, "--pod", gpu_pod, "--", "sh", "-c", script) as program:
        assert "at http://127.0.0.1:" in await program.line("at ")
        assert (await program.ended()).status == 4
    async with podctl.started("connect", coder, "--", "sh", "-c", "echo up; exec sleep 1000") as program:
        await program.line("up")
        program.process.send_signal(signal.SIGTERM)
        assert (await program.ended()).status == 128 + signal.SIGTERM


async def test_a_server_that_was_started_anew_is_followed(
    podctl: CommandLine, gpu_pod: str, coder: str, working: PodctlClient
) -> None:
    async with podctl.started("connect", coder, "--pod", gpu_pod) as program:
        old = await exports(program)
        await podctl("stop", coder, "--pod", gpu_pod)
        await program.error_line("coder is stopp")
        await podctl("start", MODEL, "--name", coder, "--pod", gpu_pod)
        assert "Fetch the environment again" in await program.error_line("was started anew")
        assert (await ask(old, "/models"))[0] == 401
        async with podctl.started("connect", coder, "--pod", gpu_pod) as another:
            new = await exports(another)
            assert new["OPENAI_API_KEY"] != old["OPENAI_API_KEY"]
            assert (await ask({**old, "OPENAI_API_KEY": new["OPENAI_API_KEY"]}, "/models"))[0] == 200
    # The key is nobody's but the user's.
    history = await working.temporal.get_workflow_handle(f"gpu-pod/{gpu_pod}").fetch_history()
    for secret in (old["OPENAI_API_KEY"], new["OPENAI_API_KEY"]):
        assert secret not in history.to_json()


async def test_a_server_that_is_not_ready_says_its_state_and_what_to_do(podctl: CommandLine, gpu_pod: str) -> None:
    done = await podctl("connect", "nobody", "--pod", gpu_pod, status=1)
    assert "nobody" in done.errors
    await podctl("start", MODEL, "--name", "coder", "--pod", gpu_pod)
    await podctl("stop", "coder", "--pod", gpu_pod)
    done = await podctl("connect", "coder", "--pod", gpu_pod, status=1)
    assert "is stopped" in done.errors
    assert f"podctl start {MODEL} --name coder" in done.errors
