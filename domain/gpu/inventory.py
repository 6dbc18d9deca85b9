"""What a machine's inventory says: GPU types as the catalog names them, foreign processes, what changed."""

import re

from domain.gpu.observation import ComputeApp, Gpu, Inventory

# Longest first: H200 is not an H20, A100 is not an A10, L40S is not an L4.
_DATA_CENTER = re.compile(
    r"\b(GB300|GB200|GH200|B300|B200|B100|GB10|H200|H100|H800|H20|A100|A800|A10G|L40S|A40|A30|A16|A10|A2|L40|L20|V100"
    r"|P100|P40|L4|L2|T4)\b"
)
#: A laptop's GPU has the name of the card, and less memory.
_CARD = re.compile(r"\b((?:GTX|RTX) (?:PRO )?A?\d{4}(?: (?:Ti SUPER|Ti|SUPER|SFF Ada|Ada|D))?(?: Laptop)?)\b")
#: Foreign processes kept in the state; what matters is which GPUs have any.
_APPS_KEPT = 64


def gpu_type(name: str) -> str:
    """Return the catalog's type for a GPU name: ``NVIDIA H100 80GB HBM3`` -> ``H100``, ``… RTX 4090`` -> ``RTX 4090``.

    A name that fits no known form is returned without its maker.
    """
    for pattern in (_DATA_CENTER, _CARD):
        found = pattern.search(name)
        if found:
            return found.group(1)
    return name.removeprefix("NVIDIA ").strip()


def memory_gb(gpu: Gpu) -> float | None:
    """Return the GPU's memory in GB (10^9 bytes, as cards are sold), or None where nvidia-smi does not say."""
    return None if gpu.memory_total_mib is None else gpu.memory_total_mib * 2**20 / 1e9


def foreign_processes(inventory: Inventory) -> dict[str, tuple[int, ...]]:
    """Return GPU uuid -> pids of processes on it that no launch of ours owns."""
    found: dict[str, tuple[int, ...]] = {}
    for app in inventory.compute_apps:
        if app.launch is None:
            found[app.gpu_uuid] = (*found.get(app.gpu_uuid, ()), app.pid)
    return found


def describe_gpus(inventory: Inventory) -> str:
    """Return the GPUs in words: ``2 x H100, 1 x RTX 4090``; or why there are none, or not all of them."""
    message = " ".join(inventory.gpu_message.split("\n")[0].split())[:200]
    if not inventory.gpus:
        reasons = {
            "ok": "no GPU",
            "no_nvidia_smi": "no nvidia-smi on the machine",
            "no_driver": "nvidia-smi finds no driver",
            "error": "nvidia-smi failed",
        }
        return reasons[inventory.gpu_state] + (f" ({message})" if message else "")
    counts: dict[str, int] = {}
    for gpu in inventory.gpus:
        kind = gpu_type(gpu.name) + (" with MIG" if gpu.mig else "")
        counts[kind] = counts.get(kind, 0) + 1
    words = ", ".join(f"{count} x {kind}" for kind, count in counts.items())
    return words + (f" ({message})" if message else "")


def compact(inventory: Inventory) -> Inventory:
    """Return the inventory as the state keeps it: bounded in size, processes of our own launches left out."""
    foreign: tuple[ComputeApp, ...] = tuple(app for app in inventory.compute_apps if app.launch is None)
    return inventory.model_copy(
        update={"compute_apps": foreign[:_APPS_KEPT], "gpu_message": inventory.gpu_message[:500]}
    )


def differences(old: Inventory | None, new: Inventory) -> list[str]:
    """Return what a person would call a change, in words; memory in use and free disk space are none."""
    if old is None:
        return [f"GPUs: {describe_gpus(new)}"]
    found = []
    if [(g.index, g.uuid, g.mig) for g in old.gpus] != [(g.index, g.uuid, g.mig) for g in new.gpus]:
        found.append(f"GPUs: {describe_gpus(old)} -> {describe_gpus(new)}")
    elif old.gpu_state != new.gpu_state:
        found.append(f"nvidia-smi: {old.gpu_state} -> {new.gpu_state}")
    if old.driver != new.driver:
        found.append(f"driver: {old.driver} -> {new.driver}")
    if old.vllm.program != new.vllm.program:
        found.append(f"vllm: {old.vllm.program} -> {new.vllm.program}")
    if set(foreign_processes(old)) != set(foreign_processes(new)):
        names = [f"GPU {g.index}" for g in new.gpus if g.uuid in foreign_processes(new)]
        found.append(f"GPUs used by processes of somebody else: {', '.join(names) or 'none'}")
    return found
