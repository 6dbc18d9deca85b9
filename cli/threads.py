"""`podctl thread …`: remarks on a spec, plan or report that stay with the lines they are about."""

from enum import StrEnum
from typing import Annotated

import typer

from cli.options import AsOption, TaskArgument
from cli.output import Format, OutputOption, print_json, print_table
from cli.task_commands import read_task, tell

app = typer.Typer(no_args_is_help=True, help="Remarks on a spec, plan or report; they move with the lines they are on.")


class DocumentName(StrEnum):
    """What can be remarked on."""

    SPEC = "spec"
    PLAN = "plan"
    REPORT = "report"


ThreadArgument = Annotated[str, typer.Argument(metavar="THREAD", help="The thread's id: t-1, …")]
ContentArgument = Annotated[str, typer.Argument(metavar="COMMENT", help="What to say, in markdown.")]


def register(parent: typer.Typer) -> None:
    """Add these commands to the program."""
    parent.add_typer(app, name="thread", rich_help_panel="Tasks")


@app.command("list")
def list_threads(
    task: TaskArgument,
    *,
    document: Annotated[DocumentName | None, typer.Option(help="Only those on it.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Resolved ones too.")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """List a task's open threads. Needs no worker."""
    from cli.render_documents import THREAD_COLUMNS, thread_cells
    from podctl.documents import threads_on

    state = read_task(task)
    threads = threads_on(state, None if document is None else document.value)
    shown = [thread for thread in threads if everything or not thread.resolved]
    if output is Format.JSON:
        print_json(shown)
        return
    others = " open (podctl thread list --all)" if len(threads) > len(shown) else ""
    empty = f"task {task} has no{others} review threads: podctl thread comment {task} spec 'COMMENT' --lines 3-5"
    print_table(THREAD_COLUMNS, [thread_cells(thread) for thread in shown], empty=empty)


@app.command()
def show(task: TaskArgument, thread: ThreadArgument, *, output: OutputOption = Format.TABLE) -> None:
    """Show a thread: what it is about, and what was said. Needs no worker."""
    from cli.render_documents import thread_lines
    from podctl.documents import find_thread

    found = find_thread(read_task(task), thread)
    if output is Format.JSON:
        print_json(found)
    else:
        print("\n".join(thread_lines(found)))


@app.command()
def comment(  # noqa: PLR0913  # a command has as many parameters as options
    task: TaskArgument,
    document: Annotated[DocumentName, typer.Argument(metavar="DOCUMENT", help="spec, plan or report.")],
    content: ContentArgument,
    *,
    lines: Annotated[str, typer.Option(metavar="A-B", help="The lines it is on, as `show` numbers them.")] = "",
    words: Annotated[str, typer.Option("--text", metavar="WORDS", help="The words it is on.")] = "",
    revision: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="The revision that was read; else the newest.")
    ] = None,
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Begin a thread on lines or words of a document, or on all of it."""
    from podctl.documents import comment as comment_command

    state = read_task(task)
    command = comment_command(state, document.value, content, lines=lines, words=words, revision=revision)
    tell(task, command, lambda after: f"thread t-{after.threads_begun} is begun", by=by, output=output)


@app.command()
def reply(
    task: TaskArgument,
    thread: ThreadArgument,
    content: ContentArgument,
    *,
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Answer in a thread."""
    from domain.task.commands import ReplyToThread

    tell(task, ReplyToThread(thread_id=thread, content=content), f"answered in {thread}", by=by, output=output)


@app.command()
def resolve(
    task: TaskArgument, thread: ThreadArgument, *, by: AsOption = None, output: OutputOption = Format.TABLE
) -> None:
    """Settle a thread."""
    from domain.task.commands import ResolveThread

    tell(task, ResolveThread(thread_id=thread), f"thread {thread} is resolved", by=by, output=output)


@app.command()
def reopen(
    task: TaskArgument, thread: ThreadArgument, *, by: AsOption = None, output: OutputOption = Format.TABLE
) -> None:
    """Take up a thread again."""
    from domain.task.commands import ReopenThread

    tell(task, ReopenThread(thread_id=thread), f"thread {thread} is open again", by=by, output=output)
