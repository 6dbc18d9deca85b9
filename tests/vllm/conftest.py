"""A machine with the real vLLM behind a real OpenSSH sshd, a worker, and podctl as a person types it.

What is real: vLLM and the model that it serves (on the CPU), OpenSSH, the podlet, Temporal, the worker, the CLI. What
is pretended: GPUs. ``nvidia-smi`` on the machine's PATH is the simulator's, so that a start can be planned; nobody
holds memory of those GPUs, so what a stop verifies about GPU memory is not proven here.
"""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import yaml

from simulator.api import Gpu, MachineConfig, simulate
from tests.system.sshd import OpenSshMachine, sshd_program
from tests.vllm.support import RealServers
from tests.workflow.cli.conftest import podctl, podctl_without_worker, working
from tests.workflow.cli.support import CommandLine
from tests.workflow.conftest import _workers_end_at_once, pool

# pytest takes fixtures from the names of a module.
__all__ = ["_workers_end_at_once", "podctl", "podctl_without_worker", "pool", "working"]

#: Of the catalog's entry: no more memory than such a model needs, and nothing is asked of the network.
_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
_ARGUMENTS = ["--max-model-len", "1024"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--vllm-program", type=Path, help="the real vllm")
    parser.addoption("--vllm-model", type=Path, help="the folder of a model with a chat template, small enough for CPU")


@pytest.fixture(scope="session")
def vllm_program(request: pytest.FixtureRequest) -> Path:
    return _given(request, "--vllm-program")


@pytest.fixture(scope="session")
def vllm_model(request: pytest.FixtureRequest) -> Path:
    return _given(request, "--vllm-model")


def _given(request: pytest.FixtureRequest, option: str) -> Path:
    path: Path | None = request.config.getoption(option)
    if path is None or not path.exists():
        pytest.fail(f"{option} has to name what is there, not {path}: see make test-vllm")
    return path.absolute()


@pytest.fixture(scope="module")
async def machine(tmp_path_factory: pytest.TempPathFactory, vllm_program: Path) -> AsyncIterator[OpenSshMachine]:
    """One machine for all tests: what vLLM compiles for the first server, the others find in its cache."""
    async with simulate(tmp_path_factory.mktemp("real"), [MachineConfig(name="real", gpus=(Gpu(),))]) as [inside]:
        pretended = inside.folder / "bin" / "vllm"
        pretended.unlink()
        pretended.symlink_to(vllm_program)
        made = OpenSshMachine(inside.folder, sshd_program())
        await made.configure()
        await made.start_sshd()
        yield made


@pytest.fixture
async def servers(
    podctl: CommandLine, machine: OpenSshMachine, vllm_model: Path, unique: Callable[[str], str]
) -> AsyncIterator[RealServers]:
    """The machine as a pod, whose model servers are real."""
    entry = {"gpus": 1, "arguments": _ARGUMENTS, "environment": _ENVIRONMENT}
    podctl.paths.config.mkdir(parents=True)
    catalog = {"models": {str(vllm_model): {"configurations": [entry]}}}
    (podctl.paths.config / "catalog.yaml").write_text(yaml.safe_dump(catalog))
    pod = unique("pod")
    await podctl("pods", "add", pod, machine.ssh_command, "--accept-host-key", machine.fingerprint)
    yield RealServers(podctl, machine, pod, str(vllm_model))
    await podctl("pods", "remove", pod, "--lost")
    # Ends what a failed test has left.
    await machine.reboot()
