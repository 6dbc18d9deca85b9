"""`podctl inbox`: what waits for a person, over all tasks."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cli.context import open_client, speaker
from cli.options import AsOption, TaskArgument
from cli.output import Format, OutputOption, print_json, print_progress, print_table, run_async

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import RenderableType

    from podctl.inbox import Inbox, InboxRow

app = typer.Typer(invoke_without_command=True)

#: Seconds between looks with --watch: the server tells nobody when its list changes.
LOOK_INTERVAL = 2.0


def register(parent: typer.Typer) -> None:
    """Add these commands to the program."""
    parent.add_typer(app, name="inbox", rich_help_panel="Tasks")


@app.callback()
def inbox(  # a command has as many parameters as options
    context: typer.Context,
    *,
    by: AsOption = None,
    everybody: Annotated[bool, typer.Option("--all", "-A", help="Everybody's.")] = False,
    unread: Annotated[bool, typer.Option("--unread", help="Only what is not marked read.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on showing it, until Ctrl-C.")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Show what waits for you, over all tasks, with the command that deals with it. Needs no worker.

    Unread first, of that the urgent, then the oldest. With --watch JSON is an item a line, as it comes up.
    """
    if context.invoked_subcommand is not None:
        return
    if everybody and by is not None:
        raise typer.BadParameter("--all shows what waits for --as too: give one of them")
    name = None if everybody else speaker(by)
    if watch:
        run_async(_watch(name, output, unread=unread), when_interrupted="nothing was changed: `podctl inbox` again")
        return
    found = run_async(_read(name), when_interrupted="nothing was changed: `podctl inbox` again")
    rows = _shown(found.rows, unread=unread)
    if output is Format.JSON:
        print_json(rows)
    elif sys.stdout.isatty() and rows:
        from cli.render import print_view

        print_view(_view(rows, everybody=everybody))
    else:
        columns, cells = _cells(rows, everybody=everybody)
        print_table(columns, cells, empty=_empty(name, unread=unread))
    for task, count in found.more.items():
        print_progress(f"task {task} has {count} more: podctl task show {task}")


@app.command()
def read(
    task: TaskArgument,
    items: Annotated[list[str], typer.Argument(metavar="ITEM…", help="What was read: ids of inbox items or messages.")],
    *,
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Mark what was read: news goes away; what waits for a decision stays, after what is unread."""
    from domain.task.commands import MarkRead

    name = speaker(by)

    async def mark() -> None:
        await (await open_client()).execute_task(task, MarkRead(ids=tuple(items)), by=name)

    run_async(mark(), when_interrupted="interrupted: `podctl inbox` says whether it was marked")
    if output is Format.JSON:
        print_json({"task": task, "read": items})
    else:
        print(f"task {task}: {', '.join(items)} marked read, by {name}")


async def _read(name: str | None) -> "Inbox":
    from podctl.inbox import read_inbox

    return await read_inbox(await open_client(), name)


async def _watch(name: str | None, output: Format, *, unread: bool) -> None:
    import asyncio

    from podctl.inbox import read_inbox

    client = await open_client()
    if output is Format.TABLE and sys.stdout.isatty():
        from rich.console import Console
        from rich.live import Live

        with Live(console=Console(), auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                rows = _shown((await read_inbox(client, name)).rows, unread=unread)
                live.update(_view(rows, everybody=name is None) if rows else _empty(name, unread=unread), refresh=True)
                await asyncio.sleep(LOOK_INTERVAL)
    told: set[InboxRow] = set()
    while True:
        rows = _shown((await read_inbox(client, name)).rows, unread=unread)
        for row in rows:
            if row not in told:
                _print_line(row, output)
        told = {*rows}
        await asyncio.sleep(LOOK_INTERVAL)


def _print_line(row: "InboxRow", output: Format) -> None:
    from pydantic import TypeAdapter

    if output is Format.JSON:
        print(TypeAdapter(type(row)).dump_json(row).decode(), flush=True)
    else:
        print(
            "  ".join(part for part in (row.task, row.item, row.recipient, _what(row), row.command) if part), flush=True
        )


def _shown(rows: "Iterable[InboxRow]", *, unread: bool) -> "list[InboxRow]":
    return [row for row in rows if not (unread and row.read)]


def _cells(rows: "Iterable[InboxRow]", *, everybody: bool) -> "tuple[Sequence[str], Sequence[Sequence[object]]]":
    from cli.output import without_empty
    from cli.render import ago

    columns = ("task", "item", "since", "for", "what", "do")
    cells = [
        (row.task, row.item, ago(row.created_at), row.recipient if everybody else None, _what(row), row.command)
        for row in rows
    ]
    return without_empty(columns, cells)


def _view(rows: "Iterable[InboxRow]", *, everybody: bool) -> "RenderableType":
    """Return items as a terminal shows them: the command of each whole and on a line of its own, to be copied."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    from cli.render import QUIET, ShellCommand, ago, plain

    shown: list[RenderableType] = []
    for row in rows:
        recipient = f"  for {plain(row.recipient)}" if everybody else ""
        heading = Text(row.task, style="bold")
        heading.append(f"  {row.item}  {ago(row.created_at)}{recipient}", style=f"not bold {QUIET}")
        shown += [heading, Padding(Text(_what(row)), (0, 0, 0, 2))]
        if row.command:
            shown.append(Padding(ShellCommand(row.command), (0, 0, 0, 2)))
    return Group(*shown)


def _what(row: "InboxRow") -> str:
    from cli.render import plain

    marks = f"{'urgent: ' if row.urgent else ''}{'(read) ' if row.read else ''}"
    return f"{marks}{plain(row.preview)}"


def _empty(name: str | None, *, unread: bool) -> str:
    what = "nothing unread" if unread else "nothing waits"
    return f"{what} for anybody" if name is None else f"{what} for {name} (--all shows everybody's)"
