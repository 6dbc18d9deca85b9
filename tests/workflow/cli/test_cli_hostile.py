"""Names and paths that a shell would act on, typed into podctl's commands: refused with words, or taken literally."""
# ruff: noqa: ASYNC240 - looks at files of this machine take no time

import json
from pathlib import Path

import pytest

from podctl.client import PodctlClient
from simulator.api import SimulatedMachine
from tests.workflow.cli.support import CommandLine
from tests.workflow.support import eventually

TRAPS = (
    "$(touch CANARY)",
    "`touch CANARY`",
    "'; touch CANARY; '",
    '"; touch CANARY; "',
    "two\nlines; touch CANARY",
    "../../CANARY",
    "ünïcode 漢 😀",
    "x" * 300,
)
NAMED = (
    ("start", "org/tiny", "--detach", "--name"),
    ("stop",),
    ("logs",),
    ("pods", "show"),
    ("pods", "active"),
    ("pods", "remove"),
    ("list", "--pod"),
    ("events", "--pod"),
)


@pytest.fixture
def traps(tmp_path: Path) -> tuple[str, ...]:
    return tuple(trap.replace("CANARY", str(tmp_path / "canary")) for trap in TRAPS)


async def test_a_name_that_is_none_is_refused_with_words(
    podctl: CommandLine, gpu_pod: str, traps: tuple[str, ...], tmp_path: Path
) -> None:
    for trap in traps:
        for command in NAMED:
            status = 2 if command[0] in {"start", "stop", "logs"} else 1
            done = await podctl(*command, trap, status=status)
            assert done.errors.strip(), (command, trap)
        assert (await podctl("pods", "add", trap, "root@127.0.0.1", status=2)).errors
        for line in (f"root@{trap}", f"ssh -i {trap} -p 1 root@127.0.0.1 {trap}"):
            assert (await podctl("pods", "set", gpu_pod, line, "--accept-host-key", "x", status=2)).errors
    assert [*tmp_path.rglob("canary*")] == []
    assert await podctl.json("list") == []


def replace(program: Path, text: str) -> None:
    """Put another program in the place of one that may be running."""
    new = program.with_name(f".{program.name}.new")
    new.write_text(text)
    new.chmod(0o700)
    new.rename(program)


async def test_a_model_and_arguments_arrive_as_they_were_typed(
    podctl: CommandLine, machine: SimulatedMachine, working: PodctlClient, gpu_pod: str, traps: tuple[str, ...]
) -> None:
    program = machine.folder / "bin" / "vllm"
    pretended = program.read_text()
    replace(program, "#!/usr/bin/python3 -IS\nimport json, sys\nprint(json.dumps(sys.argv[2:]))\n")
    try:
        for number, trap in enumerate(trap for trap in traps if "\n" not in trap and len(trap) < 256):
            name = f"one{number}"
            await podctl("start", trap, "--name", name, "--detach", "--vllm", "--served-model-name", trap, *traps)

            async def ended(name: str = name) -> bool:
                return (await working.pod(gpu_pod)).servers[name].finished

            await eventually(ended, "it has ended")
            log = (await podctl("logs", name)).output
            shown = machine.folder / "home" / ".podctl" / "launches" / gpu_pod / name / "1" / "output.log"
            assert log == shown.read_text()
            arguments = json.loads(log)
            assert arguments[0] == trap
            begin = arguments.index("--served-model-name")
            assert arguments[begin : begin + len(traps) + 2] == ["--served-model-name", trap, *traps]
    finally:
        replace(program, pretended)
    assert not Path(traps[0].split()[-1].rstrip(")")).exists()
