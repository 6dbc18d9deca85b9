"""A task's spec, plan and report for people: what is sent when they write them, and where a comment goes."""

from typing import Literal

from domain.entity import Value
from domain.errors import BadInput, Rejected
from domain.task.anchors import lines_of
from domain.task.commands import CommentOn, UpdatePlan, UpdateSpec
from domain.task.documents import check_spec
from domain.task.models import Anchor, Document, Phase, PlanDraft, Review, ReviewThread, TaskState
from domain.task.plan_file import read_plan
from domain.task.plan_text import plan_draft, plan_text
from domain.task.rules import RULES
from domain.task.threads import document_revision, document_text, thread_not_found

#: What people write; a report is written by a reviewer.
Written = Literal["spec", "plan"]


class DocumentView(Value):
    """A spec, plan or report as it is read: its text, who approved it, and what was remarked on it."""

    task: str
    document: Document
    #: How often it was written; a report of an earlier review counts, and is gone.
    revision: int
    #: What an approval is of: its revision and digest. A report is approved with its review, which counts by itself.
    approves: int
    digest: str
    #: Markdown of a spec or report, YAML of a plan.
    text: str
    updated_by: str
    approved_by: str
    #: The review threads on it, resolved ones too.
    threads: tuple[ReviewThread, ...]


def document_view(state: TaskState, document: Document) -> DocumentView:
    """Return a document as it is read."""
    subject = {"spec": state.spec, "plan": state.plan, "report": state.review}[document]
    text = document_text(state, document)
    by, approval, digest = "", None, ""
    if subject is not None and text:
        by = subject.reported_by if isinstance(subject, Review) else subject.updated_by
        approval, digest = subject.approval, subject.digest
    return DocumentView(
        task=state.task_id,
        document=document,
        revision=document_revision(state, document),
        approves=0 if subject is None else subject.revision,
        digest=digest,
        text=text,
        updated_by=by,
        approved_by="" if approval is None else approval.by,
        threads=threads_on(state, document),
    )


def threads_on(state: TaskState, document: Document | None = None) -> tuple[ReviewThread, ...]:
    """Return the review threads on a document, or on all, the oldest first."""
    return tuple(t for t in state.review_threads.values() if document in (None, t.document))


def check_writable(state: TaskState, document: Written) -> None:
    """Raise ``Rejected('invalid_phase')`` if nobody may write it now, before a person goes to the trouble."""
    phases = RULES[UpdateSpec if document == "spec" else UpdatePlan].phases
    if state.phase in phases:
        return
    if state.final:
        raise Rejected("already_terminal", f"task {state.task_id!r} is {state.phase.value}: its {document} stays as is")
    allowed = " or ".join(phase.value for phase in Phase if phase in phases)
    raise Rejected(
        "invalid_phase",
        f"the {document} is written in phase {allowed}, and the task is in {state.phase.value}; to go back to it: "
        f"podctl {document} reopen {state.task_id}",
    )


def spec_update(state: TaskState, content: str, revision: int | None = None) -> UpdateSpec:
    """Return the command that writes ``content`` over the spec that was read; its lists stay."""
    base = state.spec.revision if revision is None else revision
    spec = state.spec
    return UpdateSpec(
        content=content,
        requirements=spec.requirements,
        acceptance_criteria=spec.acceptance_criteria,
        base_revision=base,
    )


def plan_update(state: TaskState, plan: PlanDraft, revision: int | None = None) -> UpdatePlan:
    """Return the command that writes a plan over the one that was read."""
    return UpdatePlan(plan=plan, base_revision=document_revision(state, "plan") if revision is None else revision)


def current_plan_text(state: TaskState) -> str:
    """Return the plan's text, or the beginning of one where there is none."""
    if state.plan is not None:
        return plan_text(plan_draft(state.plan))
    first = {"id": "first", "title": state.title[:200], "executor": {"type": "signal"}}
    return plan_text(PlanDraft.model_validate({"workstreams": [first]}))


def plan_mistakes(text: str, source: str) -> str:
    """Return what is wrong with a plan file, one ``file:line:column: field: problem`` a line; empty if nothing is."""
    try:
        read_plan(text, source)
    except BadInput as mistakes:
        return str(mistakes)
    return ""


def spec_mistakes(text: str) -> str:
    """Return why a text can be no spec; empty if it can."""
    try:
        check_spec(text)
        text.encode()
    except Rejected as rejected:
        return rejected.message
    except UnicodeEncodeError as error:
        return f"line {text.count(chr(10), 0, error.start) + 1} is not UTF-8 text"
    return ""


def find_thread(state: TaskState, thread_id: str) -> ReviewThread:
    """Return a review thread, or raise ``Rejected('thread_not_found')`` that says which there are."""
    if thread_id not in state.review_threads:
        raise thread_not_found(state, thread_id)
    return state.review_threads[thread_id]


def comment(
    state: TaskState, document: Document, content: str, *, lines: str = "", words: str = "", revision: int | None = None
) -> CommentOn:
    """Return the command that comments on lines (``3`` or ``3-5``), on words, or on a whole document.

    Raises BadInput for lines that are none, and for words that stand nowhere or in several places.
    """
    read = document_revision(state, document) if revision is None else revision
    if not lines and not words:
        return CommentOn(document=document, content=content, revision=read)
    start, end = parse_lines(lines) if lines else (1, 1)
    if words and not lines:
        text = "\n".join(lines_of(document_text(state, document)))
        selected = "\n".join(lines_of(words))
        found = [number for number in range(len(text)) if text.startswith(selected, number)] if selected else []
        there = sorted({text.count("\n", 0, position) + 1 for position in found})
        if len(there) > 1:
            listed = ", ".join(str(line) for line in there[:10]) + (" …" if len(there) > 10 else "")
            raise BadInput(f"these words stand in lines {listed} of the {document}: say which with --lines")
        start = end = there[0] if there else 1
    return CommentOn(
        document=document,
        content=content,
        anchor=Anchor(selected_text=words, line_start=start, line_end=end),
        revision=read,
    )


def parse_lines(text: str) -> tuple[int, int]:
    """Return first and last line of ``3`` or ``3-5``. Raises BadInput."""
    first, dash, last = text.strip().partition("-")
    numbers = [part for part in (first, last if dash else first) if part.isascii() and part.isdecimal()]
    if len(numbers) != 2 or not 1 <= int(numbers[0]) <= int(numbers[1]):
        raise BadInput(f"--lines: {text!r} are no lines: write 3, or 3-5")
    return int(numbers[0]), int(numbers[1])
