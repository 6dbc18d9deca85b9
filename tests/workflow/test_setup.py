"""A machine is set up by its pod's workflow: every step on a simulated machine, and what comes in between."""

import hashlib
from pathlib import Path
from typing import Any

from domain.gpu.commands import StartSetup
from domain.gpu.setup import Setup
from simulator.api import SimulatedMachine
from tests.workflow.support import SimulatedPod

MOUNT = ("mount", "-t", "nfs", "files:/models", "/tmp/podctl-models")  # noqa: S108 - made by no test


async def set_up(pod: SimulatedPod, **request: Any) -> None:  # noqa: ANN401 - the model checks them
    await pod.podctl.execute_pod(pod.name, StartSetup(**request), by="ann")


async def setup_is(pod: SimulatedPod, state: str) -> Setup:
    found = await pod.until(lambda pod: pod.setup is not None and pod.setup.state == state, f"the setup is {state}")
    assert found.setup is not None
    return found.setup


def uv_calls(machine: SimulatedMachine, *words: str) -> int:
    """Return how often uv was called so on this machine."""
    log = machine.folder / "uv.log"
    calls = log.read_text().splitlines() if log.exists() else []
    return sum(call.startswith(" ".join(words)) for call in calls)


def home_of(machine: SimulatedMachine) -> Path:
    return machine.folder / "home"


def fingerprint(folder: Path) -> dict[str, str]:
    """Return every file below a folder of the user's with a digest of its content; podctl's own aside."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not path.relative_to(folder).parts[0].startswith(".podctl")
    }


async def test_a_machine_is_set_up_and_its_servers_are_started_with_what_was_installed(pod: SimulatedPod) -> None:
    home = home_of(pod.machine)
    for name, text in ((".bashrc", "alias l=ls\n"), (".cache/uv/wheel", "theirs"), ("venv/pyvenv.cfg", "home = x\n")):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    before = fingerprint(home)
    models = home / 'it\'s "models", möbel 模型'
    await set_up(pod, mount=(*MOUNT[:-1], str(models)))
    setup = await setup_is(pod, "completed")
    assert [step.name for step in setup.steps] == [
        "connect", "check", "mount", "models", "uv", "venv", "install", "verify",
    ]  # fmt: skip
    assert "0.32.0+simulated" in setup.steps[-1].message
    state = await pod.state()
    [install] = state.vllm
    assert install.program == f"{home}/.podctl-{pod.name}/vllm/0.32.0+simulated/bin/vllm"
    assert state.models_path == str(models)
    assert (models / "huggingface" / "hub").is_dir()
    await pod.start("coder")
    server = await pod.server_is("coder", "ready")
    assert server.plan is not None
    assert server.plan.argv[0] == install.program
    assert server.plan.environment["HF_HUB_CACHE"] == f"{models}/huggingface/hub"
    assert fingerprint(home) == before
    types = await pod.event_types()
    assert types.count("setup_step_done") == len(setup.steps)
    assert types.count("setup_completed") == 1


async def test_a_failed_step_is_told_and_a_repeated_setup_goes_on_from_there(pod: SimulatedPod) -> None:
    await pod.machine.settings(install_failure="disk_full")
    await set_up(pod, vllm="==0.31.0")
    setup = await setup_is(pod, "failed")
    assert setup.failure is not None
    assert (setup.failure.step, setup.failure.code) == ("install", "disk_full")
    assert "No space left on device" in setup.failure.message
    assert "df -h" in setup.failure.advice
    assert "Downloading vllm" in setup.failure.log_tail
    await pod.machine.settings(install_failure=None)
    made, resolved = uv_calls(pod.machine, "venv"), uv_calls(pod.machine, "pip compile")
    await set_up(pod)
    setup = await setup_is(pod, "completed")
    assert (setup.number, setup.version) == (2, "0.31.0")
    assert uv_calls(pod.machine, "venv") == made
    again = uv_calls(pod.machine, "pip install")
    await set_up(pod)
    await pod.until(lambda pod: pod.setup is not None and pod.setup.number == 3, "it is set up once more")
    setup = await setup_is(pod, "completed")
    messages = {step.name: step.message for step in setup.steps}
    assert "already" in messages["install"]
    assert uv_calls(pod.machine, "pip install") == again
    assert uv_calls(pod.machine, "pip compile") == resolved + 1


async def test_each_version_has_an_environment_of_its_own_and_running_servers_keep_theirs(pod: SimulatedPod) -> None:
    await set_up(pod)
    await setup_is(pod, "completed")
    await pod.start("old")
    old = await pod.server_is("old", "ready")
    await set_up(pod, vllm="nightly")
    await pod.until(lambda pod: len(pod.vllm) == 2, "the nightly one is there")
    await pod.start("new")
    new = await pod.server_is("new", "ready")
    after = (await pod.state()).servers["old"]
    assert (after.state, after.pid) == ("ready", old.pid)
    assert old.plan is not None
    assert new.plan is not None
    assert "/vllm/0.32.0+simulated/" in old.plan.argv[0]
    assert "/vllm/0.33.0rc1.dev7+gsimulated/" in new.plan.argv[0]


async def test_what_uv_says_is_understood(pod: SimulatedPod) -> None:
    for number, (failure, step) in enumerate((("no_network", "venv"), ("package_not_found", "venv")), start=1):
        await pod.machine.settings(install_failure=failure)
        await set_up(pod, vllm=f"==0.1.{number}")
        await pod.until(lambda pod, n=number: pod.setup is not None and pod.setup.number == n, "it began")  # type: ignore[misc]
        setup = await setup_is(pod, "failed")
        assert setup.failure is not None
        assert (setup.failure.step, setup.failure.code) == (step, failure)


async def test_a_mount_that_is_refused_is_told_with_its_exit_code(pod: SimulatedPod) -> None:
    await pod.machine.settings(mount_failure="refused")
    await set_up(pod, mount=(*MOUNT[:-1], str(home_of(pod.machine) / "models")))
    setup = await setup_is(pod, "failed")
    assert setup.failure is not None
    assert (setup.failure.step, setup.failure.code) == ("mount", "mount_failed")
    assert "exit code 32: mount.nfs: access denied" in setup.failure.message


async def test_a_machine_without_a_driver_is_not_set_up(pod: SimulatedPod) -> None:
    await pod.machine.settings(nvidia_smi="no_driver")
    await set_up(pod)
    setup = await setup_is(pod, "failed")
    assert setup.failure is not None
    assert (setup.failure.step, setup.failure.code) == ("check", "no_driver")
    assert {step.state for step in setup.steps[2:]} == {"pending"}


async def test_an_outage_in_the_middle_of_a_step_is_waited_out_and_the_step_was_done_once(pod: SimulatedPod) -> None:
    hook = pod.machine.hooks / "uv.install"
    hook.touch()
    done_before = uv_calls(pod.machine, "pip install")
    await set_up(pod)

    await pod.until(lambda _: (pod.machine.hooks / "uv.install.reached").exists(), "uv is at work")
    await pod.machine.unreachable(outage="refuse")
    await pod.machine.drop_connections()
    await pod.until(lambda pod: pod.reachable is False, "the outage is noticed")
    hook.unlink()
    (pod.machine.hooks / "uv.install.reached").unlink()
    await pod.machine.reachable()
    await setup_is(pod, "completed")
    assert uv_calls(pod.machine, "pip install") == done_before + 1


async def test_a_reboot_in_the_middle_mounts_again_and_goes_on(pod: SimulatedPod) -> None:
    hook = pod.machine.hooks / "uv.install"
    hook.touch()
    models = str(home_of(pod.machine) / "models")
    await set_up(pod, mount=(*MOUNT[:-1], models))
    await pod.until(lambda _: (pod.machine.hooks / "uv.install.reached").exists(), "uv is at work")
    hook.unlink()
    (pod.machine.hooks / "uv.install.reached").unlink()
    await pod.machine.reboot()
    setup = await setup_is(pod, "completed")
    assert setup.round == 2
    assert models in (pod.machine.folder / "mounts").read_text()
    assert "setup_interrupted" in await pod.event_types()
