"""The pretend ``mount``: notes that something is mounted, which a process without privileges cannot do."""

from __future__ import annotations

import sys
from pathlib import Path

from simulator import lean_json

_MOUNT_FAILED = 32  # mount(8)


def run(folder: str) -> int:
    """Run as the program that a simulated machine has on its PATH; return the exit code."""
    what, where = sys.argv[-2:]
    if lean_json.read(f"{folder}/settings.json")["mount_failure"] == "refused":
        print(f"mount.nfs: access denied by server while mounting {what}", file=sys.stderr)
        return _MOUNT_FAILED
    with Path(f"{folder}/mounts").open("a", encoding="utf-8") as mounts:
        mounts.write(f"{Path(where).resolve()}\n")
    return 0
