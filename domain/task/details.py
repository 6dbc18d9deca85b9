"""A task at a glance, as Markdown: what a person sees in the Temporal Web UI without podctl."""

from collections import Counter
from collections.abc import Iterable, Iterator
from urllib.parse import quote

from domain.ids import gpu_pod_workflow_id
from domain.task.models import Approval, ServerStatus, TaskState, WorkstreamStatus
from domain.task.readiness import drafts
from domain.task.summary import progress
from domain.task.waits import notify_failures, waits_for

#: Workstreams listed one by one; the Web UI is no place for five hundred lines on every change.
_LISTED = 60
#: Decisions, agents and actions that are listed, the newest.
_NEWEST = 15
#: What Markdown would act on.
_ESCAPES = str.maketrans({character: f"\\{character}" for character in "\\`*[]<>|#!"})


def summary_markdown(state: TaskState, namespace: str = "") -> str:
    """Return what the task is at: phase, what waits and what moves it on, who decided what, work and machines.

    GPU pods are links to their workflows where the ``namespace`` is given.
    """
    done, total = progress(state)
    lines = [f"# {_cell(state.title)}", ""]
    lines.append(f"**{_words(state.phase.value)}** · {done} of {total} workstreams done · task `{state.task_id}`")
    if state.cancelled_by is not None:
        reason = f": {_cell(state.cancel_reason)}" if state.cancel_reason else ""
        lines.append(f"\nCancelled by {_cell(state.cancelled_by)}{reason}")
    lines += _section("Waits for", (f"- {_with_code(reason)}" for reason in waits_for(state)))
    lines += _section("Nobody was told", (f"- {_cell(failure)}" for failure in notify_failures(state)))
    lines += _workstreams(state, namespace)
    lines += _table(
        "Model servers",
        ("server", "model", "pod", "state"),
        (
            (s.name, _cell(s.model), _pod(s.pod, namespace), f"{_words(s.status)}{_detail(s.status, s.detail)}")
            for s in state.servers.values()
        ),
    )
    lines += _table("Agents", ("agent", "does", "state", "what it says"), _newest(_agents(state)))
    lines += _tracker(state)
    lines += _table("Actions", ("action", "what", "state", "decided by"), _newest(_actions(state)))
    lines += _table("Decisions", ("what", "decision", "by", "when (UTC)", "comment"), _newest(_decisions(state)))
    lines += _section(
        "Refused",
        (
            f"- {r.at:%Y-%m-%d %H:%M:%S} {_cell(r.command)} by {_cell(r.by)}: `{r.code}` {_code(r.message)}"
            for r in state.refusals[-5:]
        ),
    )
    return "\n".join(lines) + "\n"


Row = tuple[str, ...]


def _section(title: str, lines: Iterable[str]) -> list[str]:
    """Return lines under a heading; nothing where there are none."""
    listed = [*lines]
    return ["", f"## {title}", "", *listed] if listed else []


def _table(title: str, headers: Row, rows: Iterable[Row]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return _section(title, (f"| {' | '.join(headers)} |", "|---" * len(headers) + "|", *lines) if lines else ())


def _newest(rows: Iterable[Row]) -> list[Row]:
    return [*rows][-_NEWEST:]


def _workstreams(state: TaskState, namespace: str) -> list[str]:
    plan = drafts(state)
    if not plan:
        return []
    rows = []
    for name, draft in list(plan.items())[:_LISTED]:
        ws = state.workstreams.get(name)
        status = "planned" if ws is None else _words(ws.status) + (", by hand" if ws.by_hand else "")
        attempt = "" if ws is None or not ws.attempt else str(ws.attempt)
        depends = ", ".join(draft.depends_on[:10]) + (" …" if len(draft.depends_on) > 10 else "")
        where = _pod(ws.run.pod, namespace) if ws is not None and ws.run is not None else ""
        rows.append((name, _cell(draft.title), status, attempt, depends, where))
    lines = _table("Workstreams", ("workstream", "title", "state", "attempt", "depends on", "runs on"), rows)
    if len(plan) > _LISTED:
        counts = Counter(ws.status for ws in state.workstreams.values())
        lines[3:3] = [", ".join(f"{counts[s]} {_words(s)}" for s in WorkstreamStatus if counts[s]), ""]
        lines.append(f"\nand {len(plan) - _LISTED} more: `podctl task show {state.task_id}`")
    return lines


def _agents(state: TaskState) -> Iterator[Row]:
    for agent in state.agents.values():
        does = _words(agent.agent_type) + (f" of {agent.workstream_id}" if agent.workstream_id else "")
        yield _cell(agent.agent_id), does, _words(agent.status), _cell((agent.error or agent.output)[:160])


def _tracker(state: TaskState) -> list[str]:
    if state.tracker is None:
        return []
    rows = []
    for phase in state.tracker.phases:
        done = sum(item.status == "done" for item in phase.items)
        under_way = ", ".join(item.item_id for item in phase.items if item.status in {"wip", "blocked"})
        rows.append((_cell(phase.name), f"{done} of {len(phase.items)}", _cell(phase.eta), _cell(under_way[:160])))
    return _table("Tracker", ("phase", "done", "expected", "under way or blocked"), rows)


def _actions(state: TaskState) -> Iterator[Row]:
    for action in state.actions.values():
        what = f"{_words(action.action.type)}{f' ({_cell(action.reason[:100])})' if action.reason else ''}"
        yield action.action_id, what, action.status, _cell(action.decided_by)


def _decisions(state: TaskState) -> list[Row]:
    """Return who approved, sent back or answered what, in the order of time."""
    found = []
    for name, subject in (("spec", state.spec), ("plan", state.plan), ("review", state.review)):
        for decision in (subject.approval, subject.rejection) if subject is not None else ():
            if decision is None:
                continue
            word = "approved" if isinstance(decision, Approval) else "sent back"
            unnamed = isinstance(decision, Approval) and not decision.revision_named
            revision = f"{name} revision {decision.revision}{', not named' if unnamed else ''}"
            found.append((decision.at, revision, word, decision.by, decision.comment))
    for message in state.messages.values():
        answer = message.approval and message.approval.answer
        if answer:
            found.append(
                (answer.at, f"{message.message_id}: {message.content[:80]}", answer.choice, answer.by, answer.comment)
            )
    found.sort(key=lambda decision: decision[0])
    return [
        (_cell(what), _cell(choice), _cell(by), f"{at:%Y-%m-%d %H:%M:%S}", _cell(comment))
        for at, what, choice, by, comment in found
    ]


def _pod(name: str, namespace: str) -> str:
    """Return a GPU pod's name, as a link to its workflow where the namespace is known."""
    if not namespace:
        return name
    return f"[{name}](/namespaces/{quote(namespace)}/workflows/{quote(gpu_pod_workflow_id(name), safe='')})"


def _detail(status: ServerStatus, detail: str) -> str:
    return f" ({_cell(detail)})" if detail and status is not ServerStatus.RELEASED else ""


def _with_code(reason: str) -> str:
    """Set the command at a reason's end as code."""
    text, found, command = reason.rpartition(": podctl ")
    return f"{_cell(text)}: `podctl {command}`" if found else _cell(reason)


def _words(value: str) -> str:
    return value.replace("_", " ")


def _code(text: str) -> str:
    """Return text as code: quotes in an example stay as they can be typed."""
    return "`" + " ".join(text[:2_000].split())[:300].replace("`", "'") + "`"


def _cell(text: str) -> str:
    """Return text as it may stand in a table's cell: one line, nothing that Markdown would act on."""
    line = " ".join(text[:2_000].split())[:300]
    return line.translate(_ESCAPES)
