"""`podctl up | down | status | doctor | worker`: the Temporal server and worker of this machine."""

import signal
from typing import TYPE_CHECKING, Annotated

import typer

from cli.checks import print_checks
from cli.output import (
    FAILED,
    Format,
    OutputOption,
    interruptible,
    print_error,
    print_json,
    print_progress,
    print_table,
    run_async,
)

if TYPE_CHECKING:
    from podctl.embedded import Up
    from podctl.paths import PodctlPaths

PANEL = "This machine"
#: Seconds between looks at the two processes while `podctl up` stays in the foreground.
LOOK_INTERVAL = 1.0


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    for command in (up, down, status, doctor, worker):
        app.command(rich_help_panel=PANEL)(command)


def up(
    *,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when both are ready.")] = False,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Temporal's port (7233).")] = None,
    ui_port: Annotated[int | None, typer.Option(min=1, max=65535, help="The Web UI's port (8233).")] = None,
) -> None:
    """Run Temporal and a worker on this machine.

    Starts what does not run yet. Without --detach it stays in the foreground and Ctrl-C ends both.
    """
    import asyncio

    from podctl import embedded
    from podctl.connection import target
    from podctl.paths import PodctlPaths

    paths = PodctlPaths.from_environment()
    result = run_async(
        embedded.up(paths, print_progress, port=port, ui_port=ui_port),
        when_interrupted="interrupted while starting: `podctl status` says what runs, `podctl up` goes on",
    )
    chosen = target(paths)
    if not chosen.embedded:
        print_progress(f"note: podctl's commands go to {chosen.address} ({chosen.source}), not to this server")
    print("up" if result.started else "already up")
    print(f"  Temporal  {result.server.address}")
    print(f"  Web UI    {result.server.ui_address}")
    print(f"  worker    process {result.worker.process.pid}")
    print(f"  logs      {paths.logs}", flush=True)
    if result.started and not detach:
        raise typer.Exit(asyncio.run(_stay(paths, result)))


async def _stay(paths: "PodctlPaths", started: "Up") -> int:
    """Wait for Ctrl-C or TERM, then end both; return the exit status. If one of them ends by itself, say so."""
    import asyncio

    from podctl import embedded

    asked: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, asked.put_nowait, number)
    print_progress("Ctrl-C ends both; what runs on GPU pods goes on")  # true from here on
    processes = {
        "Temporal server": (started.server.process, embedded.server_log(paths)),
        "worker": (started.worker.process, embedded.worker_log(paths)),
    }
    while True:
        try:
            number = await asyncio.wait_for(asked.get(), LOOK_INTERVAL)
        except TimeoutError:
            for what, (process, log) in processes.items():
                if not process.is_alive():
                    print_error(f"the {what} has ended: `podctl up` starts it again. The end of {log}:")
                    print_progress(embedded.log_tail(log).lstrip("\n"))
                    return FAILED
        else:
            await embedded.down(paths, print_progress)
            print_progress("down; what runs on GPU pods goes on, and `podctl up` takes it up again")
            return 128 + number


def down() -> None:
    """End the worker and the Temporal server that `podctl up` started. Tasks stay where they are."""
    from podctl import embedded
    from podctl.paths import PodctlPaths

    ended = run_async(
        embedded.down(PodctlPaths.from_environment(), print_progress),
        when_interrupted="interrupted: `podctl status` says what still runs, `podctl down` goes on",
    )
    for each in ended:
        how = {None: "had ended already", "SIGTERM": "ended", "SIGKILL": "had to be killed"}[each.by]
        print(f"{each.what} (process {each.pid}) {how}")
    print("down" if ended else "nothing was up")


def status(*, output: OutputOption = Format.TABLE) -> None:
    """Show the Temporal server, the worker, and where podctl's commands go."""
    from podctl.paths import PodctlPaths
    from podctl.system_status import system_status

    shown = run_async(
        system_status(PodctlPaths.from_environment()), when_interrupted="nothing was changed: `podctl status` again"
    )
    if output is Format.JSON:
        print_json(shown)
        return
    print_table(("part", "state", "what"), [(part.name, part.state, part.detail) for part in shown.parts], empty="")
    if shown.advice:
        print_progress(shown.advice)


def doctor(*, output: OutputOption = Format.TABLE) -> None:
    """Check everything that podctl needs here; each check says what to do. Exits with 1 if one failed."""
    from podctl.doctor import examine
    from podctl.paths import PodctlPaths

    checks = run_async(
        examine(PodctlPaths.from_environment()), when_interrupted="nothing was changed: `podctl doctor` again"
    )
    print_checks(checks, output)


def worker(
    *,
    task_queue: Annotated[
        str | None, typer.Option(metavar="QUEUE", help="The queue of pods that only this worker reaches (podctl).")
    ] = None,
) -> None:
    """Run a worker in the foreground, for the server that podctl's commands go to. Ctrl-C ends it gracefully."""
    import worker as worker_process

    with interruptible("worker ended; what runs on GPU pods goes on, and the next worker takes it up again"):
        worker_process.main([] if task_queue is None else ["--task-queue", task_queue])
