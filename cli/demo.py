"""`podctl demo`."""

from typing import Annotated

import typer

from cli.output import run_async


def register(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command(rich_help_panel="This machine")(demo)


def demo(
    *, keep: Annotated[bool, typer.Option("--keep", help="Leave everything up afterwards, until Ctrl-C.")] = False
) -> None:
    """Show a task from wish to completed on a simulated GPU pod, the worker killed on the way."""
    from rich.console import Console

    from demo.story import run_demo

    run_async(
        run_demo(keep=keep, console=Console(highlight=False)),
        when_interrupted="the demonstration was interrupted; what it started has been ended",
    )
