"""Review threads as a task carries them: begun, answered, settled, and moved by edits of what they are about."""

from contextlib import suppress

import pytest

from domain.entity import STATE_LIMIT
from domain.errors import Rejected
from domain.task.anchors import CONTEXT
from domain.task.commands import (
    ApprovePlan,
    ApproveSpec,
    CommentOn,
    CreateWorkstream,
    ReopenThread,
    ReplyToThread,
    ResolveThread,
    UpdatePlan,
    UpdateSpec,
)
from domain.task.models import Anchor, ReviewThread, WorkstreamDraft
from domain.task.threads import COMMENT_LIMIT, SELECTION_LIMIT, THREAD_LIMIT, document_text
from tests.unit.task.support import Driver, executing, plan

SPEC = "# Wish\n\nA page.\nIt is blue.\n"


def on(start: int, end: int, text: str = "") -> Anchor:
    return Anchor(selected_text=text, line_start=start, line_end=end)


def the(driver: Driver, thread_id: str = "t-1") -> ReviewThread:
    return driver.state.review_threads[thread_id]


def commented(start: int = 3, end: int = 3) -> Driver:
    driver = Driver(spec=SPEC)
    driver.do(CommentOn(document="spec", content="Which size?", anchor=on(start, end), revision=1), by="rita")
    return driver


def test_a_thread_is_begun_answered_resolved_and_taken_up_again() -> None:
    driver = commented()
    thread = the(driver)
    assert thread.anchor is not None
    assert (thread.document, thread.revision, thread.anchor.selected_text) == ("spec", 1, "A page.")
    driver.do(ReplyToThread(thread_id="t-1", content="A4."), by="ann")
    assert [(c.comment_id, c.author, c.content) for c in the(driver).comments] == [
        ("t-1.1", "rita", "Which size?"),
        ("t-1.2", "ann", "A4."),
    ]
    driver.do(ResolveThread(thread_id="t-1"), by="rita")
    assert (the(driver).resolved, the(driver).resolved_by, the(driver).resolved_at) == (True, "rita", driver.now)
    for command in (ResolveThread(thread_id="t-1"), ReplyToThread(thread_id="t-1", content="Wait.")):
        assert "podctl thread reopen t1 t-1" in driver.refused("already_resolved", command)
    driver.do(ReopenThread(thread_id="t-1"))
    assert not the(driver).resolved
    driver.refused("not_resolved", ReopenThread(thread_id="t-1"))
    assert driver.event_types()[-4:] == [
        f"review_thread_{what}" for what in ["started", "answered", "resolved", "reopened"]
    ]


def test_a_thread_goes_with_the_spec_is_outdated_and_comes_back() -> None:
    driver = commented()
    driver.do(UpdateSpec(content="New.\n\n" + SPEC))
    anchor = the(driver).anchor
    assert anchor is not None
    assert (anchor.line_start, anchor.line_end, the(driver).outdated) == (5, 5, False)
    assert len(anchor.surrounding_text.split("\n")) <= 2 * CONTEXT + 1
    driver.do(UpdateSpec(content="Something else."))
    assert the(driver).outdated
    assert driver.events[-1].payload == {"document": "spec", "revision": 3, "threads": ["t-1"]}
    driver.do(UpdateSpec(content=SPEC))
    assert not the(driver).outdated
    assert driver.event_types()[-2:] == ["spec_updated", "review_threads_restored"]


def test_a_comment_on_the_whole_document_stays() -> None:
    driver = Driver(spec=SPEC)
    driver.do(CommentOn(document="spec", content="Too short."))
    driver.do(UpdateSpec(content="Something else."))
    assert (the(driver).anchor, the(driver).outdated) == (None, False)


def test_threads_on_a_plan_are_on_its_text() -> None:
    driver = executing("a", "b: a")
    text = document_text(driver.state, "plan")
    line = text.split("\n").index("  - id: b") + 1
    driver.do(CommentOn(document="plan", content="Why?", anchor=on(line, line)))
    driver.do(CreateWorkstream(workstream=WorkstreamDraft.model_validate(plan("c").workstreams[0].model_dump())))
    anchor = the(driver).anchor
    assert anchor is not None
    assert anchor.line_start == line
    driver = Driver(plan("a", "b: a"), spec=SPEC)
    driver.do(CommentOn(document="plan", content="Why?", anchor=on(line, line)))
    driver.do(UpdatePlan(plan=plan("a"), base_revision=1))
    assert the(driver).outdated
    driver.do(UpdatePlan(plan=plan("b", "a"), base_revision=2))
    assert not the(driver).outdated


def test_a_comment_on_an_older_revision_finds_its_text_or_is_stale() -> None:
    driver = Driver(spec=SPEC)
    driver.do(UpdateSpec(content="New.\n\n" + SPEC))
    driver.do(CommentOn(document="spec", content="Hm.", anchor=on(3, 3, "A page."), revision=1))
    anchor = the(driver).anchor
    assert anchor is not None
    assert (anchor.line_start, the(driver).revision) == (5, 2)
    for anchor in (on(3, 3), on(3, 3, "Not there.")):
        message = driver.refused("stale_revision", CommentOn(document="spec", content="Hm.", anchor=anchor, revision=1))
        assert "revision 2" in message


@pytest.mark.parametrize(
    ("code", "command"),
    [
        ("content_empty", CommentOn(document="spec", content=" \n")),
        ("content_too_long", CommentOn(document="spec", content="x" * 10_001)),
        ("content_too_long", CommentOn(document="spec", content="x", anchor=on(3, 3, "y" * (SELECTION_LIMIT + 1)))),
        ("anchor_not_found", CommentOn(document="spec", content="x", anchor=on(8, 9))),
        ("anchor_not_found", CommentOn(document="spec", content="x", anchor=on(3, 2))),
        ("anchor_not_found", CommentOn(document="spec", content="x", anchor=on(3, 3, "red"))),
        ("document_empty", CommentOn(document="plan", content="x")),
        ("document_empty", CommentOn(document="report", content="x")),
        ("thread_not_found", ReplyToThread(thread_id="t-9", content="x")),
        ("thread_not_found", ResolveThread(thread_id="t-9")),
        ("thread_not_found", ReopenThread(thread_id="t-9")),
    ],
)
def test_what_cannot_be_is_refused(
    code: str, command: CommentOn | ReplyToThread | ResolveThread | ReopenThread
) -> None:
    driver = Driver(spec=SPEC + "y" * (SELECTION_LIMIT + 1))
    driver.refused(code, command)


def test_there_is_nothing_to_comment_on_before_the_spec_is_written() -> None:
    Driver(spec=None).refused("document_empty", CommentOn(document="spec", content="x"))


def test_threads_and_comments_are_bounded_and_what_is_settled_makes_room() -> None:
    driver = Driver(spec=SPEC)
    for _ in range(THREAD_LIMIT):
        driver.apply(CommentOn(document="spec", content="x"))
    assert "podctl thread list t1" in driver.refused("too_many_threads", CommentOn(document="spec", content="x"))
    driver.do(ResolveThread(thread_id="t-7"))
    driver.do(CommentOn(document="spec", content="x"))
    assert "t-7" not in driver.state.review_threads
    assert f"t-{THREAD_LIMIT + 1}" in driver.state.review_threads
    for _ in range(COMMENT_LIMIT - 1):
        driver.apply(ReplyToThread(thread_id="t-1", content="x"))
    driver.refused("too_many_comments", ReplyToThread(thread_id="t-1", content="x"))


def test_a_task_full_of_threads_is_still_carried_and_what_is_settled_is_forgotten_first() -> None:
    driver = executing("a")
    count = 0
    while len(driver.state.model_dump_json()) < STATE_LIMIT - 230_000:
        count += 1
        driver.apply(CommentOn(document="spec", content="x" * 9_900))
    for number in range(1, count):
        driver.apply(ResolveThread(thread_id=f"t-{number}"))
    for _ in range(20):
        driver.apply(CommentOn(document="spec", content="x" * 9_900))
    assert len(driver.state.model_dump_json()) < STATE_LIMIT
    assert f"t-{count}" in driver.state.review_threads
    assert "t-1" not in driver.state.review_threads
    with suppress(Rejected):
        for _ in range(200):
            driver.apply(CommentOn(document="spec", content="x" * 9_900))
    assert "the review threads" in driver.refused("state_too_large", CommentOn(document="spec", content="x" * 9_900))
    driver.complete("a")


def test_an_approval_needs_no_settled_threads() -> None:
    driver = Driver(plan("a"), spec=SPEC)
    driver.do(CommentOn(document="spec", content="x"))
    driver.do(ApproveSpec())
    driver.do(ApprovePlan())
    assert not the(driver).resolved
