"""What people see of workstreams."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cli.render import ago, duration, plain, words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from podctl.workstreams import WorkstreamView

COLUMNS = ("id", "status", "attempt", "time", "priority", "after", "by", "what")


def cells(view: WorkstreamView) -> tuple[object, ...]:
    """Return a workstream's cells under ``COLUMNS``."""
    return (
        view.id,
        view.status,
        view.attempt or None,
        _time_taken(view) or None,
        view.priority.value,
        ", ".join(view.depends_on) or None,
        view.executor.type,
        view.title + (f" ({_first_line(view.error)})" if view.error else ""),
    )


def lines(view: WorkstreamView) -> Iterator[str]:
    """Yield a workstream, a fact a line; text of strangers cannot steer the terminal."""
    yield f"{view.id}  {plain(view.title)}"
    yield f"  status       {_status(view)}"
    yield f"  priority     {view.priority.value}"
    yield f"  done by      {_executor(view)}"
    if view.agent_id:
        yield f"  agent        {view.agent_id}"
    if view.depends_on:
        yield f"  after        {', '.join(view.depends_on)}"
    if view.estimated_hours is not None:
        yield f"  estimated    {view.estimated_hours:g} h"
    if view.started_at is not None:
        yield f"  attempt      {view.attempt}, begun {ago(view.started_at)}, {_time_taken(view)}"
    if view.completed_by:
        yield f"  ended by     {plain(view.completed_by)}, {ago(view.completed_at)}"
    if view.error:
        yield f"  error        {plain(view.error)}"
    if view.result is not None:
        yield from _result(view)
    if view.description:
        yield ""
        yield from (f"  {line}" for line in plain(view.description).splitlines())
    if view.status == "in_progress" and view.executor.type == "signal":
        yield ""
        yield f"  report it with: podctl signal workstream-result {view.task} {view.id} --status completed"


def _status(view: WorkstreamView) -> str:
    status = words(view.status) + (" (fixed by hand)" if view.by_hand else "")
    if view.blocking_on:
        return f"{status} by {', '.join(view.blocking_on)}"
    if view.cooldown_until is not None:
        return f"{status}, tried again at {view.cooldown_until:%H:%M:%S} UTC"
    if view.status == "pending" and view.missing:
        return f"{status}: waits for {', '.join(view.missing)}"
    return status


def _executor(view: WorkstreamView) -> str:
    executor = view.executor
    if executor.type == "signal":
        return "somebody outside, who reports it"
    where = view.pod or executor.pod
    given = [f"on pod {where}" if where else "", f"with model server {executor.server}" if executor.server else ""]
    return " ".join([plain(shlex.join(executor.argv)), *filter(None, given)])


def _result(view: WorkstreamView) -> Iterator[str]:
    result = view.result
    if result is None:
        return
    if result.run is not None:
        ended = f"signal {result.run.signal}" if result.run.signal is not None else f"exit code {result.run.exit_code}"
        yield f"  run          {ended}, {result.run.size:,} bytes of output: podctl task logs {view.task} {view.id}"
    if result.artifacts:
        yield f"  artifacts    {plain(', '.join(result.artifacts))}"
    if result.text.strip():
        first, *rest = plain(result.text).strip().splitlines()
        yield f"  result       {first}"
        yield from (f"               {line}" for line in rest)


def _time_taken(view: WorkstreamView) -> str:
    if view.started_at is None:
        return ""
    return duration(((view.completed_at or datetime.now(UTC)) - view.started_at).total_seconds())


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:160]
