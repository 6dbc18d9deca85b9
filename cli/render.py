"""What all views are made of: words, times, colours, columns, commands, events. Nothing is asked."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table
    from rich.text import Text

    from domain.entity import Event

#: Columns for a pipe: no line of ours is longer.
_PIPE_WIDTH = 100_000

#: Lines of a document that are shown where it is not alone.
_BEGINNING = 12
#: Lines and characters of a text that are shown in a table.
_CELL_LINES = 6
_CELL = 600
#: Characters of a value that are shown of an event.
_VALUE = 160

GOOD = "green"
BUSY = "cyan"
WAITS = "yellow"
BAD = "red"
QUIET = "dim"

#: Phases, states of workstreams, model servers, pods and processes, results of checks. Others have no colour.
_COLOURS = {
    "attached": GOOD,
    "completed": GOOD,
    "done": GOOD,
    "ok": GOOD,
    "ready": GOOD,
    "reachable": GOOD,
    "running": GOOD,
    "in_progress": BUSY,
    "wip": BUSY,
    "granted": BUSY,
    "workstream_execution": BUSY,
    "launching": BUSY,
    "loading": BUSY,
    "stopping": BUSY,
    "releasing": BUSY,
    "awaiting_input": WAITS,
    "blocked": WAITS,
    "requested": WAITS,
    "interrupted": WAITS,
    "unreachable": WAITS,
    "unhealthy": WAITS,
    "memory_unexplained": WAITS,
    "warning": WAITS,
    "failed": BAD,
    "gone": BAD,
    "lost": BAD,
    "pending": QUIET,
    "todo": QUIET,
    "rejected": QUIET,
    "skipped": QUIET,
    "stopped": QUIET,
    "released": QUIET,
    "cancelled": QUIET,
    "new": QUIET,
}


def plain(text: str) -> str:
    """Return ``text`` without characters that a terminal would obey; line breaks and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def words(state: str) -> str:
    """Return a state as people write it: ``in progress``."""
    return state.replace("_", " ")


def duration(seconds: float) -> str:
    """Return a length of time in its two largest units: ``42s``, ``3m 5s``, ``2h 10m``, ``4d 3h``."""
    whole = max(0, int(seconds))
    units = (("d", whole // 86_400), ("h", whole // 3_600 % 24), ("m", whole // 60 % 60), ("s", whole % 60))
    first = next((i for i, (_, count) in enumerate(units) if count), len(units) - 1)
    return " ".join(f"{count}{unit}" for unit, count in units[first : first + 2] if count) or "0s"


def ago(at: datetime | None) -> str:
    """Return how long ago ``at`` was; empty for None."""
    return "" if at is None else f"{duration((datetime.now(UTC) - at).total_seconds())} ago"


def state_text(state: str) -> Text:
    """Return a phase or state in its colour."""
    from rich.text import Text

    return Text(words(state), style=_COLOURS.get(state, ""))


def cell_text(text: str) -> Text:
    """Return a cell as text, never as markup (it may be a stranger's), in its colour if it is a state."""
    from rich.text import Text

    return Text(plain(text), style=_COLOURS.get(text, ""))


#: A column whose cells are no longer than this stays whole; wider ones share what room there is.
_SHORT = 16


def columns(headers: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """Return rows in columns without lines, as ``docker ps`` shows them; long cells go over several lines."""
    from rich.table import Table
    from rich.text import Text

    cells = [[cell if isinstance(cell, Text) else Text(plain(cell)) for cell in row] for row in rows]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for position, header in enumerate(headers):
        widest = max((row[position].cell_len for row in cells), default=0)
        table.add_column(header, no_wrap=widest <= _SHORT, overflow="fold")
    for row in cells:
        table.add_row(*row)
    return table


def section(name: str, content: RenderableType) -> list[RenderableType]:
    """Return ``content`` under a heading."""
    from rich.padding import Padding
    from rich.text import Text

    return [Text(f"\n{name}", style="bold"), Padding(content, (0, 0, 0, 2))]


class ShellCommand:
    """A command to be copied: where it is too long for a line, it goes on in the next as a shell takes it."""

    def __init__(self, command: str, style: str = BUSY) -> None:
        self._command = plain(command)
        self._style = style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield its lines, none wider than there is room."""
        from rich.text import Text

        for line in continued(self._command, options.max_width):
            yield Text(line, style=self._style, overflow="fold")


def continued(command: str, width: int) -> list[str]:
    """Return a shell command in lines of at most ``width``, broken between its words; a longer word stays whole."""
    from rich.cells import cell_len

    lines: list[str] = []
    line = ""
    for word in _WORD.findall(command):
        # What is not the last word of all has to leave room for the backslash.
        if line and cell_len(f"{line} {word} \\") > width and cell_len(command) > width:
            lines.append(f"{line} \\")
            line = f"  {word}"
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]


#: A word of a shell command, with its quotes.
_WORD = re.compile(r"(?:'[^']*'|\"(?:\\.|[^\"\\])*\"|\\.|[^\s])+")


class Beginning:
    """A text's first lines, as wide as they are shown; below them how many are left out, and where all of it is."""

    def __init__(self, text: RenderableType, whole: str) -> None:
        self._text = text
        self._whole = whole

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield what is shown of it."""
        from rich.segment import Segment
        from rich.text import Text

        lines = console.render_lines(self._text, options.update(height=None), pad=False)
        left = len(lines) - _BEGINNING
        for line in lines if left <= 0 else lines[:_BEGINNING]:
            yield from line
            yield Segment.line()
        if left > 0:
            yield Text(f"… {left} more line{'s' if left > 1 else ''}: {self._whole}", style=QUIET)


def beginning(text: str, whole: str) -> str:
    """Return a text, or its beginning and the command that shows all of it."""
    kept = "\n".join(text.strip().splitlines()[:_CELL_LINES])[:_CELL]
    return kept if kept == text.strip() else f"{kept} …\n(whole: {whole})"


def first_line(text: str) -> str:
    """Return the beginning of a text's first line."""
    return text.strip().partition("\n")[0][:160]


def event_view(event: Event, *, whole: bool) -> RenderableType:
    """Return one event: number, local time, type, sender and what it carries.

    ``whole`` is one line with every value as it is, for a pipe. Else long values are cut, and what has no room in the
    first line goes on below it, indented.
    """
    from rich.table import Table
    from rich.text import Text

    line = Text(overflow="fold")
    line.append(f"{event.at.astimezone():%Y-%m-%d %H:%M:%S}  ", style=QUIET)
    line.append(f"{event.type:<24}" if whole else event.type, style=_COLOURS.get(event.type.rpartition("_")[2], ""))
    client = f" ({plain(event.client)})" if event.client else ""
    line.append(f"  {plain(event.by)}{client}", style=QUIET)
    for name, value in event.payload.items():
        if value is not None and value not in ("", [], {}):
            line.append(f" {name}=")
            line.append(plain(_whole(value) if whole else _shortened(value)))
    number = Text(f"{event.sequence:>5}", style=QUIET)
    if whole:
        return number.append("  ").append_text(line)
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(number, line)
    return grid


def _whole(value: object) -> str:
    """Return a value in one line."""
    import json

    if isinstance(value, str) and "\n" not in value:
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _shortened(value: object) -> str:
    """Return the beginning of a text's first line; of anything else as many of its parts as there is room for."""
    if isinstance(value, str):
        first, _, rest = value.strip().partition("\n")
        return first if not rest and len(first) <= _VALUE else f"{first[:_VALUE]}…"
    import json

    text = json.dumps(_without_empty(value), ensure_ascii=False)
    return text if len(text) <= _VALUE else text[: text.rfind(",", 0, _VALUE) + 1 or _VALUE] + "…"


def _without_empty(value: object) -> object:
    if isinstance(value, dict):
        kept = {name: _without_empty(one) for name, one in value.items()}
        return {name: one for name, one in kept.items() if one is not None and one not in ("", [], {})}
    return [_without_empty(one) for one in value] if isinstance(value, list) else value


def print_view(view: RenderableType) -> None:
    """Print a view on stdout: fitted to a terminal, with lines of any length and no colours for a pipe."""
    import io
    import sys

    from rich.console import Console

    if sys.stdout.isatty():
        Console().print(view)
        return
    console = Console(file=io.StringIO(), width=_PIPE_WIDTH, color_system=None)
    with console.capture() as capture:
        console.print(view)
    # Rich fills every line up to the width.
    print("\n".join(line.rstrip() for line in capture.get().splitlines()), flush=True)
