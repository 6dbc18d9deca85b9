"""What a command prints and how it exits, seen from outside: small programs that end in `cli.output.run`."""

import json
import os
import pty
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len

from cli.render import continued

PROGRAM = """
import sys
import typer
from cli import output
app = typer.Typer(pretty_exceptions_enable=False)
@app.command()
def command(number: int = 1):
    {body}
sys.exit(output.run(app))
"""
ROWS = "[('alpha', 'ready'), ('a-longer-name', None), ('[red]x', 'failed')]"
TABLE = f"output.print_table(('name', 'state'), {ROWS}, empty='')"


def run(body: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def run_on_terminal(body: str, **environment: str) -> str:
    """Return what a person would see, escape sequences included."""
    controller, terminal = pty.openpty()
    try:
        subprocess.run(
            [sys.executable, "-c", PROGRAM.format(body=body)],
            stdout=terminal,
            stderr=terminal,
            check=True,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **environment},
        )
        return os.read(controller, 65536).decode()
    finally:
        os.close(controller)
        os.close(terminal)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("from domain.errors import BadInput; raise BadInput('plan.yaml:3: no id')", 2, "plan.yaml:3: no id"),
        ("from domain.errors import Rejected; raise Rejected('spec_empty', 'write one')", 1, "spec_empty: write one"),
        ("from podctl.client import Refused; raise Refused('spec_empty', 'write one')", 1, "spec_empty: write one"),
        ("from podctl.connection import NoServer; raise NoServer('podctl up')", 1, "podctl up"),
        ("open('/nowhere/plan.yaml')", 1, "No such file or directory: /nowhere/plan.yaml"),
        ("raise KeyError('x')", 1, "KeyError: 'x'. This is a fault in podctl; PODCTL_DEBUG=1 shows where it is"),
    ],
)
def test_an_exception_is_one_line_and_an_exit_status(body: str, status: int, message: str) -> None:
    done = run(body)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", f"error: {message}\n")


def test_the_trace_is_shown_to_who_asks_for_it() -> None:
    done = run("raise KeyError('x')", PODCTL_DEBUG="1")
    assert "Traceback" in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize("arguments", [["--number", "many"], ["--nosuch"], ["surplus"]])
def test_a_usage_error_exits_with_2(arguments: list[str]) -> None:
    done = run("pass", *arguments)
    assert done.returncode == 2
    assert "Usage:" in done.stderr


@pytest.mark.parametrize(("body", "status"), [("raise typer.Exit(7)", 7), ("pass", 0), ("sys.exit()", 0)])
def test_a_command_may_choose_its_exit_status(body: str, status: int) -> None:
    assert run(body).returncode == status


def test_ctrl_c_exits_with_130_and_the_commands_own_hint() -> None:
    # It says so from inside the coroutine: Ctrl-C before that would find a program that has not begun.
    body = """
    import asyncio
    async def work():
        print("working", flush=True)
        await asyncio.sleep(60)
    output.run_async(work(), when_interrupted="podctl watch shows it")
""".strip()
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        assert program.stdout.readline() == "working\n"
        program.send_signal(signal.SIGINT)
        assert program.wait(30) == 130
        assert program.stderr.read() == "\npodctl watch shows it\n"


@pytest.mark.parametrize(
    ("typed", "status", "said"),
    [("y\n", 0, "ended\n"), ("n\n", 130, "it goes on\n"), ("\n", 130, "it goes on\n"), ("\x04", 130, "it goes on\n")],
    ids=["yes", "no", "nothing", "end of input"],
)
def test_a_question_is_answered_by_yes_alone(typed: str, status: int, said: str) -> None:
    body = "output.confirm('End it?', refusal='say --yes', left='it goes on'); print('ended')"
    controller, terminal = pty.openpty()
    try:
        os.write(controller, typed.encode())
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(body=body)],
            stdin=terminal,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        os.close(controller)
        os.close(terminal)
    assert done.returncode == status
    assert (done.stdout if status == 0 else done.stderr).endswith(said)
    assert "End it?" in done.stderr


def test_a_closed_pipe_is_no_error() -> None:
    program = PROGRAM.format(body="[print('line', n) for n in range(100_000)]")
    done = subprocess.run(
        ["sh", "-c", '"$0" -c "$1" | head -1', sys.executable, program], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("line 0\n", "")


def test_a_table_in_a_pipe_is_plain_and_whole() -> None:
    done = run(TABLE, COLUMNS="10")
    assert done.stdout.splitlines() == [
        "NAME           STATE",
        "alpha          ready",
        "a-longer-name  -",
        "[red]x         failed",
    ]


def test_a_table_on_a_terminal_has_colours_unless_they_are_not_wanted() -> None:
    coloured = run_on_terminal(TABLE)
    assert "\x1b[32mready" in coloured
    assert "\x1b[31mfailed" in coloured
    assert "[red]x" in coloured
    plain = run_on_terminal(TABLE, NO_COLOR="1")
    assert "\x1b[3" not in plain
    assert "ready" in plain


def test_an_empty_table_says_what_to_do() -> None:
    assert run("output.print_table(('name',), [], empty='none yet: podctl task create')").stdout == (
        "none yet: podctl task create\n"
    )


def test_json_holds_models_dates_and_paths() -> None:
    body = (
        "import pathlib, datetime; from podctl.pods_file import KnownPod; output.print_json({'pod': KnownPod(ssh='a'), "
        "'path': pathlib.Path('/x'), 'at': datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), 'wort': 'ä'})"
    )
    shown = json.loads(run(body).stdout)
    assert shown["pod"]["ssh"] == "a"
    assert (Path(shown["path"]), shown["at"], shown["wort"]) == (Path("/x"), "2026-01-02T00:00:00Z", "ä")


@pytest.mark.parametrize("width", [1, 20, 40, 80, 200])
def test_a_command_that_is_too_long_for_a_line_goes_on_in_the_next_as_a_shell_takes_it(width: int) -> None:
    words = [
        "podctl",
        "signal",
        "approve",
        "a-task-with-a-long-name",
        "--choice",
        "write by  'hand'",
        "--comment",
        "漢字",
    ]
    command = shlex.join(words)
    lines = continued(command, width)
    typed = "\n".join(lines)
    shell = subprocess.run(["sh", "-c", f'printf "%s\\n" {typed}'], capture_output=True, text=True, check=True)
    assert shell.stdout.splitlines() == words
    if width >= 40:
        assert all(cell_len(line) <= width for line in lines)
    assert (len(lines) == 1) == (width == 200)
