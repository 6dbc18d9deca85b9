"""`podctl pods setup`: what is said on the way, exit codes, JSON, looking again, and a token that nobody sees."""

import io
import stat
from collections.abc import AsyncIterator, Callable

import pytest

from podctl.client import PodctlClient
from simulator.api import SimulatedMachine
from tests.workflow.cli.support import CommandLine
from tests.workflow.support import eventually

TOKEN = "hf_abcdefghijklmnop"


@pytest.fixture
async def new_pod(podctl: CommandLine, machine: SimulatedMachine, unique: Callable[[str], str]) -> AsyncIterator[str]:
    """A name for the machine, which nobody has added yet."""
    name = unique("pod")
    yield name
    await machine.reachable()
    await podctl("pods", "remove", name, "--lost")


async def test_a_machine_that_nobody_knows_is_added_and_set_up_at_once(
    podctl: CommandLine, machine: SimulatedMachine, new_pod: str
) -> None:
    models = f"{machine.folder}/home/models of {new_pod}"
    done = await podctl(
        "pods", "setup", new_pod, machine.ssh_command, "--accept-host-key", machine.fingerprint,
        "--mount", f"mount -t nfs files:/models '{models}'",
    )  # fmt: skip
    assert f"pod {new_pod} is set up: vLLM 0.32.0+simulated" in done.output
    assert models in done.output
    lines = done.errors.splitlines()
    assert any(line.startswith("check is done: ") and "2 x H100" in line for line in lines)
    assert f"mount is done: {models} is mounted" in lines
    assert any(line.startswith("verify is done: vLLM 0.32.0+simulated") for line in lines)
    [row] = await podctl.json("pods")
    assert (row["vllm"], row["setup"]) == ("0.32.0+simulated", "completed")
    shown = (await podctl("pods", "show", new_pod)).output
    assert "install" in shown
    assert f"models in {models}" in shown

    again = await podctl.json("pods", "setup", new_pod)
    assert again["setup"]["number"] == 2
    assert again["setup"]["state"] == "completed"
    assert again["setup"]["request"]["mount"][-1] == models
    assert again["models_path"] == models
    assert [install["spec"] for install in again["vllm"]] == ["release"]


async def test_a_failed_step_says_what_failed_and_how_to_go_on(
    podctl: CommandLine, machine: SimulatedMachine, gpu_pod: str
) -> None:
    await machine.settings(install_failure="no_network")
    failed = await podctl("pods", "setup", gpu_pod, "--vllm", "==0.30.1", status=1)
    assert "failed at step venv (no_network)" in failed.errors
    assert "dns error" in failed.errors
    assert "What to do: the machine does not reach the package index" in failed.errors
    assert f"It goes on from there with: podctl pods setup {gpu_pod}" in failed.errors
    failed = await podctl("pods", "setup", gpu_pod, "-o", "json", status=1)
    assert failed.json["setup"]["failure"]["code"] == "no_network"
    [row] = await podctl.json("pods")
    assert row["setup"] == "failed: venv"
    assert "What to do" in (await podctl("pods", "show", gpu_pod)).output
    await machine.settings(install_failure=None)
    assert "vLLM 0.30.1" in (await podctl("pods", "setup", gpu_pod)).output


async def test_a_laptop_that_leaves_can_look_again_and_another_setup_is_refused_meanwhile(
    podctl: CommandLine, working: PodctlClient, machine: SimulatedMachine, gpu_pod: str
) -> None:
    hook = machine.hooks / "uv.install"
    hook.touch()
    async with podctl.started("pods", "setup", gpu_pod, "--vllm", "==0.29.0") as looking:
        await looking.error_line("install is running")
        looking.interrupt()
        left = await looking.ended()
    assert left.status == 130
    assert f"the setup goes on; look again with: podctl pods show {gpu_pod}" in left.errors
    shown = (await podctl("pods", "show", gpu_pod)).output
    assert "running" in shown
    refused = await podctl("pods", "setup", gpu_pod, "--vllm", "nightly", status=1)
    assert "setup_running" in refused.errors

    async def says() -> bool:
        return "Downloading vllm" in await working.setup_step_says(gpu_pod)

    await eventually(says, "what uv prints is seen")
    async with podctl.started("pods", "setup", gpu_pod) as again:
        await again.error_line("install is running")
        hook.unlink()
        (machine.hooks / "uv.install.reached").unlink()
        done = await again.ended()
    assert done.status == 0
    assert "vLLM 0.29.0" in done.output
    assert (await working.pod(gpu_pod)).setup is not None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--mount", "mount a /b; reboot"), "';'"),
        (("--mount", "mount files:/a models"), "no path from /"),
        (("--mount", "mount 'a /b"), "No closing quotation"),
        (("--models-path", "models"), "--models-path 'models'"),
        (("--vllm", ">=0.10.0"), "--vllm '>=0.10.0'"),
        (("--vllm", "==1;reboot"), "--vllm"),
    ],
)
async def test_what_is_typed_wrongly_ends_with_2_before_anything_happens(
    podctl_without_worker: CommandLine, options: tuple[str, ...], said: str
) -> None:
    assert said in (await podctl_without_worker("pods", "setup", "box", *options, status=2)).errors


async def test_a_pod_that_nobody_knows_needs_its_ssh_line(podctl_without_worker: CommandLine) -> None:
    wrong = await podctl_without_worker("pods", "setup", "box", status=2)
    assert "podctl pods setup box 'ssh …'" in wrong.errors


async def test_another_address_is_not_taken_for_the_same_pod(
    podctl: CommandLine, machine: SimulatedMachine, gpu_pod: str
) -> None:
    wrong = await podctl("pods", "setup", gpu_pod, machine.ssh_command.replace("user@", "root@"), status=2)
    assert f"podctl pods set {gpu_pod}" in wrong.errors


async def test_a_token_can_be_given_with_the_first_setup(
    podctl: CommandLine, machine: SimulatedMachine, new_pod: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{TOKEN}\n"))
    done = await podctl(
        "pods", "setup", new_pod, machine.ssh_command, "--accept-host-key", machine.fingerprint, "--hf-token"
    )
    assert "the Hugging Face token was written to" in done.errors
    (machine.folder / "home" / ".cache" / "huggingface" / "token").unlink()


async def test_a_token_is_written_where_hugging_face_looks_and_is_seen_nowhere_else(
    podctl: CommandLine,
    working: PodctlClient,
    machine: SimulatedMachine,
    gpu_pod: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = machine.folder / "home" / ".cache" / "huggingface" / "token"
    file.unlink(missing_ok=True)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{TOKEN}\n"))
    done = await podctl("pods", "setup", gpu_pod, "--hf-token")
    assert f"the Hugging Face token was written to {file} on {gpu_pod}" in done.errors
    assert TOKEN not in done.output + done.errors
    assert file.read_text() == TOKEN
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    history = await working.temporal.get_workflow_handle(f"gpu-pod/{gpu_pod}").fetch_history()
    assert TOKEN not in history.to_json()
    monkeypatch.setattr("sys.stdin", io.StringIO("hf_another_token\n"))
    refused = await podctl("pods", "setup", gpu_pod, "--hf-token", status=1)
    assert f"{file} holds another token" in refused.errors
    assert "hf_another_token" not in refused.output + refused.errors
    assert file.read_text() == TOKEN
    monkeypatch.setattr("sys.stdin", io.StringIO("no token at all\n"))
    wrong = await podctl("pods", "setup", gpu_pod, "--hf-token", status=2)
    assert "no token at all" not in wrong.errors
    file.unlink()
