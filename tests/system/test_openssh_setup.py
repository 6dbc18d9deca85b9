"""A machine behind a real sshd is set up with the real uv; what it installs is made on the spot, without a network."""

import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from domain.gpu.commands import StartSetup
from domain.gpu.setup import Setup
from podctl.client import PodctlClient
from simulator.api import MachineConfig, simulate
from tests.system.sshd import OpenSshMachine, sshd_program
from tests.system.tiny_vllm import VERSION, write_wheels
from tests.workflow.conftest import _workers_end_at_once, podctl, pool
from tests.workflow.support import Pod, register

# pytest takes fixtures from the names of a module.
__all__ = ["_workers_end_at_once", "podctl", "pool"]


@pytest.fixture
async def machine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OpenSshMachine]:
    """A machine whose home has blanks in its path, with the real uv on its PATH and an index of two vLLMs."""
    folder = tmp_path_factory.mktemp("a home with blanks")
    write_wheels(folder / "wheels", VERSION, "0.98.0")
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert uv, "uv is missing: pip install -r requirements-development.lock"
    async with simulate(folder, [MachineConfig(name="sim")]) as [inside]:
        machine = OpenSshMachine(inside.folder, sshd_program())
        (machine.folder / "bin" / "uv").unlink()
        (machine.folder / "bin" / "uv").symlink_to(uv)
        await machine.configure(
            UV_FIND_LINKS=str(folder / "wheels"), UV_NO_INDEX="1", UV_OFFLINE="1", UV_PYTHON_DOWNLOADS="never"
        )
        await machine.start_sshd()
        yield machine


async def set_up(pod: Pod, number: int, **request: str) -> Setup:
    await pod.podctl.execute_pod(pod.name, StartSetup.model_validate(request), by="ann")
    state = await pod.until(
        lambda pod: pod.setup is not None and pod.setup.number == number and pod.setup.state != "running",
        f"setup {number} ends",
    )
    assert state.setup is not None
    return state.setup


def files(folder: Path) -> dict[Path, bytes]:
    """Return what lies in a home, podctl's own and the shell's history aside."""
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.relative_to(folder).parts[0].startswith(".podctl")
    }


async def test_the_real_uv_installs_each_version_into_an_environment_of_its_own(
    podctl: PodctlClient, machine: OpenSshMachine, unique: Callable[[str], str]
) -> None:
    pod = await register(podctl, machine, unique("pod"))
    home = machine.folder / "home"
    before = files(home)
    first = await set_up(pod, 1, models_path="~/the models")
    assert first.state == "completed", first.failure
    second = await set_up(pod, 2, vllm="==0.98.0")
    assert second.state == "completed", second.failure
    state = await pod.state()
    root = home / f".podctl-{pod.name}" / "vllm"
    assert [(one.version, one.program) for one in state.vllm] == [
        (VERSION, f"{root}/{VERSION}/bin/vllm"),
        ("0.98.0", f"{root}/0.98.0/bin/vllm"),
    ]
    assert state.models_path == str(home / "the models")
    assert files(home) == before

    failed = await set_up(pod, 3, vllm="==7.7.7")
    assert failed.failure is not None
    assert (failed.failure.step, failed.failure.code) == ("venv", "package_not_found")
    assert [one.version for one in (await pod.state()).vllm][-1] == "0.98.0", "what was set up before is still used"
