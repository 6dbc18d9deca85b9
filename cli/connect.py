"""`podctl connect`: a model server on this machine's loopback, and the environment in which programs find it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from cli.complete import complete_server
from cli.context import chosen_pod, open_client
from cli.options import PodOption
from cli.output import Format, OutputOption, print_json, print_progress, run_async
from cli.passphrases import passphrases

if TYPE_CHECKING:
    from podctl.tunnel import Tunnel

PANEL = "Model servers"


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command(rich_help_panel=PANEL)(connect)


def connect(
    name: Annotated[
        str, typer.Argument(metavar="NAME", autocompletion=complete_server, help="The model server's name.")
    ],
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- COMMAND…", help="What to run with that environment; its exit code is ours."),
    ] = None,
    *,
    pod: PodOption = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="The local port; else a free one.")] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Make a model server reachable here: a tunnel, and OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL for it.

    Without COMMAND it prints them as `export` lines, and holds the tunnel until Ctrl-C.
    """
    import asyncio

    from podctl.tunnel import open_tunnel

    chosen = chosen_pod(pod)

    async def hold() -> int:
        client = await open_client()
        async with open_tunnel(
            client, chosen, name, port=port or 0, tell=print_progress, passphrases=passphrases()
        ) as tunnel:
            keeping = asyncio.create_task(tunnel.keep())
            try:
                if command:
                    return await _run(command, tunnel.environment)
                _show(tunnel, output)
                print_progress(f"{name} on pod {chosen} is at http://127.0.0.1:{tunnel.port}/v1 until Ctrl-C")
                await keeping
                return 0
            finally:
                keeping.cancel()

    raise typer.Exit(run_async(hold(), when_interrupted=f"the tunnel is closed; {name} goes on on pod {chosen}"))


def _show(tunnel: "Tunnel", output: Format) -> None:
    import shlex
    import sys

    if output is Format.JSON:
        print_json(tunnel.environment)
    else:
        for variable, value in tunnel.environment.items():
            print(f"export {variable}={shlex.quote(value)}")
    sys.stdout.flush()  # somebody waits for this, not for our end


async def _run(command: list[str], environment: Mapping[str, str]) -> int:
    """Run a program with more environment; return its exit code, 128 + n for a signal. Ctrl-C is the program's."""
    import asyncio
    import contextlib
    import os
    import signal

    loop = asyncio.get_running_loop()
    process: asyncio.subprocess.Process | None = None
    early: list[signal.Signals] = []

    def pass_on(number: signal.Signals) -> None:
        if process is None:
            early.append(number)
        else:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    # Before the program runs: a signal in between would end us alone.
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, pass_on, number)
    process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **environment})
    for number in early:
        pass_on(number)
    code = await process.wait()
    return code if code >= 0 else 128 - code
