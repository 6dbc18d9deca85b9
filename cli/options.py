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
ProgramPodOption = Annotated[str | None, typer.Option("--pod", metavar="POD", help="The GPU pod the program runs on.")]
ProgramServerOption = Annotated[
    str | None, typer.Option("--server", metavar="NAME", help="The plan's model server that the program is given.")
]
ProgramTimeoutOption = Annotated[
    float | None, typer.Option("--timeout", metavar="SECONDS", help="The program is stopped after that long.")
]
