"""`podctl report`: what a reviewer wrote about the finished work."""

import typer

from cli.options import TaskArgument
from cli.output import Format, OutputOption
from cli.task_commands import read_task


def register(parent: typer.Typer) -> None:
    """Add this command to the program."""
    parent.command(rich_help_panel="Tasks")(report)


def report(task: TaskArgument, *, output: OutputOption = Format.TABLE) -> None:
    """Show the review's report: on a terminal with numbered lines and the open threads, in a pipe as it was written."""
    from cli.render_documents import print_document
    from podctl.documents import document_view

    print_document(document_view(read_task(task), "report"), output)
