"""Help and completion come at once: nothing of weight is loaded before a command needs it."""

import os
import subprocess
import sys

import pytest

HEAVY = ("temporalio", "asyncssh", "cryptography", "yaml", "platformdirs", "rich.live", "google")
#: Typer itself loads pydantic (which loads asyncio) to convert the options of the command that runs.
HEAVY_BEFORE_A_COMMAND = (*HEAVY, "pydantic", "asyncio")

PROGRAM = f"""
import sys
sys.argv[0] = "podctl"
from cli.main import main
try:
    main()
finally:
    print("loaded:", *(name for name in {HEAVY_BEFORE_A_COMMAND!r} if name in sys.modules), file=sys.stderr)
"""


def loaded(*arguments: str, **environment: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    assert done.stdout
    title, *names = done.stderr.splitlines()[-1].split()
    assert title == "loaded:"
    return set(names)


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_the_program_loads_nothing_of_weight(option: str) -> None:
    assert loaded(option) == set()


@pytest.mark.parametrize("command", ["up", "status", "doctor"])
def test_help_of_a_command_loads_nothing_of_weight(command: str) -> None:
    assert loaded(command, "--help") & set(HEAVY) == set()


def test_completion_of_a_command_name_loads_nothing_of_weight() -> None:
    completing = {"_PODCTL_COMPLETE": "complete_bash", "COMP_WORDS": "podctl sta", "COMP_CWORD": "1"}
    assert loaded(**completing) & set(HEAVY) == set()
