"""`podctl list`: what servers are doing, over one pod or all, once or as it changes."""

import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest

import activities.gpu_pods
import activities.support
import worker
from podctl.client import PodctlClient
from simulator.api import SimulatedMachine
from tests.workflow.cli.support import CommandLine
from tests.workflow.support import MODEL, eventually

START = ("start", MODEL, "--name")


@pytest.fixture(autouse=True)
def _quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(activities.gpu_pods.WATCH_PACE, "beat", 0.2)
    monkeypatch.setattr(activities.support, "HEARTBEAT_INTERVAL", 0.2)
    monkeypatch.setattr(worker, "HEARTBEAT_THROTTLE", timedelta(seconds=0.2))


@pytest.fixture
async def second_pod(
    podctl: CommandLine, gpu_pod: str, machine: SimulatedMachine, unique: Callable[[str], str]
) -> AsyncIterator[str]:
    """Another name for the same machine: a pod that is not the active one."""
    assert gpu_pod
    name = unique("second")
    await podctl("pods", "add", name, machine.ssh_command, "--accept-host-key", machine.fingerprint)
    yield name
    await podctl("pods", "remove", name, "--lost")


async def test_what_a_server_says_of_itself_is_listed_without_asking_the_machine(
    podctl: CommandLine, working: PodctlClient, gpu_pod: str
) -> None:
    await podctl(*START, "one", "-o", "json")

    async def has_beaten() -> bool:
        beats = await working.pod_beats(gpu_pod)
        return any(beat.metrics is not None and beat.metrics.running is not None for beat in beats.values())

    await eventually(has_beaten, "the watch tells of its metrics")
    [row] = await podctl.json("list")
    assert (row["requests_running"], row["requests_waiting"]) == (0, 0)
    assert 0 <= row["kv_cache_usage"] <= 1
    assert row["last_line"]
    header, line = (await podctl("list")).output.splitlines()
    assert header.split()[:6] == ["NAME", "MODEL", "STATE", "SINCE", "PORT", "GPUS"]
    assert "REQ" in header
    assert "0%" in line
    assert "FOR" not in header, "nobody but the person who started it: an empty column is left out"
    assert [server["requests_running"] for server in (await podctl.json("pods", "show", gpu_pod))["servers"]] == [0]

    await podctl("stop", "one")
    [row] = await podctl.json("list")
    assert (row["state"], row["requests_running"], row["last_line"]) == ("stopped", None, None)


async def test_of_an_unknown_pod_there_is_nothing_to_tell(working: PodctlClient) -> None:
    with pytest.raises(Exception, match="there is no GPU pod 'nobody'"):
        await working.pod_beats("nobody")


async def test_servers_of_all_pods_are_listed_at_once(podctl: CommandLine, gpu_pod: str, second_pod: str) -> None:
    assert "any pod yet" in (await podctl("list", "-A")).output
    await podctl(*START, "one")
    await podctl(*START, "two", "--pod", second_pod)
    rows = await podctl.json("list", "--all-pods")
    assert [(row["pod"], row["name"]) for row in rows] == [(gpu_pod, "one"), (second_pod, "two")]
    header, *lines = (await podctl("list", "-A")).output.splitlines()
    assert header.startswith("POD")
    assert [line.split()[0] for line in lines] == [gpu_pod, second_pod]
    assert [row["name"] for row in await podctl.json("list")] == ["one"]
    both = await podctl("list", "-A", "--pod", gpu_pod, status=2)
    assert "--all-pods" in both.errors


async def test_watching_tells_each_change_in_a_pipe_and_a_list_a_line_to_programs(
    podctl: CommandLine, gpu_pod: str
) -> None:
    async with (
        podctl.started("list", "--watch", "--pod", gpu_pod) as watching,
        podctl.started("list", "-w", "-o", "json", "--pod", gpu_pod) as program,
    ):
        assert json.loads(await program.line()) == []
        await podctl(*START, "one")
        await watching.line("ready")
        assert [row["name"] for row in json.loads(await program.line("ready"))] == ["one"]
        await podctl("stop", "one")
        assert "one" in await watching.line("stopped")
        watching.interrupt()
        done = await watching.ended()
    assert done.status == 130
    assert f"podctl list --pod {gpu_pod}" in done.errors


async def test_on_a_terminal_of_a_hundred_columns_nothing_but_the_model_is_cut(
    podctl: CommandLine, gpu_pod: str
) -> None:
    long = "Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8-of-somebody-with-a-long-name"
    await podctl("start", long, "--name", "coder")
    assert gpu_pod
    async with podctl.on_terminal("list", columns=100) as terminal:
        assert await terminal.ended() == 0
        lines = [line.rstrip() for line in terminal.text.splitlines()]
    assert len(lines) == 2, lines
    assert all(len(line) <= 100 for line in lines)
    assert "Qwen/Qwen3-Coder" in lines[1]
    assert "…" in lines[1]
    assert "ready" in lines[1]
    assert " ago" in lines[1]
