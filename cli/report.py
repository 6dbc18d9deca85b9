"""`podctl report`: what a reviewer wrote about the finished work."""

import sys

import typer

from cli.options import TaskArgument
from cli.output import Format, OutputOption, print_json
from cli.task_commands import read_task


def register(parent: typer.Typer) -> None:
    """Add this command to the program."""
    parent.command(rich_help_panel="Tasks")(report)


def report(task: TaskArgument, *, output: OutputOption = Format.TABLE) -> None:
    """Show the review's report: on a terminal with numbered lines and the open threads, in a pipe as it was written."""
    from cli.render import print_view
    from cli.render_documents import document_text
    from podctl.documents import document_view

    state = read_task(task)
    view = document_view(state, "report")
    if output is Format.JSON:
        print_json(view)
    elif sys.stdout.isatty() or not view.text.strip():
        print_view(document_text(view))
    else:
        sys.stdout.write(view.text)
