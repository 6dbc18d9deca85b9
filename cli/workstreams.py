"""`podctl workstream …`: the parts of a task's work, one at a time."""

from enum import StrEnum
from typing import Annotated

import typer

from cli.options import AsOption, ProgramPodOption, ProgramServerOption, ProgramTimeoutOption, TaskArgument
from cli.output import Format, OutputOption, print_json, print_table
from cli.task_commands import read_task, tell

app = typer.Typer(no_args_is_help=True, help="The parts of a task's work: look at them, start, retry, skip, change.")

WorkstreamArgument = Annotated[str, typer.Argument(metavar="WORKSTREAM", help="The workstream's id.")]
ProgramArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="-- PROGRAM…", help="What runs, with its arguments; without it somebody outside does it."),
]


class PriorityName(StrEnum):
    """Which ready workstream starts first."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


def register(parent: typer.Typer) -> None:
    """Add these commands to the program."""
    parent.add_typer(app, name="workstream", rich_help_panel="Tasks")


@app.command("list")
def list_workstreams(task: TaskArgument, *, output: OutputOption = Format.TABLE) -> None:
    """List a task's workstreams in plan order. Needs no worker."""
    from cli.render_workstreams import COLUMNS, cells
    from podctl.workstreams import workstream_views

    views = workstream_views(read_task(task))
    if output is Format.JSON:
        print_json(views)
    else:
        empty = f"task {task} has no workstreams yet: its plan says what they are"
        print_table(COLUMNS, [cells(view) for view in views], empty=empty)


@app.command()
def show(task: TaskArgument, workstream: WorkstreamArgument, *, output: OutputOption = Format.TABLE) -> None:
    """Show a workstream: what is to be done, how far it is, what came of it. Needs no worker."""
    from cli.render_workstreams import lines
    from podctl.workstreams import workstream_view

    view = workstream_view(read_task(task), workstream)
    if output is Format.JSON:
        print_json(view)
    else:
        print("\n".join(lines(view)))


@app.command()
def add(  # noqa: PLR0913  # a command has as many parameters as options
    task: TaskArgument,
    workstream: WorkstreamArgument,
    title: Annotated[str, typer.Argument(metavar="TITLE", help="What it is, in a few words.")],
    program: ProgramArgument = None,
    *,
    description: Annotated[str, typer.Option(metavar="TEXT", help="What is to be done.")] = "",
    after: Annotated[
        list[str] | None, typer.Option(metavar="WORKSTREAM", help="What has to be done before; repeatable.")
    ] = None,
    priority: Annotated[PriorityName, typer.Option(help="Which ready one starts first.")] = PriorityName.NORMAL,
    hours: Annotated[float | None, typer.Option(metavar="HOURS", help="How long it will take, for people.")] = None,
    pod: ProgramPodOption = None,
    server: ProgramServerOption = None,
    timeout: ProgramTimeoutOption = None,
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Add a workstream to a task's plan, also while others run."""
    from domain.task.commands import CreateWorkstream
    from domain.task.models import WorkstreamDraft
    from podctl.typed import typed, typed_executor

    given = {
        "id": workstream,
        "title": title,
        "description": description,
        "depends_on": tuple(after or ()),
        "executor": typed_executor(program or (), pod=pod, server=server, timeout_seconds=timeout),
        "priority": priority.value,
        "estimated_hours": hours,
    }
    command = CreateWorkstream(workstream=typed(WorkstreamDraft, given))
    tell(task, command, f"workstream {workstream} is added", by=by, output=output)


@app.command()
def start(
    task: TaskArgument,
    workstream: WorkstreamArgument,
    *,
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Begin a workstream's next attempt now, before its turn."""
    from domain.task.commands import StartWorkstream

    tell(task, StartWorkstream(ws_id=workstream), f"workstream {workstream} is started", by=by, output=output)


@app.command()
def retry(
    task: TaskArgument,
    workstream: WorkstreamArgument,
    *,
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Do a workstream that is completed, failed or skipped once more."""
    from domain.task.commands import RetryWorkstream

    tell(task, RetryWorkstream(ws_id=workstream), f"workstream {workstream} is done again", by=by, output=output)


@app.command()
def skip(
    task: TaskArgument,
    workstream: WorkstreamArgument,
    *,
    reason: Annotated[str, typer.Option(help="Why; it is kept in the event log.")] = "",
    with_dependents: Annotated[
        bool, typer.Option("--with-dependents", help="Leave out what depends on it, too; else that goes on without it.")
    ] = False,
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Leave a workstream out. A program of it that runs is stopped."""
    from domain.task.commands import SkipWorkstream

    command = SkipWorkstream(ws_id=workstream, reason=reason, with_dependents=with_dependents)
    others = " and what depends on it" if with_dependents else ""
    tell(task, command, f"workstream {workstream}{others} left out", by=by, output=output)


@app.command()
def interrupt(
    task: TaskArgument,
    workstream: WorkstreamArgument,
    *,
    reason: Annotated[str, typer.Option(help="Why; it is kept in the event log.")] = "",
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """End what a workstream runs. It is not tried again by itself: podctl inbox asks how it goes on."""
    from domain.task.commands import InterruptWorkstream

    command = InterruptWorkstream(ws_id=workstream, reason=reason)
    words = f"workstream {workstream} is interrupted\nwhat is to become of it: podctl inbox"
    tell(task, command, words, by=by, output=output)


@app.command()
def priority(
    task: TaskArgument,
    workstream: WorkstreamArgument,
    priority: Annotated[PriorityName, typer.Argument(metavar="PRIORITY", help="low, normal or high.")],
    *,
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Change which of the workstreams that could start does so first."""
    from domain.task.commands import SetPriority
    from domain.task.models import Priority

    command = SetPriority(ws_id=workstream, priority=Priority(priority.value))
    tell(task, command, f"workstream {workstream} has priority {priority.value}", by=by, output=output)


@app.command()
def reassign(  # noqa: PLR0913  # a command has as many parameters as options
    task: TaskArgument,
    workstream: WorkstreamArgument,
    program: ProgramArgument = None,
    *,
    pod: ProgramPodOption = None,
    server: ProgramServerOption = None,
    timeout: ProgramTimeoutOption = None,
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Have a workstream that is not in progress done in another way: by a program, or by somebody outside."""
    from domain.task.commands import ReassignExecutor
    from podctl.typed import typed_executor

    executor = typed_executor(program or (), pod=pod, server=server, timeout_seconds=timeout)
    how = f"done by {program[0]}" if program else "done by somebody outside, who reports it"
    command = ReassignExecutor(ws_id=workstream, executor=executor)
    tell(task, command, f"workstream {workstream} is {how} from now on", by=by, output=output)
