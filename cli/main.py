"""`podctl`: the program. Each group of commands is a module with ``register(app)``.

At import those modules load typer and nothing else of weight: a command imports what it needs when it runs, so that
help and completion come at once.
"""

import os
import sys
from typing import Annotated

import typer

from cli import (
    actions,
    agents,
    connect,
    context,
    demo,
    events,
    explain,
    export,
    inbox,
    listing,
    logs,
    models,
    output,
    plan,
    pod_import,
    pod_setup,
    pods,
    reap,
    report,
    schema,
    servers,
    shell,
    signals,
    simulate,
    spec,
    system,
    task,
    threads,
    tracker,
    workstreams,
)

app = typer.Typer(
    name="podctl",
    help="Carry tasks from wish to completed, on models that run on your own GPU machines.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:  # typer calls it with the option's value
    if wanted:
        from importlib.metadata import version

        typer.echo(f"podctl {version('podctl')}")
        raise typer.Exit


@app.callback()
def podctl(
    *,
    version: Annotated[  # its callback does it
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Carry tasks from wish to completed, on models that run on your own GPU machines."""


for group in (
    task,
    signals,
    events,
    pods,
    pod_setup,
    pod_import,
    reap,
    shell,
    servers,
    connect,
    listing,
    logs,
    models,
    system,
    simulate,
    demo,
    workstreams,
    explain,
    inbox,
    export,
    tracker,
    actions,
    spec,
    plan,
    report,
    threads,
    schema,
    agents,
):
    group.register(app)


def main() -> None:
    """Run the program and exit with its status."""
    context.own_process = True
    status = output.run(app)
    if "temporalio" in sys.modules:
        # Its threads may hand a last result to a Python that is shutting down, which aborts with SIGABRT (seen once in
        # fifty times after a quick query). All is done and written: leave without a shutdown.
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
