"""`podctl shell | ssh`: a login shell on a pod, and one command there."""

from typing import Annotated

import typer

from cli.complete import complete_pod
from cli.context import chosen_pod, open_client
from cli.output import INTERRUPTED, interruptible, print_progress
from cli.passphrases import passphrases

PANEL = "GPU pods"


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command(rich_help_panel=PANEL)(shell)
    app.command(rich_help_panel=PANEL)(ssh)


def shell(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", autocompletion=complete_pod, help="The pod; else the active one.")
    ] = None,
) -> None:
    """Open a login shell on a pod, over the same checked connection as everything else; its exit code is ours."""
    _run(chosen_pod(name), None)


def ssh(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar='[NAME] "COMMAND"',
            autocompletion=complete_pod,
            help="The pod, else the active one, and the command as one word.",
        ),
    ],
) -> None:
    """Run a command on a pod; its exit code is ours, 128 + n for a signal n.

    COMMAND is a line for the login shell on the pod: what it means is decided there. Give it as one word, in quotes.
    """
    if len(words) > 2:
        raise typer.BadParameter('give the command as one word: podctl ssh [NAME] "COMMAND"')
    _run(chosen_pod(words[0] if len(words) == 2 else None), words[-1])


def _run(pod: str, command: str | None) -> None:
    import asyncio

    from podctl.terminal import run_in_terminal

    async def joined() -> int:
        address = await (await open_client()).pod_address(pod)
        return await run_in_terminal(address, command, passphrases(), print_progress)

    with interruptible("given up; what was started on the pod may go on there"):
        try:
            code = asyncio.run(joined())
        except asyncio.CancelledError:
            code = INTERRUPTED
    raise typer.Exit(code)
