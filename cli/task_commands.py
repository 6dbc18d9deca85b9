"""What commands on one task share: its state, read; a command, sent, and told in a line or as JSON what came of it."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from cli.context import open_client, speaker
from cli.output import Format, print_json, run_async

if TYPE_CHECKING:
    from domain.task.commands import TaskCommand
    from domain.task.models import TaskState

#: What came of a command, in words, from the state after it; a second line says what to do next.
Told = Callable[["TaskState"], str]


def tell(task: str, command: "TaskCommand", told: Told | str, *, by: str | None, output: Format) -> None:
    """Send a command to a task and print what came of it: ``task T: …, by NAME``."""
    name = speaker(by)

    async def send() -> "tuple[str, TaskState | None]":
        client = await open_client()
        outcome = await client.execute_task(task, command, by=name)
        return outcome.command_id, None if isinstance(told, str) else await client.task(task)

    command_id, state = run_async(
        send(), when_interrupted=f"interrupted: `podctl task show {task}` says whether it was done"
    )
    words = told if isinstance(told, str) else told(state) if state else ""
    tell_done(task, command.type, command_id, words, by=name, output=output)


def tell_done(task: str, command: str, command_id: str, words: str, *, by: str, output: Format) -> None:
    """Print what came of a command; a second line of ``words`` says what to do next."""
    if output is Format.JSON:
        report = {"task": task, "command": command, "command_id": command_id, "by": by, "status": "accepted"}
        print_json({**report, "message": "; ".join(words.split("\n"))})
    else:
        done, _, next_one = words.partition("\n")
        print(f"task {task}: {done}, by {by}" + (f"\n  {next_one}" if next_one else ""))


def read_task(task: str) -> "TaskState":
    """Return a task's state. Works without a worker."""

    async def read() -> "TaskState":
        return await (await open_client()).task(task)

    return run_async(read(), when_interrupted="nothing was changed: look again")
