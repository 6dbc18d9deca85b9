"""Writes `docs/cli.md` from the program itself: ``python tools/cli_docs.py`` (a test holds that it is current)."""

import enum
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"

_HEAD = """\
# Commands

Written by `python tools/cli_docs.py` from the program; don't edit it by hand.

Every command prints its result on stdout, progress and errors on stderr. Exit codes: 0 done, 1 failed, 2 a mistake in
what was typed or in a file that it names, 130 Ctrl-C. Ctrl-C ends only the looking: what was asked for goes on, and
the command says how to look again. `NO_COLOR` is honoured, and a pipe gets neither colours nor shortened lines.

Files, in `$PODCTL_CONFIG_DIR` (default: the platform's folder for configuration): `pods.json` (the pods you know and
the active one), `config.toml` (`user = "ann"`: who speaks, where `--as` does not say), `catalog.yaml` (models added to
the catalog). Completion of commands and of the names of tasks, pods and servers: `podctl --install-completion`.
"""


def page() -> str:
    """Return the whole page."""
    from cli.main import app

    root = typer.main.get_command(app)
    sections = [_section(path, command) for path, command in _commands(root, ("podctl",))]
    return "\n".join([_HEAD, *sections, "## What `-o json` prints", "", *_shapes()])


def _commands(group: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:  # noqa: ANN401 - typer's own copy of click
    """Yield every command with its words, in the order in which the help shows them."""
    for name, command in group.commands.items():
        here = (*path, name)
        if not hasattr(command, "commands"):
            yield here, command
            continue
        if command.invoke_without_command:
            yield here, command
        yield from _commands(command, here)


def _section(path: tuple[str, ...], command: Any) -> str:  # noqa: ANN401 - typer's own copy of click
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    usage = [_argument(p) for p in arguments]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden and p.name != "help"]
    lines = [f"## `{' '.join([*path, *usage])}`", "", inspect.cleandoc(command.help or ""), ""]
    rows = [(f"`{_argument(p)}`", p.help or "") for p in arguments]
    rows += [(f"`{_option(p)}`", (p.help or "") + _default(p)) for p in options]
    if rows:
        lines += ["| | |", "|---|---|", *(f"| {left} | {_cell(right)} |" for left, right in rows), ""]
    return "\n".join(lines)


def _argument(parameter: Any) -> str:  # noqa: ANN401 - typer's own copy of click
    name = parameter.metavar or parameter.name.upper()
    return name if parameter.required else f"[{name}]"


def _option(parameter: Any) -> str:  # noqa: ANN401 - typer's own copy of click
    names = ", ".join(sorted(parameter.opts, key=len))
    if parameter.is_flag:
        return names
    kind = parameter.type_descriptor.annotation
    if parameter.metavar:
        return f"{names} {parameter.metavar}"
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return f"{names} " + "\\|".join(str(member.value) for member in kind)
    return f"{names} {'N' if kind is int else 'TEXT'}"


def _default(parameter: Any) -> str:  # noqa: ANN401 - typer's own copy of click
    default = getattr(parameter.default, "value", parameter.default)
    if parameter.required:
        return " Required."
    if parameter.is_flag or default in (None, "", 0) or callable(default):
        return ""
    return f" Default: `{default}`."


def _shapes() -> Iterator[str]:
    """Yield the fields of what is printed as JSON; those of states are the models' own."""
    from podctl.inbox import InboxRow
    from podctl.listing import OrphanRow, PodRow, ServerRow, TaskRow
    from podctl.workstreams import WorkstreamView

    for command, shape in (
        ("podctl task list", TaskRow),
        ("podctl inbox", InboxRow),
        ("podctl workstream list", WorkstreamView),
        ("podctl pods", PodRow),
        ("podctl list", ServerRow),
        ("podctl pods reap", OrphanRow),
    ):
        what = (inspect.getdoc(shape) or "").replace("``", "`")
        yield f"- `{command}`: a list. {_cell(what)}"
        yield from _fields(shape)
    yield "- `podctl workstream show`: the object that `podctl workstream list` has for the workstream."
    yield (
        "- `podctl spec show`, `podctl plan show`, `podctl report`: `task`, `document`, `revision`, "
        "`approves` (the revision that an approval names), `digest`, `text`, "
        "`updated_by`, `approved_by`, `threads`. `podctl thread list`: a list of threads, `podctl thread show` one, as "
        "`domain/task/models.py` describes them (`ReviewThread`)."
    )
    yield "- `podctl agents list`: a list of what `domain/task/models.py` describes as `Agent`."
    yield "- `podctl start`: the object that `podctl list` has for the server."
    yield (
        "- `podctl task show`, and one a line `podctl watch`: the task whole, as `domain/task/models.py` describes it "
        "(`TaskState`, without `ledger`), and `waits_for`."
    )
    yield (
        "- `podctl pods show`: the pod whole, as `domain/gpu/models.py` describes it (`GpuPodState`, without `ledger` "
        "and with `state`); its `servers` are a list as in `podctl list`."
    )
    yield (
        "- `podctl events`, one a line: `sequence`, `type`, `at`, `by`, `command_id`, `payload`, `client` (who the "
        "history says sent it)."
    )
    yield (
        "- `podctl explain COMMAND`: `command`, `meaning`, `senders`, `phases`, `growing`, `fields`, `shapes`, "
        "`example`, `rejections`; without COMMAND a list of them. `podctl task send`: `task`, `command`, `command_id`, "
        "`status`."
    )
    yield (
        "- `podctl export`, `podctl task archive`: `task`, `file`, `events`, `runs`, `missing_through` (events up to "
        "this number were past retention), `closed`; the file itself is described by `Export` in `podctl/export.py`. "
        "`podctl replay`: `task`, `events`, `runs`, `missing_through`, `closed`; exit code 1 with the first difference."
    )
    yield (
        "- `podctl signal …`: `task`, `signal`, `command_id`, `status` (`accepted`, or `recorded` while no worker has "
        "processed it); an approval of a gate also `title`, `revision`, `digest`. A refused one is an error."
    )
    yield "- `podctl task create`: `task`, `title`. `podctl task config`: the settings, as a config file has them."
    yield (
        "- `podctl action list`: a list of what `domain/task/models.py` describes as `ActionApproval`, with `task` and "
        "`description`; `podctl action show` one. `podctl tracker show`: `task`, `done`, `total`, `phases` as there "
        "(`TrackerPhase`)."
    )
    yield "- `podctl inbox read`: `task`, `read` (what was marked)."
    yield (
        "- what changes a task or its workstreams: `task`, `command`, `command_id`, `by`, `status` (`accepted`), "
        "`message` (what the table says). A refused one is an error."
    )
    yield ""


def _fields(shape: type) -> Iterator[str]:
    """Yield the fields of a row with what the comment above each says; those that explain themselves share a line."""
    plain: list[str] = []
    words: list[str] = []
    for line in [*inspect.getsource(shape).splitlines(), "    #: end"]:
        comment, field = re.match(r"    #: (.*)", line), re.match(r"    (\w+): ", line)
        if comment:
            words.append(comment[1])
        elif field and not words:
            plain.append(f"`{field[1]}`")
        if plain and comment:
            yield f"  - {', '.join(plain)}"
            plain = []
        if words and field:
            yield f"  - `{field[1]}`: {_cell(' '.join(words)).replace('``', '`')}"
            words = []


def _cell(text: str) -> str:
    """Return text as one cell of a table."""
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|")


if __name__ == "__main__":
    sys.path.insert(0, str(PAGE.parent.parent))
    PAGE.write_text(page(), encoding="utf-8")
