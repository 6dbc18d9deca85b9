"""Where secrets end up: known values are used everywhere a secret is used, and then searched for everywhere.

`podctl up` with a real server on its SQLite file, a worker whose HF_TOKEN is the canary, a simulated machine. Neither
value looks like a token: nothing but knowing it can find it. What may hold them is listed here and nowhere else.
"""

import asyncio
import base64
import contextlib
import json
import os
import re
import signal
import sys
import urllib.parse
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from temporalio.api.workflowservice.v1 import (
    DescribeWorkflowExecutionRequest,
    GetWorkflowExecutionHistoryRequest,
    ListWorkflowExecutionsRequest,
)
from temporalio.client import Client

from podctl.connection import connect
from podctl.paths import PodctlPaths
from podctl.processes import free_ports
from podctl.run_file import read_run
from simulator.api import MachineConfig, SimulatedMachine, simulate
from tests.workflow.support import MODEL, eventually

TOKEN = "the workers' own canary 7d1fe2c4"
#: Given to a setup by a person, for the machine's own file.
PERSONS_TOKEN = "hf_PersonsOwnCanary7d1fe2c4a90b"
CHAT = """
import json, os, urllib.request
body = {"model": os.environ["OPENAI_MODEL"], "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"}
url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
print(urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)).read().decode())
"""
POD = "machine"


def forms(secret: str) -> Iterable[bytes]:
    """Return a secret as it may be written: plain, in a URL, in JSON, in base64 at each of its three offsets."""
    plain = secret.encode()
    yield plain
    yield urllib.parse.quote(secret).encode()
    yield json.dumps(secret)[1:-1].encode()
    for offset in range(3):
        # Without the characters that also hold bits of what stands before and after.
        yield base64.b64encode(b"\0" * offset + plain)[4 if offset else 0 : -4]


def holds(data: bytes, secret: str) -> bool:
    return any(form in data for form in forms(secret))


@dataclass
class Site:
    """podctl as a person uses it, on a server, a worker and a machine of its own."""

    paths: PodctlPaths
    machine: SimulatedMachine
    said: list[bytes] = field(default_factory=list)
    #: What the Temporal server has told of each workflow, whenever it was asked.
    told: list[bytes] = field(default_factory=list)

    async def podctl(self, *arguments: str, status: int = 0, token: bool = False, given: str = "") -> str:
        """Run a command, ``given`` on its stdin; only ``up`` has the token, as the worker needs it."""
        environment = {**os.environ, **self.paths.environment(), **({"HF_TOKEN": TOKEN} if token else {})}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli", *arguments),
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate(given.encode())
        self.said.append(output)
        assert process.returncode == status, output.decode()
        return output.decode()

    async def ask_the_server(self, client: Client) -> None:
        """Keep, as raw bytes, all that the server tells of all workflows: state, memo, heartbeats, history."""
        service, namespace = client.workflow_service, client.namespace
        listed = await service.list_workflow_executions(ListWorkflowExecutionsRequest(namespace=namespace))
        self.told.append(listed.SerializeToString())
        assert listed.executions
        for workflow in listed.executions:
            described = await service.describe_workflow_execution(
                DescribeWorkflowExecutionRequest(namespace=namespace, execution=workflow.execution)
            )
            self.told.append(described.SerializeToString())
            token = b""
            while True:
                history = await service.get_workflow_execution_history(
                    GetWorkflowExecutionHistoryRequest(
                        namespace=namespace, execution=workflow.execution, next_page_token=token
                    )
                )
                self.told.append(history.SerializeToString())
                token = history.next_page_token
                if not token:
                    break

    def launch(self, name: str, counter: int = 1) -> Path:
        return self.machine.folder / "home" / ".podctl" / "launches" / POD / name / str(counter)


@pytest.fixture
async def site(paths: PodctlPaths, tmp_path: Path) -> AsyncIterator[Site]:
    port, ui_port = free_ports(2)
    async with simulate(tmp_path, [MachineConfig(name=POD)]) as [machine]:
        await machine.settings(load_seconds=0.2)
        made = Site(paths, machine)
        await made.podctl("up", "--detach", "--port", str(port), "--ui-port", str(ui_port), token=True)
        try:
            yield made
        finally:
            await made.podctl("down")


def processes_that_hold(secret: str) -> tuple[dict[int, str], dict[int, str]]:
    """Return the processes in whose environment, and in whose arguments, a secret stands: pid → arguments."""
    environments, arguments = {}, {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes()
            title = words.replace(b"\0", b" ").decode(errors="replace")
            if holds(words, secret):
                arguments[int(process.name)] = title
            if holds((process / "environ").read_bytes(), secret):
                environments[int(process.name)] = title
    return environments, arguments


def files_that_hold(secret: str, *folders: Path) -> set[str]:
    """Return the files below folders that hold a secret."""
    found = set()
    for folder in folders:
        # What is removed meanwhile is passed over, folders too.
        for place, _, names in os.walk(folder):
            for path in (Path(place, name) for name in names):
                with contextlib.suppress(OSError):
                    if path.is_file() and not path.is_symlink() and holds(path.read_bytes(), secret):
                        found.add(str(path))
    return found


def let_it_tell_all(program: Path) -> None:
    program.write_text("#!/bin/sh\nenv\nenv | grep -e ^HF_TOKEN= -e ^VLLM_API_KEY=\nexit 3\n")


async def test_secrets_are_nowhere_but_where_they_are_needed(site: Site, paths: PodctlPaths) -> None:
    machine = site.machine
    client = await connect(paths)
    setup = ("pods", "setup", POD, machine.ssh_command, "--accept-host-key", machine.fingerprint, "--hf-token")
    await site.podctl(*setup, given=PERSONS_TOKEN + "\n")
    await site.podctl("start", MODEL, "--name", "one", "--restart", "on-failure")
    key = (site.launch("one") / "api_key").read_text()
    root = next(process.pid for process in await machine.processes() if process.role == "api_server")
    plan = json.loads((site.launch("one") / "record.json").read_text())
    run = read_run(paths.run_file)
    assert run.server is not None
    assert run.worker is not None

    # While it serves: in the worker that was given the token, and in the root of vLLM's processes. The children of
    # the real one erase their environment, as the pretended ones do.
    environments, arguments = processes_that_hold(TOKEN)
    assert set(environments) == {run.worker.process.pid, root}, environments
    assert arguments == {}
    environments, arguments = processes_that_hold(key)
    assert set(environments) == {root}, environments
    assert arguments == {}

    assert "choices" in await site.podctl("connect", "one", "--", sys.executable, "-c", CHAT)

    await site.podctl("list")
    await site.podctl("pods", "show", POD, "-o", "json")
    await site.podctl("logs", "one")
    # A heartbeat of the watch is in what the server tells now.
    await site.ask_the_server(client)

    # A failure, and the launch that follows from its policy.
    await machine.signal_servers("engine", signal.SIGKILL)

    async def again() -> bool:
        return (site.launch("one", 2) / "ready.json").exists()

    await eventually(again, "it was launched again", patience=300.0)
    second_key = (site.launch("one", 2) / "api_key").read_text()
    await site.ask_the_server(client)
    await site.podctl("stop", "one")

    # One that prints all that it was given, as the last thing it does.
    let_it_tell_all(Path(plan["argv"][0]))
    failed = await site.podctl("start", MODEL, "--name", "tells", status=1)
    assert "HF_TOKEN=***" in failed
    assert "VLLM_API_KEY=***" in failed
    told_all = (site.launch("tells") / "output.log").read_text()
    [third_key] = set(re.findall(r"^VLLM_API_KEY=(\S+)$", told_all, re.MULTILINE))
    assert f"HF_TOKEN={TOKEN}" in told_all
    await site.podctl("list", "-o", "json")
    await site.podctl("pods", "show", POD)
    await site.podctl("events", "--pod", POD)
    await site.podctl("stop", "--yes")
    await site.ask_the_server(client)

    # What may hold them after the stop: the log of the server that printed them, on the pod, readable by its user.
    its_log = site.launch("tells") / "output.log"
    assert its_log.stat().st_mode & 0o077 == 0
    token_file = machine.folder / "home/.cache/huggingface/token"
    assert token_file.stat().st_mode & 0o077 == 0
    everywhere = (paths.config, paths.data, machine.folder)
    for secret, may_hold in (
        (TOKEN, {str(its_log)}),
        (PERSONS_TOKEN, {str(token_file)}),
        (key, set()),
        (second_key, set()),
        (third_key, {str(its_log)}),
    ):
        assert files_that_hold(secret, *everywhere) == may_hold
        assert not any(holds(data, secret) for data in site.told)
        assert not any(holds(data, secret) for data in site.said)
        environments, arguments = processes_that_hold(secret)
        assert set(environments) == ({run.worker.process.pid} if secret == TOKEN else set())
        assert arguments == {}
    # The search finds what is there: in the database and its log, in histories, in what was said.
    database = [str(path) for path in paths.data.glob("temporal.db*")]
    assert files_that_hold(f"{POD}/one/1", paths.data) & set(database)
    assert any(holds(data, POD) for data in site.told)
    assert any(holds(data, "tells") for data in site.said)
