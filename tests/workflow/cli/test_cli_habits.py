"""What people of such tools are used to: the active pod, the GPU that is used least, ports in order, TAB."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from cli.complete import complete_orphan
from cli.main import app
from podctl.client import PodctlClient
from remote.podlet import Podlet
from remote.ssh import SshPool
from simulator.api import SimulatedMachine
from tests.workflow.cli.support import CommandLine
from tests.workflow.support import MODEL, eventually


async def complete(podctl: CommandLine, *words: str) -> list[str]:
    """Return what TAB offers for the last word."""
    completing = {"_PODCTL_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    done = await asyncio.to_thread(
        subprocess.run,
        [str(Path(sys.executable).with_name("podctl"))],
        env={**os.environ, **podctl.environment, **completing},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.split()


async def test_the_first_pod_is_active_and_the_others_are_named(
    podctl: CommandLine, gpu_pod: str, machine: SimulatedMachine, unique: Callable[[str], str]
) -> None:
    second_pod = unique("second")
    await podctl("pods", "add", second_pod, machine.ssh_command, "--accept-host-key", machine.fingerprint)
    marked = [line for line in (await podctl("pods")).output.splitlines() if line.startswith("*")]
    assert [line.split()[1] for line in marked] == [gpu_pod]
    assert [row["name"] for row in await podctl.json("pods") if row["active"]] == [gpu_pod]

    elsewhere = await podctl.json("start", MODEL, "--name", "one", "--pod", second_pod)
    assert elsewhere["pod"] == second_pod
    assert await podctl.json("list") == []
    assert [row["name"] for row in await podctl.json("list", "--pod", second_pod)] == ["one"]

    await podctl("pods", "active", second_pod)
    assert [row["name"] for row in await podctl.json("list")] == ["one"]
    refused = await podctl("pods", "remove", second_pod, status=1)
    assert "one" in refused.errors
    await podctl("stop", "one")
    await podctl("pods", "remove", second_pod)
    assert not any(row["active"] for row in await podctl.json("pods"))
    nobody = await podctl("list", status=1)
    assert nobody.errors.startswith("error: no_active_pod: ")
    assert gpu_pod in nobody.errors


async def test_the_gpu_that_is_used_least_comes_first_and_ports_begin_at_8001(
    podctl: CommandLine, gpu_pod: str
) -> None:
    assert gpu_pod
    for name in ("one", "two", "three"):
        await podctl("start", MODEL, "--name", name, "--memory", "40%", "--detach")
    rows = await podctl.json("list")
    assert [(row["gpus"], row["port"]) for row in rows] == [([0], 8001), ([1], 8002), ([0], 8003)]
    await podctl("stop", "two")
    await podctl("start", MODEL, "--name", "four", "--memory", "40%", "--detach")
    [row] = [row for row in await podctl.json("list") if row["name"] == "four"]
    assert (row["gpus"], row["port"]) == ([1], 8002)
    there = await podctl("start", MODEL, "--name", "one", status=1)
    assert f"on pod {gpu_pod!r} since 20" in there.errors
    assert "port 8001" in there.errors


async def test_tab_completes_models_servers_and_orphans(
    podctl: CommandLine, working: PodctlClient, gpu_pod: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = await complete(podctl, "podctl", "start", "openai/gpt-oss-")
    assert sorted(offered) == ["openai/gpt-oss-120b", "openai/gpt-oss-20b"]
    await podctl("start", MODEL, "--name", "coder", "--detach")
    await podctl("list")
    for command in ("stop", "logs"):
        assert await complete(podctl, "podctl", command, "co") == ["coder"]
    assert await complete(podctl, "podctl", "pods", "reap", "pod-") == [gpu_pod]
    assert set(await complete(podctl, "podctl", "start", "m", "--restart", "")) == {"never", "on-failure", "always"}

    pool = SshPool()
    try:
        request = {"id": "other/lost/1", "kind": "server", "argv": ["sleep", "600"]}
        await Podlet(pool).call(await working.pod_address(gpu_pod), "launch", request)
    finally:
        await pool.close()

    async def is_listed() -> bool:
        return bool((await working.pod(gpu_pod)).orphans)

    await eventually(is_listed, "the watch finds the orphan")
    # In this process: another one would have to load everything within the time that TAB has.
    monkeypatch.setattr("cli.complete.PATIENCE", 60.0)
    for variable, value in podctl.environment.items():
        monkeypatch.setenv(variable, value)
    context = typer.Context(typer.main.get_command(app), info_name="podctl")
    context.params["name"] = gpu_pod
    assert await asyncio.to_thread(complete_orphan, context, "ot") == ["other/lost/1"]
    assert await asyncio.to_thread(complete_orphan, context, "x") == []
