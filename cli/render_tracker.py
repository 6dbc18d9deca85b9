"""What people see of a tracker and of actions."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from cli.render import ago, columns, plain, state_text, words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from domain.task.models import TrackerPhase
    from podctl.actions import ActionView
    from podctl.tracker import TrackerView

_BAR = 20


def board(view: TrackerView) -> RenderableType:
    """Return the board: a bar for the whole, then phase by phase its items."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    filled = _BAR * view.done // view.total if view.total else 0
    heading = Text(view.task, style="bold")
    heading.append(f"  [{'#' * filled}{'-' * (_BAR - filled)}] {view.done} of {view.total} done", style="not bold")
    parts: list[RenderableType] = [heading]
    for phase in view.phases:
        done = sum(item.status == "done" for item in phase.items)
        title = Text(f"\n{phase.phase_id}", style="bold")
        title.append(f"  {plain(phase.name)}, {done} of {len(phase.items)} done", style="not bold")
        if phase.eta:
            title.append(f", expected: {plain(phase.eta)}", style="not bold")
        parts.append(title)
        if phase.summary.strip():
            parts.append(Padding(Text(plain(phase.summary.strip()), style="dim"), (0, 0, 0, 2)))
        if phase.items:
            parts.append(Padding(_items(phase), (0, 0, 0, 2)))
    return Group(*parts)


def _items(phase: TrackerPhase) -> RenderableType:
    rows = []
    for item in phase.items:
        newest = f" ({item.comments[-1].author}: {_first_line(item.comments[-1].content)})" if item.comments else ""
        rows.append((item.item_id, state_text(item.status), item.workstream_id or "-", f"{item.summary}{newest}"))
    return columns(("ITEM", "STATUS", "OWNER", "WHAT"), rows)


def action_lines(view: ActionView) -> Iterator[str]:
    """Yield an action, a fact a line; text of strangers cannot steer the terminal."""
    yield f"{view.action_id}  {words(view.status)}"
    yield f"  what         {plain(_whole(view))}"
    yield f"  asked by     {plain(view.requested_by)}, {ago(view.requested_at)}"
    if view.reason:
        yield f"  reason       {plain(_one_line(view.reason))}"
    if view.decided_by:
        comment = f": {plain(_one_line(view.comment))}" if view.comment else ""
        verb = "rejected by" if view.status == "rejected" else "granted by"
        yield f"  {verb:11}  {plain(view.decided_by)}, {ago(view.decided_at)}{comment}"
    if view.run is not None:
        yield f"  run          on pod {view.run.pod}: podctl task logs {view.task} {view.action_id}"
    if view.error:
        yield f"  error        {plain(_one_line(view.error))}"
    if view.result is not None and view.result.text.strip():
        yield "  output"
        yield from (f"    {line}" for line in plain(view.result.text).strip().splitlines())
    if view.status == "granted":
        yield ""
        yield f"  end it with: podctl action interrupt {view.task} {view.action_id}"
    if view.status == "requested":
        yield ""
        yield f"  decide with: podctl action grant {view.task} {view.action_id}"
        yield f"           or: podctl action reject {view.task} {view.action_id} --comment WHY"


def _whole(view: ActionView) -> str:
    """Return what an action does, uncut: a person is to read what they grant."""
    if view.action.type != "run":
        return view.description
    executor = view.action.executor
    variables = [f"{name}={shlex.quote(value)}" for name, value in executor.environment.items()]
    server = f" with model server {executor.server}" if executor.server else ""
    limit = f", at most {executor.timeout_seconds:g} s" if executor.timeout_seconds else ""
    return f"run on pod {executor.pod}{server}{limit}: {' '.join([*variables, shlex.join(executor.argv)])}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:60]
