"""`podctl pods doctor`: one machine, looked at from here, from itself, and through its workers; nothing is changed."""

import asyncio
from typing import Any

from domain.gpu.inventory import describe_gpus, foreign_processes
from domain.gpu.models import GpuPodState, PodAddress
from domain.gpu.observation import Inventory
from podctl.client import PodctlClient
from podctl.doctor import Check, Result
from podctl.namespace import pollers
from remote.errors import PodletError, PodletUnusable, RemoteError
from remote.podlet import Podlet
from remote.ssh import HostKey, SshPool, fetch_host_key
from remote.ssh_keys import Passphrases
from workflows.task_queues import DEFAULT_TASK_QUEUE

#: A model's weights take tens of GB, its environment ten.
_DISK_WANTED = 50e9
#: Seconds that the machine has for each answer.
_PATIENCE = 60.0


async def examine_pod(client: PodctlClient, name: str, passphrases: Passphrases | None) -> tuple[Check, ...]:
    """Make every check that can be made of a pod. Raises ``NotFound``."""
    address, state = await client.pod_address(name), await client.pod(name)
    checks = [*await _from_here(address, state, passphrases), *await _from_the_worker(client, state)]
    return tuple(checks)


async def _from_here(address: PodAddress, state: GpuPodState, passphrases: Passphrases | None) -> list[Check]:
    checks = [await _host_key(address, passphrases)]
    if checks[-1].result is Result.FAILED:
        return checks
    pool = SshPool(passphrases=passphrases)
    try:
        try:
            connection = await pool.connection(address)
        except RemoteError as error:
            return [*checks, Check("login", Result.FAILED, "refused", str(error))]
        checks.append(Check("login", Result.OK, f"as {connection.get_extra_info('username')}"))
        return checks + await _on_the_machine(Podlet(pool), address, state)
    finally:
        await pool.close()


async def _host_key(address: PodAddress, passphrases: Passphrases | None) -> Check:
    pinned = HostKey.parse(address.host_key)
    try:
        shown = await fetch_host_key(address.pod, address.ssh, expected=pinned, passphrases=passphrases)
    except RemoteError as error:
        return Check("SSH", Result.FAILED, f"{address.ssh.host} cannot be reached from here", str(error))
    if shown.key != pinned:
        found = f"shown: {shown.key.fingerprint}; pinned: {pinned.fingerprint}"
        advice = f"if it was rebuilt: podctl pods set {address.pod} --accept-host-key {shown.key.fingerprint}"
        return Check("host key", Result.FAILED, found, advice)
    return Check("host key", Result.OK, f"{pinned.fingerprint}, as pinned")


async def _on_the_machine(podlet: Podlet, address: PodAddress, state: GpuPodState) -> list[Check]:
    vllm = state.vllm[-1].program if state.vllm else None
    try:
        async with asyncio.timeout(_PATIENCE):
            inventory = Inventory.model_validate(
                await podlet.call(address, "inventory", {"vllm": vllm, "vllm_version": True})
            )
            found = await podlet.call(address, "examine", {"folder": state.models_path})
    except PodletUnusable as error:
        return [Check("podlet", Result.FAILED, error.code, str(error))]
    except (PodletError, RemoteError, TimeoutError) as error:
        return [Check("podlet", Result.FAILED, "did not answer", str(error) or f"not within {_PATIENCE:.0f} s")]
    return [
        Check("podlet", Result.OK, f"runs on Python {inventory.python}, {inventory.os}"),
        _home(found),
        *_gpus(inventory),
        _vllm(inventory, address.pod),
        _models_path(state, found),
        _token(found),
        _reaping(found),
        _logs(found),
    ]


def _home(found: dict[str, Any]) -> Check:
    free = f"{found['disk_free_bytes'] / 1e9:.0f} GB free"
    if found["write_problem"]:
        return Check("home", Result.FAILED, found["write_problem"], "podctl keeps its records there: make it writable")
    if found["disk_free_bytes"] < _DISK_WANTED:
        return Check("home", Result.WARNING, free, "models go elsewhere with podctl pods setup --models-path")
    return Check("home", Result.OK, f"writable, {free}")


def _gpus(inventory: Inventory) -> list[Check]:
    if inventory.gpu_state != "ok" or not inventory.gpus:
        advice = "model servers need an NVIDIA driver whose nvidia-smi this user may run (in a container: --gpus all)"
        return [Check("GPUs", Result.FAILED, describe_gpus(inventory), advice)]
    checks = [Check("GPUs", Result.OK, f"{describe_gpus(inventory)}, driver {inventory.driver or 'unknown'}")]
    if any(gpu.mig for gpu in inventory.gpus):
        advice = "podctl starts nothing on MIG devices yet: nvidia-smi -mig 0, as the machine's owner"
        checks.append(Check("MIG", Result.WARNING, "some GPUs are divided", advice))
    if any(gpu.memory_used_mib is None for gpu in inventory.gpus):
        advice = "without it a stop is verified by its processes alone"
        checks.append(Check("GPU memory", Result.WARNING, "nvidia-smi does not say how much is used", advice))
    if inventory.gpu_message:
        advice = "a stop is then verified by the memory that comes back, and others' use is not seen"
        checks.append(Check("GPU processes", Result.WARNING, inventory.gpu_message, advice))
    foreign = foreign_processes(inventory)
    if foreign:
        pids = ", ".join(str(pid) for found in foreign.values() for pid in found)
        advice = "podctl plans around these GPUs until those processes have ended"
        checks.append(Check("others' processes", Result.WARNING, f"on {len(foreign)} GPUs: {pids}", advice))
    return checks


def _vllm(inventory: Inventory, pod: str) -> Check:
    if inventory.vllm.program is None:
        return Check("vLLM", Result.FAILED, "there is none", f"podctl pods setup {pod} installs it")
    return Check("vLLM", Result.OK, f"{inventory.vllm.version or 'unknown version'} at {inventory.vllm.program}")


def _models_path(state: GpuPodState, found: dict[str, Any]) -> Check:
    if state.models_path is None:
        return Check("models", Result.OK, "in Hugging Face's own cache")
    if not found["folder_writable"]:
        advice = f"mount it again, or: podctl pods setup {state.name} --models-path PATH"
        return Check("models", Result.FAILED, f"{state.models_path} cannot be written", advice)
    return Check("models", Result.OK, state.models_path)


def _token(found: dict[str, Any]) -> Check:
    if found["hf_token"]:
        return Check("Hugging Face token", Result.OK, "there is one")
    advice = "gated models need one: HF_TOKEN for the worker, or podctl pods setup, which asks for it"
    return Check("Hugging Face token", Result.OK, "none on the machine", advice)


def _reaping(found: dict[str, Any]) -> Check:
    if found["reaps_orphans"]:
        return Check("PID 1", Result.OK, "takes the exit codes of orphans")
    advice = "dead processes stay as zombies; podctl counts them as gone. A container started with --init has none"
    return Check("PID 1", Result.WARNING, "leaves zombies", advice)


def _logs(found: dict[str, Any]) -> Check:
    if found["bounds_logs"]:
        return Check("log size", Result.OK, "bounded: the file system gives room back (fallocate)")
    return Check("log size", Result.WARNING, "not bounded: no fallocate there", "servers' logs grow with what they say")


async def _from_the_worker(client: PodctlClient, state: GpuPodState) -> list[Check]:
    queue = state.task_queue or DEFAULT_TASK_QUEUE
    there = await pollers(client.temporal, queue)
    if there:
        workers = Check("worker", Result.OK, f"{len(there)} on task queue {queue}")
    else:
        advice = f"where the machine's key is: podctl worker --task-queue {queue}"
        workers = Check("worker", Result.FAILED, f"no worker polls task queue {queue}", advice)
    return [workers, _reach(state), _orphans(state)]


def _reach(state: GpuPodState) -> Check:
    if state.reachable is None:
        advice = f"look again in a moment: podctl pods doctor {state.name}"
        return Check("reached by a worker", Result.WARNING, "not tried yet", advice)
    since = f"since {state.since:%Y-%m-%d %H:%M:%S} UTC"
    if not state.reachable:
        return Check("reached by a worker", Result.FAILED, f"not {since}", state.unreachable_reason)
    if state.inspection_problem:
        return Check("reached by a worker", Result.FAILED, f"{since}, but not looked at", state.inspection_problem)
    return Check("reached by a worker", Result.OK, since)


def _orphans(state: GpuPodState) -> Check:
    if not state.orphans:
        return Check("orphans", Result.OK, "no launch that nobody owns")
    found = ", ".join(orphan.launch_id for orphan in state.orphans)
    advice = f"podctl plans around what they hold; end one with: podctl pods reap {state.name} LAUNCH"
    return Check("orphans", Result.WARNING, found, advice)
