"""`podctl pods reap`: launches that no server of the pod owns are listed, and ended only on a word that fits."""

from collections.abc import AsyncIterator, Callable

import pytest

from podctl.client import PodctlClient
from remote.podlet import Podlet
from remote.ssh import SshPool
from tests.workflow.cli.support import CommandLine
from tests.workflow.support import eventually


@pytest.fixture
async def podlet() -> AsyncIterator[Podlet]:
    pool = SshPool()
    yield Podlet(pool)
    await pool.close()


async def test_orphans_are_listed_with_their_owner_and_reaped_by_name(
    podctl: CommandLine, working: PodctlClient, podlet: Podlet, gpu_pod: str, unique: Callable[[str], str]
) -> None:
    assert "every launch" in (await podctl("pods", "reap", gpu_pod)).output
    address, state = await working.pod_address(gpu_pod), await working.pod(gpu_pod)
    assert state.inventory is not None
    ours, theirs = f"{gpu_pod}/lost/1", f"{unique('other')}/lost/1"
    for launch, owner, gpu in ((ours, state.owner, 0), (theirs, "somebody", 1)):
        shares = [{"uuid": state.inventory.gpus[gpu].uuid, "share": 0.5}]
        request = {"id": launch, "kind": "server", "owner": owner, "gpus": shares, "argv": ["sleep", "600"]}
        await podlet.call(address, "launch", request)

    async def are_listed() -> bool:
        return len(await podctl.json("pods", "reap", gpu_pod)) == 2

    await eventually(are_listed, "the watch finds both")
    rows = {row["launch_id"]: row for row in await podctl.json("pods", "reap", gpu_pod)}
    assert {launch: (row["ours"], row["owner"], row["gpus"]) for launch, row in rows.items()} == {
        ours: (True, state.owner, [0]),
        theirs: (False, "somebody", [1]),
    }
    assert all(row["started_at"] and not row["reaping"] for row in rows.values())
    listed = await podctl("pods", "reap", gpu_pod)
    assert "this pod" in listed.output
    assert f"podctl pods reap {gpu_pod} LAUNCH --owner 'somebody'" in listed.errors
    shown = await podctl("pods", "show", gpu_pod)
    assert theirs in shown.output
    assert f"podctl pods reap {gpu_pod}" in shown.output

    assert "--yes" in (await podctl("pods", "reap", gpu_pod, ours, status=2)).errors
    foreign = await podctl("pods", "reap", gpu_pod, theirs, "--yes", status=1)
    assert foreign.errors.startswith("error: not_the_owner: ")
    assert "--owner 'somebody'" in foreign.errors
    nobody = await podctl("pods", "reap", gpu_pod, "a/b/3", "--yes", status=1)
    assert nobody.errors.startswith("error: orphan_not_found: ")

    ended = await podctl("pods", "reap", gpu_pod, ours, "--yes")
    assert f"{ours} ended: nothing of it is left" in ended.output
    ended = await podctl("pods", "reap", gpu_pod, theirs, "--owner", "somebody", "--yes")
    assert "nothing of it is left" in ended.output
    assert await podctl.json("pods", "reap", gpu_pod) == []
    seen = (await podlet.call(address, "observe", {"ids": [ours, theirs]}))["launches"]
    assert [launch["state"] for launch in seen] == ["exited", "exited"]
