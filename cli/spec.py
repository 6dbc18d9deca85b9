"""`podctl spec …`: what is wanted of a task, in markdown."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import AsOption, TaskArgument
from cli.output import Format, OutputOption
from cli.task_commands import read_task, tell

if TYPE_CHECKING:
    from domain.task.models import TaskState

app = typer.Typer(no_args_is_help=True, help="What is wanted of a task: read it, write it, go back to it.")

SpecFileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The text, or - for standard input.")]
ReadRevisionOption = Annotated[
    int | None,
    typer.Option("--revision", min=0, metavar="N", help="The revision that was read; else the newest is replaced."),
]
InstructionsOption = Annotated[str, typer.Option(metavar="TEXT", help="What to mind, in words.")]
ReasonOption = Annotated[str, typer.Option(metavar="TEXT", help="Why; it is kept with the task.")]


def register(parent: typer.Typer) -> None:
    """Add these commands to the program."""
    parent.add_typer(app, name="spec", rich_help_panel="Tasks")


@app.command()
def show(task: TaskArgument, *, output: OutputOption = Format.TABLE) -> None:
    """Show the spec: on a terminal with numbered lines and the open review threads, in a pipe as it was written."""
    from cli.render_documents import print_document
    from podctl.documents import document_view

    print_document(document_view(read_task(task), "spec"), output)


@app.command()
def edit(task: TaskArgument, *, by: AsOption = None, output: OutputOption = Format.TABLE) -> None:
    """Edit the spec in $VISUAL or $EDITOR. It is written when you leave the editor, unless somebody was faster."""
    from cli import editing
    from podctl.documents import check_writable, spec_mistakes, spec_update

    state = read_task(task)
    check_writable(state, "spec")
    buffer = editing.Buffer(
        name=f"{task}.spec.md",
        text=state.spec.content,
        notes=(
            f"The spec of task {task}, revision {state.spec.revision}. Save to write the next revision;",
            "leave it unchanged, or empty, to change nothing. This comment is no part of the spec.",
        ),
        comment="  ",
        opening="<!-- podctl:",
        closing="-->",
    )
    content = editing.edit(buffer, lambda text, _: spec_mistakes(text))
    if content is not None:
        with editing.kept_if_refused(buffer.name, content):
            tell(task, spec_update(state, content), _written, by=by, output=output)


@app.command("set")
def set_(
    task: TaskArgument,
    file: SpecFileArgument,
    *,
    revision: ReadRevisionOption = None,
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Write the spec from a file."""
    from podctl.documents import spec_update
    from podctl.task_input import read_input

    content = read_input(file)
    state = read_task(task)
    tell(task, spec_update(state, content, revision), _written, by=by, output=output)


@app.command()
def generate(
    task: TaskArgument,
    *,
    instructions: InstructionsOption = "",
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Have the task's spec writer write the spec, or write it anew."""
    from domain.task.commands import GenerateSpec

    tell(task, GenerateSpec(instructions=instructions), "the spec writer is asked", by=by, output=output)


@app.command()
def reopen(
    task: TaskArgument,
    *,
    reason: ReasonOption = "",
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Go back to the spec: the approvals of spec and plan end."""
    from domain.task.commands import ReopenSpec

    tell(task, ReopenSpec(reason=reason), "back to the spec", by=by, output=output)


def _written(state: "TaskState") -> str:
    return f"spec revision {state.spec.revision} is written"
