"""What people see of a task: what it waits for first, then what it is, in the width of any terminal."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cli.render import (
    GOOD,
    QUIET,
    WAITS,
    Beginning,
    ShellCommand,
    ago,
    beginning,
    columns,
    duration,
    first_line,
    plain,
    section,
    state_text,
    words,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType
    from rich.table import Table

    from domain.task.models import Agent, Message, Plan, Review, Spec, TaskState, Workstream, WorkstreamDraft

#: Messages that are shown, the newest.
_MESSAGES = 20


def task_view(state: TaskState, *, documents: bool) -> RenderableType:
    """Return a task; with ``documents`` also the text of its spec and plan, and what was said."""
    from rich.console import Group

    parts: list[RenderableType] = [_heading(state), *_waits(state)]
    task = state.task_id
    parts += _document("Spec", state.spec, state.spec.content if documents else "", f"podctl spec show {task}")
    if state.plan is not None:
        parts += _document("Plan", state.plan, state.plan.summary, f"podctl plan show {task}")
    if state.review.revision:
        report = state.review.report if documents else ""
        parts += _document("Review", state.review, report, f"podctl report {task}")
    if state.plan is not None and state.plan.workstreams:
        parts += section("Workstreams", _workstreams(state))
    if state.servers:
        parts += section("Model servers", _servers(state))
    if state.agents:
        parts += section("Agents", _agents(state.agents.values()))
    parts += _beside(state)
    if documents and state.messages:
        parts += section("Messages", _messages(state))
    if state.refusals:
        parts += section("Refused", _refusals(state))
    return Group(*parts)


def _heading(state: TaskState) -> RenderableType:
    from rich.text import Text

    gates = ", ".join(f"{gate} {mode}" for gate, mode in state.config.gates)
    heading = Text()
    heading.append(state.task_id, style="bold")
    heading.append(f"  {plain(state.title)}\n")
    heading.append_text(state_text(state.phase))
    heading.append(f" for {duration((datetime.now(UTC) - state.phase_since).total_seconds())}")
    heading.append(
        f", created by {plain(state.created_by)} {ago(state.created_at)}; gates: {gates}; "
        f"at most {state.config.max_concurrent} workstreams at once",
        style=QUIET,
    )
    if state.cancelled_by:
        reason = f": {plain(state.cancel_reason)}" if state.cancel_reason else ""
        heading.append(f"\ncancelled by {plain(state.cancelled_by)}{reason}", style=WAITS)
    return heading


def _waits(state: TaskState) -> list[RenderableType]:
    from rich.console import Group
    from rich.text import Text

    from domain.task.waits import notify_failures, waits_for

    reasons = [line for reason in waits_for(state) for line in _reason(reason)]
    parts = section("Waits for", Group(*reasons)) if reasons else []
    failures = [Text(f"- {plain(failure)}") for failure in notify_failures(state)]
    return parts + (section("Nobody was told", Text("\n").join(failures)) if failures else [])


def _reason(reason: str) -> list[RenderableType]:
    """Return a reason, and below it the command that moves it on, to be copied."""
    from rich.padding import Padding
    from rich.text import Text

    what, found, command = plain(reason).rpartition(": podctl ")
    if not found:
        return [Text(f"- {plain(reason)}")]
    return [Text(f"- {what}:"), Padding(ShellCommand(f"podctl {command}"), (0, 0, 0, 4))]


def _document(name: str, subject: Spec | Plan | Review, markdown: str, whole: str) -> list[RenderableType]:
    from rich.padding import Padding
    from rich.text import Text

    if not subject.revision:
        return [Text(f"\n{name}: not written yet", style="bold")]
    heading = Text(f"\n{name}", style="bold")
    heading.append(f"  revision {subject.revision}, {subject.digest}", style="not bold")
    if subject.approval is not None:
        named = "" if subject.approval.revision_named else ", revision not named"
        comment = f": {plain(first_line(subject.approval.comment))}" if subject.approval.comment else ""
        heading.append(
            f", approved by {plain(subject.approval.by)} {ago(subject.approval.at)}{named}{comment}",
            style=f"not bold {GOOD}",
        )
    elif subject.rejection is not None:
        heading.append(
            f", sent back by {plain(subject.rejection.by)}: {plain(first_line(subject.rejection.comment))}",
            style=f"not bold {WAITS}",
        )
    else:
        heading.append(", not approved", style=f"not bold {WAITS}")
    return [heading, Padding(Beginning(_formatted(markdown), whole), (0, 0, 0, 2))] if markdown.strip() else [heading]


def _formatted(markdown: str) -> RenderableType:
    """Return markdown as a terminal shows it, and as it was written for a pipe."""
    import sys

    from rich.markdown import Markdown
    from rich.text import Text

    return Markdown(plain(markdown)) if sys.stdout.isatty() else Text(plain(markdown))


def _workstreams(state: TaskState) -> Table:
    drafts = state.plan.workstreams if state.plan else {}
    rows = []
    for name, draft in drafts.items():
        workstream = state.workstreams.get(name)
        rows.append(
            (
                name,
                state_text(workstream.status if workstream else "pending"),
                _time_taken(workstream) if workstream else "",
                f"{draft.title}{_details(draft, workstream)}",
            )
        )
    return columns(("ID", "STATUS", "TIME", "WHAT"), rows)


def _details(draft: WorkstreamDraft, workstream: Workstream | None) -> str:
    """Return what else is worth knowing of a workstream, in brackets."""
    blocked = workstream is not None and workstream.blocking_on
    parts = [f"after {', '.join(draft.depends_on)}"] if draft.depends_on and not blocked else []
    if draft.executor.type != "command":
        parts.append(f"by {draft.executor.type}")
    if workstream is not None:
        if workstream.attempt > 1:
            parts.append(f"attempt {workstream.attempt}")
        if workstream.blocking_on:
            parts.append(f"blocked by {', '.join(workstream.blocking_on)}")
        elif workstream.error:
            parts.append(first_line(workstream.error))
        elif workstream.completed_by and workstream.result is not None and workstream.result.run is None:
            parts.append(f"{workstream.completed_by}: {first_line(workstream.result.text) or 'done'}")
    return f" ({'; '.join(parts)})" if parts else ""


def _time_taken(one: Workstream | Agent) -> str:
    if one.started_at is None:
        return ""
    return duration(((one.completed_at or datetime.now(UTC)) - one.started_at).total_seconds())


def _servers(state: TaskState) -> Table:
    return columns(
        ("NAME", "POD", "STATE", "SINCE", "WHAT"),
        (
            (
                *(server.name, server.pod, state_text(server.status), ago(server.since)),
                f"{server.model}{f' ({server.detail})' if server.detail else ''}",
            )
            for server in state.servers.values()
        ),
    )


def _agents(agents: Iterable[Agent]) -> Table:
    rows = []
    failed_so: dict[str, str] = {}
    for agent in agents:
        says = first_line(agent.error or agent.output or agent.workstream_id or "")
        if agent.error:
            first = failed_so.setdefault(agent.error, agent.agent_id)
            says = says if first == agent.agent_id else f"the same as {first}"
        kind = words(agent.agent_type)
        rows.append((agent.agent_id, kind, state_text(agent.status), _time_taken(agent), says))
    return columns(("ID", "TYPE", "STATUS", "TIME", "WHAT"), rows)


def _beside(state: TaskState) -> list[RenderableType]:
    """Return in a line each what has a command of its own to be looked at."""
    from rich.text import Text

    lines = []
    if state.tracker is not None:
        items = [*state.tracker.items()]
        done = sum(item.status == "done" for item in items)
        lines.append(f"tracker: {done} of {len(items)} done (podctl tracker show {state.task_id})")
    if state.actions:
        open_ones = sum(action.open for action in state.actions.values())
        lines.append(f"actions: {open_ones} open of {len(state.actions)} (podctl action list {state.task_id})")
    if state.review_threads:
        unresolved = sum(not thread.resolved for thread in state.review_threads.values())
        lines.append(
            f"review threads: {unresolved} unresolved of {len(state.review_threads)} "
            f"(podctl thread list {state.task_id})"
        )
    if state.external_sync.state != "none":
        url = f" {state.external_sync.url}" if state.external_sync.url else ""
        lines.append(f"pull request: {words(state.external_sync.state)}{url}")
    return section("Beside", Text(plain("\n".join(lines)))) if lines else []


def _messages(state: TaskState) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    whole = f"podctl task show {state.task_id} -o json"
    messages = [*state.messages.values()]
    older = len(messages) - _MESSAGES
    table = columns(
        ("ID", "TYPE", "FROM", "WHEN", "TEXT"),
        (
            (m.message_id, words(m.type), m.author, ago(m.posted_at), f"{beginning(m.content, whole)}{_answer(m)}")
            for m in messages[-_MESSAGES:]
        ),
    )
    return Group(Text(f"… {older} older: {whole}", style=QUIET), table) if older > 0 else table


def _answer(message: Message) -> str:
    approval = message.approval
    if approval is None:
        return ""
    if approval.answer is not None:
        comment = f": {first_line(approval.answer.comment)}" if approval.answer.comment else ""
        return f"\n> {approval.answer.choice} ({approval.answer.by}{comment})"
    return f"\n> {approval.closed or ' | '.join(approval.options)}"


def _refusals(state: TaskState) -> Table:
    return columns(
        ("WHEN", "FROM", "WHAT", "CODE", "WHY"),
        ((ago(refusal.at), refusal.by, refusal.command, refusal.code, refusal.message) for refusal in state.refusals),
    )
