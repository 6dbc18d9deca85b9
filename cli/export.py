"""`podctl export`, `podctl replay`, `podctl task archive | delete`: a task's history in a file, and off the server."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.context import open_client
from cli.options import TaskArgument
from cli.output import Format, OutputOption, confirm, print_json, print_progress, run_async
from cli.task import app as task_app

if TYPE_CHECKING:
    from podctl.deletion import Deletable
    from podctl.export import Export, Replayed

FileOption = Annotated[
    Path | None, typer.Option("--file", "-f", metavar="FILE", help="Where to; else TASK.podctl.json in this folder.")
]
#: What is said of a task that was deleted.
GOING = "the server removes it within a minute or so; folders and logs on GPU pods stay, so a new task needs another id"
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]


def register(parent: typer.Typer) -> None:
    """Add these commands to the program."""
    parent.command(rich_help_panel="Tasks")(export)
    parent.command(rich_help_panel="Tasks")(replay)
    task_app.command()(archive)
    task_app.command()(delete)


def export(
    task: TaskArgument,
    *,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "-f", metavar="FILE", help="Where to; else TASK.podctl.json in this folder; - prints it."
        ),
    ] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Write a task's whole history, state and events to one file. Needs no worker, and changes nothing."""
    from podctl.export import export_task, export_text, write_export

    async def read() -> "Export":
        return await export_task(await open_client(), task)

    exported = run_async(read(), when_interrupted="nothing was written")
    if file is not None and str(file) == "-":
        sys.stdout.write(export_text(exported))
        return
    path = file or Path(f"{task}.podctl.json")
    write_export(exported, path)
    if output is Format.JSON:
        print_json(_written(exported, path))
    else:
        print(f"{path} holds task {task}: {_contents(exported)}")


def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What podctl export wrote.")],
    *,
    output: OutputOption = Format.TABLE,
) -> None:
    """Check that this podctl makes the same state and events of an exported task. Needs no server."""
    from podctl.export import read_export, replay_export

    async def check() -> "Replayed":
        return await replay_export(read_export(_text(file), str(file)))

    replayed = run_async(check(), when_interrupted="nothing was changed")
    if output is Format.JSON:
        print_json(replayed)
    else:
        print(
            f"{file}: the same state and {replayed.events} events from {_runs(replayed.runs)} of task {replayed.task}"
        )


def archive(
    task: TaskArgument, *, file: FileOption = None, yes: YesOption = False, output: OutputOption = Format.TABLE
) -> None:
    """Write a finished task to a file, check the file, and delete the task from the server."""
    from podctl.deletion import archived, check_over
    from podctl.export import export_task, read_export, replay_export, write_export

    path = file or Path(f"{task}.podctl.json")

    async def read() -> "Export":
        client = await open_client()
        await check_over(client, task)
        return await export_task(client, task)

    async def write() -> None:
        write_export(exported, path)
        # What is deleted next must be in the file, whole: read back from the disk.
        await replay_export(read_export(_text(path), str(path)))

    exported = run_async(read(), when_interrupted="nothing was deleted")
    going = archived(exported)
    _confirm(going, yes, f"It will stand in {path}: {_contents(exported)}.")
    run_async(write(), when_interrupted="nothing was deleted")
    print_progress(f"{path} holds task {task}: {_contents(exported)}")
    run_async(
        _remove(going), when_interrupted=f"interrupted: {path} is whole; `podctl task delete {task}` deletes the rest"
    )
    if output is Format.JSON:
        print_json({**_written(exported, path), "deleted": True})
    else:
        print(f"task {task} is archived in {path}: podctl replay {path} checks the file")
        print_progress(GOING)


def delete(task: TaskArgument, *, yes: YesOption = False, output: OutputOption = Format.TABLE) -> None:
    """Delete a finished task from the server, with its whole history. `podctl task archive` keeps it in a file."""
    going = run_async(_look(task), when_interrupted="nothing was deleted")
    _confirm(going, yes, "Nothing else has it: podctl task archive writes it to a file first.")
    run_async(_remove(going), when_interrupted=f"interrupted: `podctl task delete {task}` deletes the rest")
    if output is Format.JSON:
        print_json({"task": task, "runs": len(going.runs), "deleted": True})
    else:
        print(f"task {task} and its history ({_runs(len(going.runs))}) are deleted")
        print_progress(GOING)


async def _look(task: str) -> "Deletable":
    from podctl.deletion import deletable

    return await deletable(await open_client(), task)


async def _remove(going: "Deletable") -> None:
    from podctl.deletion import delete_task

    await delete_task(await open_client(), going)


def _confirm(going: "Deletable", yes: bool, more: str) -> None:
    what = f"task {going.task} and its whole history ({_runs(len(going.runs))}) from the Temporal server"
    if not yes:
        refusal = f"this would delete {what}. {more} To do it, say --yes"
        confirm(f"This deletes {what}. {more} Delete it?", refusal=refusal, left="nothing was deleted")


def _contents(exported: "Export") -> str:
    missing = (
        f", events 1 to {exported.missing_through} past the server's retention" if exported.missing_through else ""
    )
    open_ = "" if exported.closed else "; it goes on"
    beside = f" and {_runs(len(exported.beside))} that a reset left beside" if exported.beside else ""
    return f"{len(exported.events)} events in {_runs(len(exported.runs))}{beside}{missing}{open_}"


def _written(exported: "Export", path: Path) -> dict[str, object]:
    return {
        "task": exported.task,
        "file": str(path),
        "events": len(exported.events),
        "runs": len(exported.runs),
        "beside": len(exported.beside),
        "missing_through": exported.missing_through,
        "closed": exported.closed,
    }


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _text(file: Path) -> str:
    from domain.errors import BadInput

    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"{file} is not UTF-8: {error}") from error
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror or error}") from error
