"""Arguments and options that many commands have, with what completes them."""

from typing import Annotated

import typer

from cli.complete import complete_pod, complete_task

TaskArgument = Annotated[str, typer.Argument(metavar="TASK", autocompletion=complete_task, help="The task's id.")]
AsOption = Annotated[
    str | None, typer.Option("--as", metavar="NAME", help="Who says so; else `user` of config.toml, or the login name.")
]
PodOption = Annotated[
    str | None,
    typer.Option("--pod", metavar="POD", autocompletion=complete_pod, help="The GPU pod; else the active one."),
]
