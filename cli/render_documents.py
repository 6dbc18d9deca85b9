"""Specs, plans and the remarks on them, as people see them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from cli.output import Format, print_json
from cli.render import ago, columns, plain, print_view, state_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rich.console import RenderableType
    from rich.text import Text

    from domain.task.models import ReviewThread, TaskState, WorkstreamDraft
    from podctl.documents import DocumentView

#: Levels of a tree that are indented; what is deeper stands there too, and says what it follows.
_DEPTH = 12
_PREVIEW = 160


def print_document(view: DocumentView, output: Format) -> None:
    """Print a document: as JSON, for a terminal with what is said about it, or else as it was written."""
    if output is Format.JSON:
        print_json(view)
    elif sys.stdout.isatty() or not view.text.strip():
        print_view(_document_text(view))
    else:
        sys.stdout.write(view.text)


def _document_text(view: DocumentView) -> RenderableType:
    """Return a document with its lines numbered and the open threads where they are."""
    from rich.console import Group
    from rich.text import Text

    if not view.text.strip():
        return heading(view)
    lines = view.text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    marks: dict[int, list[str]] = {}
    covered: set[int] = set()
    for thread in view.threads:
        if thread.anchor is not None and not thread.resolved and not thread.outdated:
            marks.setdefault(thread.anchor.line_end, []).append(thread.thread_id)
            covered.update(range(thread.anchor.line_start, thread.anchor.line_end + 1))
    shown = Text()
    shown.append_text(heading(view))
    width = len(str(len(lines)))
    for number, line in enumerate(lines, 1):
        shown.append(f"\n{number:>{width}} ", style="dim")
        shown.append("▌ " if number in covered else "  ", style="yellow")
        shown.append(plain(line))
        if number in marks:
            shown.append(f"  ◀ {', '.join(marks[number])}", style="yellow")
    open_threads = [thread for thread in view.threads if not thread.resolved]
    return Group(shown, "", threads_table(open_threads)) if open_threads else shown


def heading(view: DocumentView) -> Text:
    """Return in one line which revision of a document it is, and whether it is approved."""
    from rich.text import Text

    if not view.text.strip():
        return Text(f"the {view.document} of task {view.task} is not written yet", style="bold")
    heading = Text(f"{view.document} of task {view.task}", style="bold")
    approved = f"approved by {view.approved_by}" if view.approved_by else "not approved"
    review = f" (revision {view.approves} of the review)" if view.document == "report" else ""
    heading.append(
        f"  revision {view.revision}{review}, {view.digest}, by {plain(view.updated_by)}, {plain(approved)}",
        style="not bold",
    )
    return heading


def threads_table(threads: Iterable[ReviewThread]) -> RenderableType:
    """Return threads in columns."""
    return columns(THREAD_COLUMNS, [thread_cells(thread) for thread in threads])


THREAD_COLUMNS = ("THREAD", "ON", "STATE", "FROM", "WHEN", "COMMENTS", "TEXT")


def thread_cells(thread: ReviewThread) -> Sequence[str]:
    """Return a thread as one row."""
    root = thread.comments[0]
    text = " ".join(root.content.split())
    return (
        thread.thread_id,
        place(thread),
        thread_state(thread),
        root.author,
        ago(root.posted_at),
        str(len(thread.comments)),
        text if len(text) <= _PREVIEW else text[: _PREVIEW - 1] + "…",
    )


def place(thread: ReviewThread) -> str:
    """Return what a thread is about: ``spec:3-5``, ``plan``."""
    anchor = thread.anchor
    if anchor is None:
        return thread.document
    last = f"-{anchor.line_end}" if anchor.line_end != anchor.line_start else ""
    return f"{thread.document}:{anchor.line_start}{last}"


def thread_state(thread: ReviewThread) -> str:
    """Return ``open``, ``outdated`` (what it is about is gone) or ``resolved``."""
    if thread.resolved:
        return "resolved"
    return "outdated" if thread.outdated else "open"


def thread_lines(thread: ReviewThread) -> Iterator[str]:
    """Yield a thread whole: what it is about, then each comment."""
    resolved = f" by {thread.resolved_by} {ago(thread.resolved_at)}" if thread.resolved else ""
    yield plain(f"{thread.thread_id}  {place(thread)}, {thread_state(thread)}{resolved}")
    if thread.anchor is not None:
        if thread.outdated:
            yield "  this text is no longer there:"
        yield from (f"  > {plain(line)}" for line in thread.anchor.selected_text.split("\n"))
    for comment in thread.comments:
        yield ""
        yield plain(f"{comment.author}, {ago(comment.posted_at)}")
        yield from (f"  {plain(line)}".rstrip() for line in comment.content.rstrip().split("\n"))


def plan_tree(state: TaskState) -> Text:
    """Return the workstreams as a tree: each once, below the last of those it follows, with what else it follows."""
    from rich.text import Text

    drafts = {} if state.plan is None else state.plan.workstreams
    parents = _parents(drafts)
    below: dict[str, list[str]] = {}
    for name, parent in parents.items():
        below.setdefault(parent, []).append(name)
    shown = Text()
    # What comes next stands last.
    waiting = [(name, 0, "", "") for name in reversed(below.get("", []))]
    while waiting:
        name, level, indent, branch = waiting.pop()
        draft = drafts[name]
        workstream = state.workstreams.get(name)
        shown.append(f"{indent}{branch}", style="dim")
        shown.append(f"{name}  ", style="bold")
        shown.append_text(state_text(workstream.status if workstream else "planned"))
        shown.append(f"  {plain(draft.title)}")
        hidden = draft.depends_on if level > _DEPTH else [d for d in draft.depends_on if d != parents[name]]
        shown.append(f"  after {', '.join(hidden)}\n" if hidden else "\n", style="dim")
        inner = indent + {"├─ ": "│  ", "└─ ": "   "}.get(branch, "") if level < _DEPTH else indent
        children = below.get(name, [])
        last = children[-1] if children else ""
        waiting += [(child, level + 1, inner, "└─ " if child == last else "├─ ") for child in reversed(children)]
    shown.rstrip()
    return shown


def _parents(drafts: Mapping[str, WorkstreamDraft]) -> dict[str, str]:
    """Return workstream -> which of its dependencies it stands below, or nothing; none comes before what it follows."""
    order: dict[str, int] = {}
    remaining = dict(drafts)
    while remaining:
        ready = [name for name, draft in remaining.items() if not any(d in remaining for d in draft.depends_on)]
        for name in ready:
            order[name] = len(order)
            del remaining[name]
    return {name: max(drafts[name].depends_on, key=order.__getitem__, default="") for name in order}
