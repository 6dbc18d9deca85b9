"""Machines that podctl cannot write to: full, read-only, without permission. Each says so, and what to do.

Needs root (or sudo without a password), to mount a small file system where podctl keeps its files.
"""

import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from podctl.client import PodctlClient
from simulator.api import MachineConfig, SimulatedMachine, simulate
from tests.workflow.cli.conftest import podctl, podctl_without_worker, working
from tests.workflow.cli.support import CommandLine
from tests.workflow.conftest import _workers_end_at_once, pool
from tests.workflow.support import MODEL, eventually

__all__ = ["_workers_end_at_once", "podctl", "podctl_without_worker", "pool", "working"]


def as_root(*command: str) -> None:
    """Run a command as root; fails the test where that cannot be."""
    prefix = () if os.geteuid() == 0 else ("sudo", "--non-interactive")
    done = subprocess.run([*prefix, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()} (these tests need root)"


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[SimulatedMachine]:
    async with simulate(tmp_path, [MachineConfig(name="disk")]) as [one]:
        await one.settings(load_seconds=0.1)
        (one.folder / "home" / ".podctl").mkdir()
        yield one


@contextlib.contextmanager
def mounted(machine: SimulatedMachine, options: str) -> Iterator[Path]:
    """Put a small file system where podctl keeps its files."""
    folder = machine.folder / "home" / ".podctl"
    as_root("mount", "-t", "tmpfs", "-o", f"mode=700,uid={os.getuid()},{options}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        as_root("umount", "--lazy", str(folder))


async def add(podctl: CommandLine, machine: SimulatedMachine, name: str) -> None:
    await podctl("pods", "add", name, machine.ssh_command, "--accept-host-key", machine.fingerprint)


async def shown(podctl: CommandLine, name: str, containing: str) -> str:
    """Return what is shown of the pod once it contains a text: its first look may take longer than `add` waits."""

    async def says() -> str | None:
        output = (await podctl("pods", "show", name)).output
        return output if containing in output else None

    return await eventually(says, f"{name} is shown with {containing!r}")


@pytest.mark.parametrize(
    ("options", "says"), [("size=40k", "No space left on device"), ("size=1m,ro", "Read-only file system")]
)
async def test_a_machine_that_takes_no_podlet_says_why(
    podctl: CommandLine, machine: SimulatedMachine, unique: Callable[[str], str], options: str, says: str
) -> None:
    name = unique("pod")
    with mounted(machine, options):
        await add(podctl, machine, name)
        assert "Check space and permissions there" in await shown(podctl, name, says)
    await podctl("pods", "remove", name, "--lost")


async def test_a_folder_that_may_not_be_written_to_says_so(
    podctl: CommandLine, machine: SimulatedMachine, unique: Callable[[str], str]
) -> None:
    name, folder = unique("pod"), str(machine.folder / "home" / ".podctl")
    # Nobody but root is kept from it by permissions.
    as_root("chattr", "+i", folder)
    try:
        await add(podctl, machine, name)
        told = await shown(podctl, name, "Check space and permissions there")
    finally:
        as_root("chattr", "-i", folder)
    assert "Permission denied" in told or "Operation not permitted" in told
    await podctl("pods", "remove", name, "--lost")


async def test_a_disk_that_is_full_at_the_launch_fails_the_start_and_is_no_problem_once_there_is_room(
    podctl: CommandLine, working: PodctlClient, machine: SimulatedMachine, unique: Callable[[str], str]
) -> None:
    name = unique("pod")
    with mounted(machine, "size=2m") as folder:
        await add(podctl, machine, name)

        async def was_looked_at() -> bool:
            return (await working.pod(name)).inventory is not None

        await eventually(was_looked_at, "the podlet is there")
        filling = folder / "filling"
        with contextlib.suppress(OSError), filling.open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)
        failed = await podctl("start", MODEL, "--name", "one", "--pod", name, status=1)
        assert "failed (disk_full)" in failed.errors
        assert "No space left on device" in failed.errors
        [row] = await podctl.json("list", "--pod", name)
        assert (row["state"], row["failure"]["type"], row["gpus"]) == ("stopping", "disk_full", [0])
        filling.unlink()

        async def is_free() -> bool:
            return (await working.pod(name)).servers["one"].finished

        await eventually(is_free, "that nothing was launched is verified, and its GPU free")
        await podctl("start", MODEL, "--name", "one", "--pod", name)
        await podctl("stop", "one", "--pod", name)
        await podctl("pods", "remove", name, "--lost")
