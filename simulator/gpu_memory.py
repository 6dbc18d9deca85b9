"""Who holds how much memory on which pretend GPU.

Each process that holds some has a file ``gpu/{pid}-{start time}`` in the machine's folder: ``{uuid: MiB}``. It counts
only while that very process lives, as the memory of a real GPU does. ``gpu/leaked`` is memory that nobody holds.
"""

from __future__ import annotations

import os

from simulator import lean_json, process_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LEAKED = "leaked"


def gpus(folder: str) -> list[dict[str, Any]]:
    """Return the GPUs of the machine in ``folder``: index, uuid, name, memory_mib, mig."""
    found: list[dict[str, Any]] = lean_json.read(f"{folder}/machine.json")["gpus"]
    return found


def hold(folder: str, pid: int, memory: dict[str, int]) -> None:
    """Note that ``pid`` holds ``memory`` (uuid → MiB) from now on."""
    stat = process_table.read(pid)
    if stat is not None:
        _write(folder, f"{pid}-{stat.start_time}", memory)


def leak(folder: str, memory: dict[str, int]) -> None:
    """Let ``memory`` (uuid → MiB) be in use without a process that holds it; empty ends that."""
    _write(folder, LEAKED, memory)


def held(folder: str) -> list[tuple[int, str, int]]:
    """Return (pid, uuid, MiB) of every living holder; pid 0 is leaked memory."""
    found: list[tuple[int, str, int]] = []
    for entry in sorted(os.listdir(f"{folder}/gpu")):  # noqa: PTH208 - lean
        pid, _, start_time = entry.partition("-")
        if entry.endswith(".tmp") or (entry != LEAKED and not process_table.is_alive(int(pid), int(start_time))):
            continue
        try:
            memory: dict[str, int] = lean_json.read(f"{folder}/gpu/{entry}")
        except FileNotFoundError:
            continue
        found += [(0 if entry == LEAKED else int(pid), uuid, mib) for uuid, mib in memory.items()]
    return found


def used(folder: str) -> dict[str, int]:
    """Return the MiB in use on every GPU of the machine, by UUID."""
    total = {gpu["uuid"]: 0 for gpu in gpus(folder)}
    for _, uuid, mib in held(folder):
        total[uuid] = total.get(uuid, 0) + mib
    return total


def _write(folder: str, name: str, memory: dict[str, int]) -> None:
    path = f"{folder}/gpu/{name}"
    with open(f"{path}.tmp", "w", encoding="utf-8") as file:  # noqa: PTH123 - lean
        file.write(lean_json.dump(memory))
    os.rename(f"{path}.tmp", path)  # noqa: PTH104 - lean
