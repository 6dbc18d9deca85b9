"""`podctl simulate`: GPU machines without GPUs, and faults in them."""

from typing import Annotated

import typer

from cli.context import user_paths

app = typer.Typer(invoke_without_command=True, help="Simulate a machine with GPUs, to try things out.")

DEFAULT_GPU = "NVIDIA H100 80GB HBM3"


def register(parent: typer.Typer) -> None:
    """Add these commands to the program."""
    parent.add_typer(app, name="simulate", rich_help_panel="This machine")


@app.callback()
def simulate(
    context: typer.Context,
    *,
    name: Annotated[str, typer.Option(metavar="NAME", help="What it is called.")] = "sim",
    gpus: Annotated[int, typer.Option(min=0, max=64, help="How many GPUs it has.")] = 1,
    gpu_name: Annotated[str, typer.Option(metavar="NAME", help="As nvidia-smi shows them.")] = DEFAULT_GPU,
) -> None:
    """Simulate a machine with GPUs until Ctrl-C: a real SSH server, a pretend nvidia-smi and a pretend vLLM."""
    if context.invoked_subcommand is not None:
        return
    from pydantic import ValidationError

    from domain.errors import BadInput
    from simulator.main import run
    from simulator.models import Gpu

    try:
        run(user_paths().data / "simulated", name=name, gpus=gpus, gpu=Gpu(name=gpu_name))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BadInput(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error


@app.command()
def fault(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The simulated machine.")],
    what: Annotated[str, typer.Argument(metavar="FAULT", help="An unknown one is answered with those there are.")],
    value: Annotated[str | None, typer.Argument(metavar="VALUE", help="Seconds, a server or a setting.")] = None,
) -> None:
    """Break a simulated machine in one of the ways in which machines break."""
    from simulator.main import fault as do

    print(do(user_paths().data / "simulated", name, what, value))
