"""How every command shows things: tables or JSON on stdout, progress and errors on stderr, exit codes.

0 is done, 1 failed, 2 a mistake in what was typed or written, 130 Ctrl-C. No stack trace reaches a user: ``run`` is the
one place where an exception becomes a message.
"""

import os
import sys
import traceback
from collections.abc import Collection, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from rich.table import Table

T = TypeVar("T")

FAILED = 1
USAGE = 2
INTERRUPTED = 130


class Format(StrEnum):
    """What a command that shows something prints."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[Format, typer.Option("--output", "-o", help="Show a table, or JSON for programs.")]

#: Refusals of what was typed, whoever is asked: by their code.
_MISTYPED = frozenset({"options_conflict", "secret_in_arguments", "reserved_argument", "arguments_too_long"})
#: Packages of ours whose exceptions are written for people.
_OURS = frozenset({"cli", "demo", "domain", "podctl", "remote", "simulator", "worker"})


def run(app: typer.Typer) -> int:
    """Run the program; return its exit status, whatever happens, having said on stderr what went wrong."""
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except SystemExit as end:
        # Typer ends the program itself, always with a number.
        return end.code if isinstance(end.code, int) else 0
    except BrokenPipeError:
        # Whoever read our output has enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001  # the one place for all of them
        if os.environ.get("PODCTL_DEBUG"):
            traceback.print_exc()
        print_error(error_text(error))
        return USAGE if type(error).__name__ == "BadInput" or getattr(error, "code", None) in _MISTYPED else FAILED
    return 0


def run_async(work: Coroutine[Any, Any, T], *, when_interrupted: str) -> T:
    """Run a command's coroutine; Ctrl-C ends it with a word on how to look again at what goes on without us."""
    import asyncio

    with interruptible(when_interrupted):
        return asyncio.run(work)


async def while_read(work: Coroutine[Any, Any, T]) -> T:
    """Return what ``work`` does; end it when nobody reads our output any more, such as ``grep -m 1`` that has found it.

    Raises BrokenPipeError then. A program hears of it by itself only when it next prints, which may be in days.
    """
    import asyncio
    import stat

    doing = asyncio.ensure_future(work)
    try:
        output = sys.stdout.fileno()
        is_pipe = stat.S_ISFIFO(os.fstat(output).st_mode)
    except OSError:  # in a test, it is no file at all
        is_pipe = False
    if not is_pipe:
        return await doing
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    # The writing end of a pipe becomes readable when its reading end is closed.
    loop.add_reader(output, gone.set)
    unread = asyncio.ensure_future(gone.wait())
    try:
        await asyncio.wait({doing, unread}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise BrokenPipeError
        return doing.result()
    finally:
        loop.remove_reader(output)
        unread.cancel()
        doing.cancel()


@contextmanager
def interruptible(hint: str) -> Iterator[None]:
    """Turn Ctrl-C into ``hint`` on stderr and exit status 130."""
    try:
        yield
    except KeyboardInterrupt:
        print_progress(f"\n{hint}")
        raise typer.Exit(INTERRUPTED) from None


def confirm(question: str, *, refusal: str, left: str) -> None:
    """Go on if a person says yes; else say what is ``left`` as it was and exit with 130.

    With nobody at a terminal to ask, ``refusal`` says how to do without.
    """
    if not sys.stdin.isatty():
        raise typer.BadParameter(refusal)
    try:
        sure = typer.confirm(question, err=True)
    except typer.Abort:
        sure = False
    if not sure:
        print_progress(left)
        raise typer.Exit(INTERRUPTED)


def print_error(message: str) -> None:
    """Print ``error: message`` on stderr."""
    print(f"error: {message}", file=sys.stderr, flush=True)


def print_progress(message: str) -> None:
    """Print what is being done, on stderr: it is no part of the result."""
    print(message, file=sys.stderr, flush=True)


def print_json(value: object) -> None:
    """Print ``value`` (models, dataclasses, dates and paths included) as JSON."""
    from pydantic import TypeAdapter

    print(TypeAdapter(Any).dump_json(value, indent=2).decode())


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str, cut: Collection[str] = ()
) -> None:
    """Print rows under their column names: with colours and fitted to a terminal, or whole for a pipe.

    ``None`` shows as ``-``. Without rows it prints ``empty``, which says what to do to get some. ``cut`` as in
    ``terminal_table``.
    """
    cells = [_texts(row) for row in rows]
    if not cells:
        print(empty)
    elif sys.stdout.isatty():
        from rich.console import Console

        Console().print(terminal_table(columns, cells, cut=cut))
    else:
        lines = [[column.upper() for column in columns], *cells]
        widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
        for line in lines:
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def terminal_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, cut: Collection[str] = ()) -> "Table":
    """Return rows as a terminal shows them.

    With ``cut``, the columns of these names are cut where there is no room, the last one wraps, and the others stay
    whole.
    """
    from rich.table import Table

    from cli.render import cell_text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(
            column,
            no_wrap=bool(cut) and column not in cut and column != columns[-1],
            overflow="ellipsis" if column in cut else "fold",
        )
    for row in rows:
        table.add_row(*(cell_text(cell) for cell in _texts(row)))
    return table


def without_empty(
    columns: Sequence[str], rows: Sequence[Sequence[object]]
) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
    """Return columns and rows without the columns that have nothing to show in any row."""
    kept = [index for index in range(len(columns)) if any(row[index] not in {None, ""} for row in rows)]
    return [columns[index] for index in kept], [[row[index] for index in kept] for row in rows]


def _texts(row: Sequence[object]) -> list[str]:
    return ["-" if cell is None else str(cell) for cell in row]


def error_text(error: Exception) -> str:
    """Return an exception as people are told of it."""
    package = type(error).__module__.partition(".")[0]
    if package in _OURS:
        code = getattr(error, "code", None)
        text = str(error)
        return text if code is None or text.startswith(f"{code}:") else f"{code}: {text}"
    if package == "temporalio":
        status = getattr(error, "status", None)
        if getattr(status, "name", "") == "UNAVAILABLE":
            return f"the Temporal server answers no more ({error}); look with: podctl status"
        return f"Temporal says: {error}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return f"{type(error).__name__}: {error}. This is a fault in podctl; PODCTL_DEBUG=1 shows where it is"
