"""`podctl explain`, `podctl task send`: every command of a task, for who wants to give one as it is."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.complete import complete_command
from cli.context import open_client, speaker
from cli.options import AsOption, TaskArgument
from cli.output import Format, OutputOption, print_json, print_table, run_async
from cli.task import app as task_app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from podctl.explain import CommandPage, FieldPage

CommandArgument = Annotated[
    str, typer.Argument(metavar="COMMAND", autocompletion=complete_command, help="One that podctl explain lists.")
]


def register(parent: typer.Typer) -> None:
    """Add these commands to the program."""
    parent.command(rich_help_panel="Tasks")(explain)
    # Its options are the fields of the command that is sent.
    task_app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(send)


def explain(
    command: Annotated[
        str | None,
        typer.Argument(metavar="COMMAND", autocompletion=complete_command, help="One of them; else a list of all."),
    ] = None,
    *,
    output: OutputOption = Format.TABLE,
) -> None:
    """Say what can be asked of a task: who may, in which phases, with which fields, and how it can be refused."""
    from podctl.explain import explain as explained
    from podctl.explain import pages

    if command is not None:
        page = explained(command)
        if output is Format.JSON:
            print_json(page)
        else:
            print("\n".join(_lines(page)))
    elif output is Format.JSON:
        print_json(pages())
    else:
        print_table(
            ("command", "who", "what it does"),
            [(page.command, ", ".join(page.senders), page.meaning) for page in pages()],
            empty="",
        )


def send(
    context: typer.Context,
    task: TaskArgument,
    command: CommandArgument,
    *,
    text: Annotated[
        str | None, typer.Option("--json", metavar="JSON", help="The fields as one JSON object, instead of options.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="A file with that object; - is standard input.")
    ] = None,
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Give a task any command as it is, its fields as options: `--ws-id docs`. `podctl explain` says what there is.

    Most commands have a way of their own that is easier; this one has them all.
    """
    from podctl.command_input import read_command

    given = _given(text, file)
    sent = read_command(command, context.args, given)
    name = speaker(by)

    async def execute() -> str:
        from podctl.client import new_command_id

        command_id = new_command_id()
        await (await open_client()).execute_task(task, sent, by=name, command_id=command_id)
        return command_id

    command_id = run_async(
        execute(), when_interrupted=f"interrupted: `podctl events {task}` says whether it was carried out"
    )
    if output is Format.JSON:
        print_json({"task": task, "command": command, "command_id": command_id, "status": "accepted"})
    else:
        print(f"task {task}: {command} is carried out, by {name}")


def _given(text: str | None, file: Path | None) -> str | None:
    if text is not None and file is not None:
        raise typer.BadParameter("give --json or -f FILE, not both")
    if file is None:
        return text
    return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")


def _lines(page: "CommandPage") -> "Iterator[str]":
    import json

    yield f"COMMAND      {page.command}"
    yield f"WHAT         {page.meaning}"
    yield f"WHO          {', '.join(page.senders)}"
    yield f"PHASES       {', '.join(page.phases)}"
    yield "REPEATED     counts once: the same command id again changes nothing"
    yield ""
    yield "FIELDS"
    yield from _field_lines(page.fields, "  ")
    for shape in page.shapes:
        yield ""
        yield f"{shape.name}: {shape.meaning}"
        yield from _field_lines(shape.fields, "  ")
    yield ""
    yield "EXAMPLE"
    if "person" in page.senders:
        fields = {name: value for name, value in page.example.items() if name != "type"}
        quoted = json.dumps(fields, ensure_ascii=False).replace("'", "'\\''")
        yield f"  podctl task send TASK {page.command} --json '{quoted}'"
    else:
        yield f"  {json.dumps(page.example, ensure_ascii=False)}"
    yield ""
    yield "REFUSED      (besides already_terminal, invalid_phase, not_allowed, state_too_large)"
    width = max((len(code) for code in page.rejections), default=0)
    yield from (f"  {code.ljust(width)}  {meaning}" for code, meaning in page.rejections.items())


def _field_lines(fields: "tuple[FieldPage, ...]", indent: str) -> "Iterator[str]":
    if not fields:
        yield f"{indent}none"
    for field in fields:
        yield f"{indent}{field.name} <{field.type}>{' -required-' if field.required else ''}"
        if field.meaning:
            yield f"{indent}  {field.meaning}"
