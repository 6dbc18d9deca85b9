"""Review threads: remarks about a document, or about some lines of it, that follow their text through its revisions."""

from domain.errors import Rejected
from domain.task import anchors
from domain.task.change import Change, check_length, names
from domain.task.commands import CommentOn, ReopenThread, ReplyToThread, ResolveThread
from domain.task.messages import MESSAGE_LIMIT
from domain.task.models import Anchor, Comment, Document, ReviewThread, TaskState
from domain.task.plan_text import plan_draft, plan_text
from domain.task.waits import preview

#: Threads of a task; beyond it the oldest resolved one stays in the history only.
THREAD_LIMIT = 200
#: Comments of one thread.
COMMENT_LIMIT = 100
#: Bytes of the text that a thread is anchored to.
SELECTION_LIMIT = 4_000


def document_text(state: TaskState, document: Document) -> str:
    """Return a document as people read it and comment on its lines; empty while it is not written."""
    if document == "plan":
        return "" if state.plan is None else plan_text(plan_draft(state.plan))
    return state.spec.content if document == "spec" else state.review.report


def document_revision(state: TaskState, document: Document) -> int:
    """Return how often a document has been written."""
    if document == "plan":
        return 0 if state.plan is None else state.plan.revision
    return state.spec.revision if document == "spec" else state.review.report_revision


def thread_not_found(state: TaskState, thread_id: str) -> Rejected:
    """Return the refusal of what is said of a thread that is not there; it names those that are."""
    return Rejected("thread_not_found", f"there is no review thread {thread_id!r}; {names(state.review_threads)}")


def comment_on(change: Change, command: CommentOn) -> None:
    """Begin a thread. The text it is about is looked for in the newest revision, whichever was read."""
    _check_content(command.content)
    state = change.state
    text = document_text(state, command.document)
    if not text.strip():
        raise Rejected("document_empty", f"the {command.document} is not written yet: nothing to comment on")
    anchor = None if command.anchor is None else _placed(state, command, command.anchor, text)
    number = state.threads_begun + 1
    thread = ReviewThread(
        thread_id=f"t-{number}",
        document=command.document,
        revision=document_revision(state, command.document),
        anchor=anchor,
        comments=(_comment(change, f"t-{number}", 1, command.content),),
    )
    threads = {**state.review_threads, thread.thread_id: thread}
    if len(threads) > THREAD_LIMIT:
        oldest = next((t.thread_id for t in threads.values() if t.resolved), None)
        if oldest is None:
            raise Rejected(
                "too_many_threads",
                f"{THREAD_LIMIT} review threads are open, which is the limit; resolve some: "
                f"podctl thread list {state.task_id}",
            )
        del threads[oldest]
    change.set(review_threads=threads, threads_begun=number)
    change.emit(
        "review_thread_started",
        thread=thread.thread_id,
        document=thread.document,
        revision=thread.revision,
        line_start=None if anchor is None else anchor.line_start,
        line_end=None if anchor is None else anchor.line_end,
        content=command.content,
    )


def reply_to_thread(change: Change, command: ReplyToThread) -> None:
    """Answer in a thread that is open."""
    _check_content(command.content)
    thread = _open_thread(change, command.thread_id)
    if len(thread.comments) >= COMMENT_LIMIT:
        raise Rejected(
            "too_many_comments",
            f"thread {thread.thread_id!r} has {COMMENT_LIMIT} comments, which is the limit; resolve it and begin "
            "another one",
        )
    last = int(thread.comments[-1].comment_id.rpartition(".")[2])
    comment = _comment(change, thread.thread_id, last + 1, command.content)
    _put(change, thread.model_copy(update={"comments": (*thread.comments, comment)}))
    change.emit("review_thread_answered", thread=thread.thread_id, comment=comment.comment_id, content=command.content)


def resolve_thread(change: Change, command: ResolveThread) -> None:
    """Settle a thread."""
    thread = _open_thread(change, command.thread_id)
    _put(change, thread.model_copy(update={"resolved": True, "resolved_by": change.by, "resolved_at": change.now}))
    change.emit("review_thread_resolved", thread=thread.thread_id, document=thread.document)


def reopen_thread(change: Change, command: ReopenThread) -> None:
    """Take up a thread again."""
    thread = _thread(change, command.thread_id)
    if not thread.resolved:
        raise Rejected("not_resolved", f"thread {thread.thread_id!r} is open: it has not been resolved")
    _put(change, thread.model_copy(update={"resolved": False, "resolved_by": "", "resolved_at": None}))
    change.emit("review_thread_reopened", thread=thread.thread_id, document=thread.document)


def follow(change: Change, document: Document, before: TaskState) -> None:
    """Take the threads on a document along to its newest revision; ``before`` is the state with the one before."""
    anchored = {
        thread.thread_id: thread
        for thread in change.state.review_threads.values()
        if thread.document == document and thread.anchor is not None
    }
    if not anchored:
        return
    places = [
        anchors.Moved(thread.anchor, thread.outdated) for thread in anchored.values() if thread.anchor is not None
    ]
    moved = anchors.follow(places, document_text(before, document), document_text(change.state, document))
    after = {
        thread.thread_id: thread.model_copy(update={"anchor": place.anchor, "outdated": place.outdated})
        for thread, place in zip(anchored.values(), moved, strict=True)
    }
    change.set(review_threads={**change.state.review_threads, **after})
    revision = document_revision(change.state, document)
    outdated = [name for name, thread in after.items() if thread.outdated and not anchored[name].outdated]
    if outdated:
        change.emit("review_threads_outdated", document=document, revision=revision, threads=[*outdated])
    restored = [name for name, thread in after.items() if anchored[name].outdated and not thread.outdated]
    if restored:
        change.emit("review_threads_restored", document=document, revision=revision, threads=[*restored])


def _placed(state: TaskState, command: CommentOn, anchor: Anchor, text: str) -> Anchor:
    newest = document_revision(state, command.document)
    stale = command.revision is not None and command.revision != newest
    too_late = Rejected(
        "stale_revision",
        f"this comment is on {command.document} revision {command.revision}, but the {command.document} is at revision "
        f"{newest} and says something else there; read that one and comment on it",
    )
    if stale and not anchor.selected_text.strip():
        raise too_late
    try:
        placed = anchors.place(anchor, text)
    except anchors.NotThere as error:
        if stale:
            raise too_late from error
        words = preview(anchor.selected_text)
        on = f"the words {words!r}" if words else f"lines {anchor.line_start} to {anchor.line_end}"
        raise Rejected("anchor_not_found", f"this comment is on {on} of the {command.document}, and {error}") from error
    check_length("the text commented on", placed.selected_text, SELECTION_LIMIT, "comment on fewer lines")
    return placed


def _comment(change: Change, thread_id: str, number: int, content: str) -> Comment:
    return Comment(comment_id=f"{thread_id}.{number}", author=change.by, content=content, posted_at=change.now)


def _put(change: Change, thread: ReviewThread) -> None:
    change.set(review_threads={**change.state.review_threads, thread.thread_id: thread})


def _thread(change: Change, thread_id: str) -> ReviewThread:
    thread = change.state.review_threads.get(thread_id)
    if thread is None:
        raise thread_not_found(change.state, thread_id)
    return thread


def _open_thread(change: Change, thread_id: str) -> ReviewThread:
    thread = _thread(change, thread_id)
    if thread.resolved:
        raise Rejected(
            "already_resolved",
            f"thread {thread_id!r} was resolved by {thread.resolved_by} at {thread.resolved_at:%Y-%m-%d %H:%M} UTC; "
            f"to go on with it: podctl thread reopen {change.state.task_id} {thread_id}",
        )
    return thread


def _check_content(content: str) -> None:
    if not content.strip():
        raise Rejected("content_empty", f"a comment needs content: 1 to {MESSAGE_LIMIT:,} bytes")
    check_length("the comment", content, MESSAGE_LIMIT, "put the text into a file and name it")
