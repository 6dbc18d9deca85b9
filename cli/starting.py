"""What a person sees while a model server starts: a live view on a terminal, a line for each change in a pipe."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cli.output import print_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType
    from rich.text import Text

    from podctl.servers import Starting

#: The way of every start. Stages of the log stand between the launch and the first answer.
_WAY = ("queue", "launch", "download", "load", "compile", "serve", "ready")
_BEFORE_THE_LOG = {"pending": "queue", "restarting": "queue", "launching": "launch", "ready": "ready"}


@contextmanager
def start_shown(name: str, pod: str) -> Iterator[Callable[[Starting], None]]:
    """Give what shows how far a start is, on stderr."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.live import Live

    view = _View(name, pod)
    with Live(get_renderable=view.render, console=Console(stderr=True), refresh_per_second=4, transient=True):
        yield view


def where(start: Starting) -> str:
    """Return the step of a start's way that it is at; empty for a server that is not on it."""
    if start.row.state == "loading":
        stage = start.progress.stage if start.progress else "start"
        return "launch" if stage == "start" else stage
    return _BEFORE_THE_LOG.get(start.row.state, "")


class _Lines:
    """Tells states, stages and what is waited for; how a bar grows would be a flood."""

    def __init__(self) -> None:
        self._told = ""

    def __call__(self, start: Starting) -> None:
        from cli.render_pods import state_line

        row = start.row
        stage = where(start) if row.state == "loading" else ""
        now = f"{row.name} is loading: {stage}" if stage else state_line(row)
        if now != self._told:
            print_progress(now)
        self._told = now


class _View:
    """The newest look at a start, drawn again and again for the time that passes."""

    def __init__(self, name: str, pod: str) -> None:
        import time

        from rich.spinner import Spinner

        self._title = f"{name} on pod {pod}"
        self._clock = time.monotonic
        self._since = time.monotonic()
        self._spinner = Spinner("dots")
        self._start: Starting | None = None

    def __call__(self, start: Starting) -> None:
        self._start = start

    def render(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        from cli.render import duration, plain

        start = self._start
        self._spinner.update(text=Text(f"{self._title}: {self._doing()}  {duration(self._clock() - self._since)}"))
        if start is None:
            return self._spinner
        parts: list[RenderableType] = [self._spinner, _way(where(start))]
        if start.progress is not None and start.progress.fraction is not None and start.row.state == "loading":
            parts.append(ProgressBar(total=1.0, completed=start.progress.fraction, width=60))
        if start.last_line:
            parts.append(Text(plain(start.last_line), style="dim", no_wrap=True, overflow="ellipsis"))
        return Group(*parts)

    def _doing(self) -> str:
        from cli.render import plain, words
        from cli.render_pods import queue_place

        start = self._start
        if start is None:
            return "asked for"
        if start.row.state == "loading":
            return start.progress.words if start.progress else "starting"
        detail = plain(queue_place(start.row) + start.row.detail)
        return f"{words(start.row.state)}, {detail}" if detail else words(start.row.state)


def _way(here: str) -> Text:
    """Return all the steps, with those that are done, the one that it is at, and those to come told apart."""
    from rich.text import Text

    position = _WAY.index(here) if here else -1
    way = Text("  ")
    for index, step in enumerate(_WAY):
        style = "bold cyan" if index == position else "green" if index < position else "dim"
        way.append(step, style=style)
        if step != _WAY[-1]:
            way.append(" → ", style="dim")
    return way
