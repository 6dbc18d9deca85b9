"""How a pod's state changes while its machine is set up."""

import hashlib

from domain.errors import BadInput, Rejected
from domain.gpu import setup as steps
from domain.gpu.commands import SetupStepDone, SetupStepFailed, StartSetup
from domain.gpu.draft import Draft
from domain.gpu.inventory import describe_gpus
from domain.gpu.models import GpuPodState
from domain.gpu.observation import Inventory, Vllm
from domain.gpu.setup import Setup, SetupFailure, SetupRequest, SetupStep, VllmInstall

#: vLLM with PyTorch and CUDA's libraries takes up to 15 GB, and as much again while it is being installed.
ENOUGH_DISK_BYTES = 40e9
#: Installations that are remembered; their folders stay on the machine.
_INSTALLS_KEPT = 20


def start_setup(draft: Draft, command: StartSetup) -> None:
    """Begin a setup. What is asked for while the same is under way changes nothing.

    Rejected: ``setup_running``, ``bad_setup``.
    """
    before = draft.state.setup
    request = wanted_request(command, before.request if before else None)
    if before is not None and before.state == "running":
        if before.request == request:
            return
        at = before.current.name if before.current else "its end"
        raise Rejected(
            "setup_running",
            f"pod {draft.state.name!r} is being set up with other settings since {before.started_at:%H:%M:%S} UTC (at "
            f"{at}): wait until that has ended (podctl pods setup {draft.state.name} follows it)",
        )
    identity = hashlib.sha256(draft.command_id.encode()).hexdigest()[:8]
    number = before.number + 1 if before else 1
    # What the checks go by is looked at anew.
    draft.update(
        setup=steps.begin(request, number=number, identity=identity, by=draft.by, now=draft.now),
        inventory_stale=draft.state.inventory is not None,
        inspect_not_before=None,
    )
    draft.emit("setup_started", number=number, vllm=request.vllm, mount=" ".join(request.mount) or None,
               models_path=request.models_path or None)  # fmt: skip


def wanted_request(command: StartSetup, before: SetupRequest | None) -> SetupRequest:
    """Return what a setup is to do: what is not said is as in the setup before. Rejected ``bad_setup``."""
    before = before or SetupRequest()
    mount = before.mount if command.mount is None else command.mount
    vllm = before.vllm if command.vllm is None else command.vllm
    try:
        if mount:
            steps.check_mount(mount)
        if command.models_path is not None:
            models_path = command.models_path
        elif command.mount:
            models_path = steps.mounted_at(command.mount)
        else:
            models_path = before.models_path
        if models_path:
            steps.check_models_path(models_path)
        steps.check_vllm(vllm)
    except BadInput as error:
        raise Rejected("bad_setup", str(error)) from error
    return SetupRequest(mount=mount, models_path=models_path, vllm=vllm)


def setup_step_done(draft: Draft, command: SetupStepDone) -> None:
    """Take in that a step was done on the machine."""
    setup = _running(draft, command.launch_id)
    if setup is None or setup.current is None:
        return
    setup = setup.model_copy(
        update={
            "version": command.version or setup.version,
            "models_path": command.models_path or setup.models_path,
        }
    )
    _done(draft, setup, command.message, program=command.program)


def setup_step_failed(draft: Draft, command: SetupStepFailed) -> None:
    """Take in that a step failed. One that a reboot interrupted begins again, with all before it."""
    setup = _running(draft, command.launch_id)
    if setup is None or setup.current is None:
        return
    if command.code == "interrupted" and setup.round < steps.MAXIMUM_ROUNDS:
        draft.update(setup=steps.begin_again(setup, draft.now), inventory_stale=draft.state.inventory is not None)
        draft.emit("setup_interrupted", number=setup.number, step=setup.current.name, message=command.message)
        return
    failure = SetupFailure(step=setup.current.name, **command.model_dump(exclude={"type", "launch_id"}))
    _failed(draft, setup, failure)


def advance_setup(draft: Draft) -> None:
    """Do the steps that are a matter of what is known of the machine."""
    while (setup := draft.state.setup) is not None and setup.state == "running" and setup.current is not None:
        step = setup.current
        if step.name == "connect" and draft.state.reachable is True:
            _done(draft, setup, f"{draft.state.ssh.host} answers, and shows the pinned host key")
        elif step.name == "check" and _is_known(draft.state, step):
            _check(draft, setup, draft.state.inventory)
        else:
            return


def with_installed(state: GpuPodState, inventory: Inventory) -> Inventory:
    """Return an inventory that names the vLLM that model servers are started with: the newest that was set up.

    Also when its program is gone from the machine: a start then fails by its name, and takes no other in silence.
    """
    if not state.vllm:
        return inventory
    newest = state.vllm[-1]
    return inventory.model_copy(update={"vllm": Vllm(program=newest.program, version=newest.version)})


def awaits_setup(state: GpuPodState) -> bool:
    """Return whether model servers wait for a setup: there is no vLLM yet, and one is on its way."""
    if state.setup is None or state.setup.state != "running":
        return False
    return state.inventory is None or state.inventory.vllm.program is None


def _is_known(state: GpuPodState, step: SetupStep) -> bool:
    seen = state.inventory_at
    return not state.inventory_stale and seen is not None and step.started_at is not None and seen >= step.started_at


def _check(draft: Draft, setup: Setup, inventory: Inventory | None) -> None:
    if inventory is None:
        return
    if inventory.gpu_state != "ok" or not inventory.gpus:
        failure = SetupFailure(
            step="check",
            code="no_driver" if inventory.gpu_state == "no_driver" else "no_gpus",
            message=f"{draft.state.name} has nothing that vLLM could run on: {describe_gpus(inventory)}",
            advice="run nvidia-smi on the machine; a rented machine needs an image with NVIDIA's driver, one of your "
            "own the driver itself. Then repeat the setup",
        )
        _failed(draft, setup, failure)
        return
    facts = [
        inventory.os,
        f"Python {inventory.python}",
        f"driver {inventory.driver or 'of unknown version'}",
        describe_gpus(inventory),
    ]
    free = inventory.disk_free_bytes
    if free is not None:
        low = "; warning: vLLM with its libraries takes 15 GB and more" if free < ENOUGH_DISK_BYTES else ""
        facts.append(f"{free / 1e9:,.0f} GB free in {inventory.root}{low}")
    _done(draft, setup, ", ".join(fact for fact in facts if fact))


def _running(draft: Draft, launch_id: str) -> Setup | None:
    """Return the setup whose current step this launch does, or None: a report that came late is dropped."""
    setup = draft.state.setup
    if setup is None or setup.state != "running" or setup.current is None:
        return None
    return setup if setup.launch_id(draft.state.name, setup.current.name) == launch_id else None


def _done(draft: Draft, setup: Setup, message: str, *, program: str | None = None) -> None:
    step = setup.current
    if step is None:
        return
    if step.name == "verify" and not (program and setup.version):
        failure = SetupFailure(step="verify", code="failed", message="nobody said what was installed", advice="repeat")
        _failed(draft, setup, failure)
        return
    seconds = (draft.now - step.started_at).total_seconds() if step.started_at else None
    setup = steps.step_done(setup, message, draft.now)
    draft.update(setup=setup)
    draft.emit("setup_step_done", number=setup.number, step=step.name, seconds=seconds, message=message)
    if setup.state == "completed" and program and setup.version:
        _completed(draft, setup, VllmInstall(spec=setup.request.vllm, version=setup.version, program=program,
                                             at=draft.now))  # fmt: skip


def _completed(draft: Draft, setup: Setup, install: VllmInstall) -> None:
    others = tuple(one for one in draft.state.vllm if one.program != install.program)
    draft.update(vllm=(*others, install)[-_INSTALLS_KEPT:], models_path=setup.models_path)
    if draft.state.inventory is not None:
        draft.update(inventory=with_installed(draft.state, draft.state.inventory))
    draft.emit("setup_completed", number=setup.number, version=install.version, program=install.program,
               models_path=setup.models_path)  # fmt: skip


def _failed(draft: Draft, setup: Setup, failure: SetupFailure) -> None:
    draft.update(setup=steps.step_failed(setup, failure, draft.now))
    draft.emit("setup_step_failed", number=setup.number, step=failure.step, code=failure.code, message=failure.message,
               advice=failure.advice)  # fmt: skip
