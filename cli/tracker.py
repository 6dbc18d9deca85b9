"""`podctl tracker …`: a task's board of deliverables."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.actions import propose
from cli.options import AsOption, TaskArgument
from cli.output import Format, OutputOption, print_json
from cli.task_commands import read_task, tell

app = typer.Typer(
    no_args_is_help=True, help="A task's board of deliverables. Items come, change and go once a person grants it."
)

ItemArgument = Annotated[str, typer.Argument(metavar="ITEM", help="The item's id.")]
OwnerOption = Annotated[
    str | None, typer.Option("--workstream", metavar="WORKSTREAM", help="The workstream that owns it.")
]
ReasonOption = Annotated[str, typer.Option(help="Why; who grants it reads this.")]


class StatusName(StrEnum):
    """How far an item is."""

    TODO = "todo"
    WIP = "wip"
    DONE = "done"
    BLOCKED = "blocked"


def register(parent: typer.Typer) -> None:
    """Add these commands to the program."""
    parent.add_typer(app, name="tracker", rich_help_panel="Tasks")


@app.command()
def show(task: TaskArgument, *, output: OutputOption = Format.TABLE) -> None:
    """Show the board: phases, items, who owns them and how far they are. Needs no worker."""
    from cli.render import print_view
    from cli.render_tracker import board
    from podctl.tracker import tracker_view

    view = tracker_view(read_task(task))
    if output is Format.JSON:
        print_json(view)
    else:
        print_view(board(view))


@app.command()
def create(
    task: TaskArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The board in YAML: phases, each with its items.")],
    *,
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Begin a task's board from a file.

    It lists phases (phase_id, name, summary, eta) and under each its items (item_id, summary, workstream_id).
    """
    from podctl.tracker import read_tracker_file

    tell(task, read_tracker_file(file), "the tracker is begun", by=by, output=output)


@app.command()
def status(  # a command has as many parameters as options
    task: TaskArgument,
    item: ItemArgument,
    status: Annotated[StatusName, typer.Argument(metavar="STATUS", help="todo, wip, done or blocked.")],
    *,
    workstream: Annotated[
        str | None, typer.Option(metavar="WORKSTREAM", help="Who speaks: what has an owner is changed by it alone.")
    ] = None,
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Say how far an item is."""
    from domain.task.commands import SetItemStatus

    command = SetItemStatus(item_id=item, status=status.value, workstream_id=workstream)
    tell(task, command, f"item {item} is {status.value}", by=by, output=output)


@app.command()
def comment(
    task: TaskArgument,
    item: ItemArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to say.")],
    *,
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Say something about an item."""
    from domain.task.commands import CommentItem

    tell(task, CommentItem(item_id=item, content=text), f"said about item {item}", by=by, output=output)


@app.command()
def eta(
    task: TaskArgument,
    phase: Annotated[str, typer.Argument(metavar="PHASE", help="The phase's id.")],
    when: Annotated[str, typer.Argument(metavar="WHEN", help="In words: 2026-08-01, 'next week'; '' for unknown.")],
    *,
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Say when a phase of the board is expected to be done."""
    from domain.task.commands import SetEta
    from podctl.typed import typed

    words = f"phase {phase} is expected: {when}" if when else f"it is not known when phase {phase} is done"
    tell(task, typed(SetEta, {"phase_id": phase, "eta": when}), words, by=by, output=output)


@app.command()
def add(  # noqa: PLR0913  # a command has as many parameters as options
    task: TaskArgument,
    phase: Annotated[str, typer.Argument(metavar="PHASE", help="The phase it belongs to.")],
    item: ItemArgument,
    summary: Annotated[str, typer.Argument(metavar="SUMMARY", help="What it is, in a few words.")],
    *,
    workstream: OwnerOption = None,
    reason: ReasonOption = "",
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Propose an item for the board."""
    from domain.task.models import AddItem
    from podctl.typed import typed

    given = {
        "phase_id": phase,
        "item": {"item_id": item, "summary": summary, "workstream_id": workstream},
    }
    propose(task, typed(AddItem, given), reason, by, output)


@app.command()
def update(  # noqa: PLR0913  # a command has as many parameters as options
    task: TaskArgument,
    item: ItemArgument,
    *,
    summary: Annotated[str | None, typer.Option(help="What it is, in a few words.")] = None,
    workstream: OwnerOption = None,
    phase: Annotated[str | None, typer.Option(metavar="PHASE", help="Move it to this phase.")] = None,
    reason: ReasonOption = "",
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Propose a change of an item: what it says, who owns it, where it stands."""
    from domain.task.models import UpdateItem
    from podctl.typed import typed

    given = {"item_id": item, "summary": summary, "workstream_id": workstream, "phase_id": phase}
    propose(task, typed(UpdateItem, given), reason, by, output)


@app.command()
def remove(
    task: TaskArgument,
    item: ItemArgument,
    *,
    reason: ReasonOption = "",
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Propose that an item goes."""
    from domain.task.models import RemoveItem
    from podctl.typed import typed

    propose(task, typed(RemoveItem, {"item_id": item}), reason, by, output)
