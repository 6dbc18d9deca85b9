"""A pretend nvidia-smi for the podlet's tests: the shebang is put before it when it is installed.

``$FAKE_GPU_FOLDER/settings.json``: count, mode (ok, no_driver, not_available, insufficient_permissions, no_processes,
lost), stuck_mib (memory that nobody holds), ghosts (pids that are listed though they are gone), mig. ``memory/PID``
holds {uuid, mib} and counts while PID lives.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

folder = Path(os.environ["FAKE_GPU_FOLDER"])
settings = json.loads((folder / "settings.json").read_text())
mode = settings.get("mode", "ok")
with (folder / "calls").open("a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\n")


def lives(pid: str) -> bool:
    """Return whether a process lives."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] not in "ZX"


def used(uuid: str) -> int:
    """Return MiB in use on a GPU."""
    return sum(int(one["mib"]) for _, one in holders() if one["uuid"] == uuid) + int(settings.get("stuck_mib", 0))


def holders() -> list[tuple[str, dict[str, Any]]]:
    """Return (pid, registration) of the living."""
    files = (folder / "memory").iterdir()
    listed = [file for file in files if lives(file.name) or int(file.name) in settings.get("ghosts", [])]
    return [(file.name, json.loads(file.read_text())) for file in listed]


if mode == "no_driver":
    print("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.")
    sys.exit(9)
if sys.argv[1].startswith("--query-gpu="):
    for index in range(settings["count"]):
        memory = f"81559, {used(f'GPU-{index}')}"
        if mode == "not_available":
            memory = "[N/A], [N/A]"
        mig = settings.get("mig", "Disabled")
        if mode == "lost" and index == 0:
            print("Unable to determine the device handle for GPU0000:41:00.0: GPU is lost")
        else:
            print(f"{index}, GPU-{index}, NVIDIA H100 80GB HBM3, {memory}, {mig}, 570.86.15")
elif mode == "insufficient_permissions":
    print("[Insufficient Permissions]")
    sys.exit(4)
elif mode != "no_processes":
    for pid, one in holders():
        amount = "[N/A]" if mode == "not_available" else one["mib"]
        print(f"{pid}, {one['uuid']}, {amount}")
