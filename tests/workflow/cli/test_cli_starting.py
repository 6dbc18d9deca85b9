"""What is seen while a model server starts and stops: on a terminal, in a pipe, when it fails, when it is ready."""

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


async def test_a_terminal_shows_how_far_a_start_is_and_then_how_to_reach_the_server(
    podctl: CommandLine, machine: SimulatedMachine, gpu_pod: str
) -> None:
    await machine.settings(load_seconds=6)
    async with podctl.on_terminal(*START, "one") as starting:
        await starting.shows(f"one on pod {gpu_pod}: ")
        await starting.shows("queue → launch → download → load → compile → serve → ready")
        await starting.shows("loading weights, ")
        await starting.shows("Loading safetensors checkpoint shards: ")
        await starting.shows("━")
        assert await starting.ended() == 0
        end = starting.text[starting.text.rindex("model server one is ready") :]
    [row] = await podctl.json("list")
    assert f"on pod {gpu_pod}, port {row['port']}" in end
    assert f"http://127.0.0.1:{row['port']}/v1 on the pod" in end
    assert "GPUs    0" in end
    assert "podctl connect one" in end


async def test_in_a_pipe_each_state_and_stage_is_a_line(
    podctl: CommandLine, machine: SimulatedMachine, gpu_pod: str
) -> None:
    assert gpu_pod
    await machine.settings(load_seconds=3)
    told = (await podctl(*START, "one")).errors.splitlines()
    assert told == list(dict.fromkeys(told)), "nothing is told twice"
    assert "one is loading: load" in told
    assert len(told) <= 8, told
    exposed = await podctl(*START, "two", "--expose", "--restart", "on-failure", "--idle-ttl", "30m", "--grace", "5")
    assert "/metrics" in exposed.errors
    [_, row] = await podctl.json("list")
    wanted = {
        "expose": True,
        "restart": "on-failure",
        "idle_ttl": 1800.0,
        "grace": 5.0,
        "restarts": 0,
        "retry_at": None,
    }
    assert {field: row[field] for field in wanted} == wanted


async def test_a_terminal_shows_why_a_start_failed(
    podctl: CommandLine, machine: SimulatedMachine, gpu_pod: str
) -> None:
    assert gpu_pod
    await machine.settings(start_failure="out_of_memory", load_seconds=2)
    async with podctl.on_terminal(*START, "big") as starting:
        assert await starting.ended() == 1
        end = starting.text[starting.text.rindex("error: ") :]
    assert "failed (out_of_memory)" in end
    assert "The end of its log:" in end


async def test_a_start_that_waits_says_for_what(podctl: CommandLine, gpu_pod: str) -> None:
    for name in ("one", "two"):
        await podctl(*START, name, "--pod", gpu_pod)
    async with podctl.on_terminal(*START, "three") as starting:
        await starting.shows("pending, number 1 in the queue, waits for room: ")
        await podctl("stop", "one")
        assert await starting.ended() == 0
    later = await podctl(*START, "four", "--detach")
    assert "four is pending: number 1 in the queue" in later.output


async def test_memory_that_did_not_come_back_is_explained_and_accepted_on_a_persons_word(
    podctl: CommandLine, machine: SimulatedMachine, working: PodctlClient, gpu_pod: str
) -> None:
    await machine.settings(nvidia_smi="no_processes")
    await podctl(*START, "one")
    await machine.leak_gpu_memory(0, 9_000)
    assert (await podctl("stop", "one", "--accept-memory", status=1)).errors.startswith("error: nothing_to_accept: ")
    stopped = await podctl("stop", "one", status=1)
    assert "GPU 0 0 MiB before its launch, 9000 MiB now" in stopped.errors
    assert "podctl stop one --accept-memory" in stopped.errors
    assert (await podctl("stop", "--accept-memory", status=2)).errors
    accepted = await podctl("stop", "one", "--accept-memory")
    assert "are free again" in accepted.output

    async def is_free() -> bool:
        return (await working.pod(gpu_pod)).servers["one"].finished

    await eventually(is_free, "the lease is released")


async def test_a_stop_without_grace_ends_at_once_what_one_with_grace_would_wait_for(
    podctl: CommandLine, machine: SimulatedMachine, gpu_pod: str
) -> None:
    assert gpu_pod
    await machine.settings(hang_on_term="always")
    await podctl(*START, "one")
    async with podctl.started("stop", "one", "--grace", "20") as stopping:
        await stopping.error_line("one is stopping: it was asked to end, ")
        done = await stopping.ended()
    assert done.status == 0
    await podctl(*START, "one")
    assert "nothing of it is left" in (await podctl("stop", "one", "--grace", "0")).output
    assert "'--grace'" in (await podctl("stop", "one", "--grace", "soon", status=2)).errors
