"""`podctl logs`: from a point in time on, of an earlier launch, of one that is to come, of what is kept no more."""

import signal
from datetime import UTC, datetime, timedelta

from podctl.client import PodctlClient
from podctl.model_logs import LogReader
from remote.podlet import Podlet
from remote.ssh import SshPool
from simulator.api import SimulatedMachine
from tests.workflow.cli.support import CommandLine
from tests.workflow.support import MODEL, eventually

START = ("start", MODEL, "--name")


async def test_a_log_is_read_from_a_point_in_time_on(podctl: CommandLine, gpu_pod: str) -> None:
    assert gpu_pod
    await podctl(*START, "one")
    whole = (await podctl("logs", "one")).output
    assert (await podctl("logs", "one", "--since", "2h")).output.startswith(whole)
    assert (await podctl("logs", "one", "--since", "2026-01-31T12:00:00Z")).output.startswith(whole)
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()

    async def is_newer() -> bool:
        return not (await podctl("logs", "one", "--since", later)).output.startswith(whole[:200])

    await eventually(is_newer, "times are marked while a log grows")
    for wrong, said in (("soon", "2026-01-31T12:00:00Z"), ("-5m", "10m"), ("yesterday", "10m")):
        assert said in (await podctl("logs", "one", f"--since={wrong}", status=2)).errors
    both = await podctl("logs", "one", "--since", "1h", "--tail", "3", status=2)
    assert "--tail" in both.errors


async def test_the_launch_before_the_newest_one_is_still_there_to_be_read(podctl: CommandLine, gpu_pod: str) -> None:
    await podctl(*START, "one", "--context", "16k")
    only = await podctl("logs", "one", "--previous", status=1)
    assert only.errors.startswith("error: no_previous_launch: ")
    assert gpu_pod in only.errors
    await podctl("stop", "one")
    await podctl(*START, "one", "--context", "32k")
    assert "'max-model-len': 32768" in (await podctl("logs", "one")).output
    before = (await podctl("logs", "one", "--previous")).output
    assert "'max-model-len': 16384" in before
    assert (await podctl("logs", "one", "--previous", "--tail", "1")).output == before.splitlines(keepends=True)[-1]
    assert (await podctl("logs", "one", "--previous", "-f", status=2)).errors
    assert "no_previous_launch" in (await podctl("logs", "nobody", "--previous", status=1)).errors


async def test_following_a_server_that_waits_begins_with_its_launch(
    podctl: CommandLine, machine: SimulatedMachine, gpu_pod: str
) -> None:
    for name in ("one", "two"):
        await podctl(*START, name)
    await podctl(*START, "three", "--detach", "--pod", gpu_pod)
    async with podctl.started("logs", "three", "-f") as following:
        await following.error_line("three is pending: number 1 in the queue")
        await podctl("stop", "one")
        await following.line("Loading safetensors")
        await machine.signal_servers("engine", signal.SIGKILL)
        done = await following.ended()
    assert done.status == 0, "without a restart policy it ends with the launch"


async def test_following_a_server_that_is_launched_again_goes_on_with_its_next_launch(
    podctl: CommandLine, machine: SimulatedMachine, gpu_pod: str
) -> None:
    await podctl(*START, "one", "--restart", "on-failure")
    async with podctl.started("logs", "one", "-f") as following:
        await following.line("Application startup complete")
        await machine.signal_servers("engine", signal.SIGKILL)
        await following.error_line(f"launch {gpu_pod}/one/1 has ended")
        await following.error_line("one is restarting: ")
        await following.error_line(f"going on with launch {gpu_pod}/one/2")
        await following.line("Application startup complete")
        [row] = await podctl.json("list")
        assert (row["restart"], row["restarts"]) == ("on-failure", 1)
        assert "on-failure 1x" in (await podctl("list")).output
        await podctl("stop", "one")
        done = await following.ended()
    assert done.status == 0, "a stop that was asked for is the end"


async def test_bytes_that_are_not_kept_any_more_are_told(working: PodctlClient, gpu_pod: str) -> None:
    pool = SshPool()
    podlet, address = Podlet(pool), await working.pod_address(gpu_pod)
    launch = f"{gpu_pod}/talkative/1"
    say = "i=0; while [ $i -lt 40000 ]; do echo line $i of many more of its kind; i=$((i+1)); done; sleep 600"
    request = {"id": launch, "kind": "server", "argv": ["sh", "-c", say], "log_limit": 200_000}
    try:
        await podlet.call(address, "launch", request)

        async def is_long() -> bool:
            [seen] = (await podlet.call(address, "observe", {"ids": [launch]}))["launches"]
            return bool(seen["log_size"] >= 1_000_000)

        await eventually(is_long, "it has printed a lot")
        gaps: list[tuple[int, int]] = []
        reader = LogReader(podlet, address, launch, on_gap=lambda first, following: gaps.append((first, following)))
        pieces = [piece async for piece in reader.read()]
    finally:
        await pool.close()
    assert gaps[0][0] == 0
    assert gaps[0][1] > 500_000
    assert pieces[0].startswith(b"line ")
