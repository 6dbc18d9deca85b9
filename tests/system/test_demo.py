"""`podctl demo`, as a newcomer runs it."""

import os
import re
import subprocess
import sys
from pathlib import Path


def run_demo(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the demonstration with its files below ``folder``."""
    return subprocess.run(
        [sys.executable, "-m", "cli", "demo"],
        env={**os.environ, "TMPDIR": str(folder), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )


def processes_that_name(text: str) -> list[str]:
    found = []
    for arguments in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = arguments.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has ended meanwhile
        if text in line:
            found.append(line)
    return found


def test_the_demonstration_proves_what_it_says_and_leaves_nothing(tmp_path: Path) -> None:
    done = run_demo(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"kill -9 \d+", done.stdout)
    proof = done.stdout.partition("■ Proof")[2]
    assert proof.count("✔") == 8
    assert "✘" not in done.stdout
    for command in ("approve-spec", "approve-plan", "approve-review"):
        assert f"$ podctl signal {command} kitchen-timer" in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert processes_that_name(str(tmp_path)) == []


def test_a_mishap_is_told_and_leaves_nothing_running(tmp_path: Path) -> None:
    done = run_demo(tmp_path, PODCTL_TEMPORAL_BIN="/bin/false")
    assert done.returncode == 1
    assert "error: podctl up" in done.stderr
    assert "Nothing is left running" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert processes_that_name(str(tmp_path)) == []
