"""Comments follow their text through edits, are outdated when it goes, and come back with it."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.task.anchors import Moved, NotThere, follow, lines_of, place
from domain.task.models import Anchor

#: Few different lines, so that equals are common.
LINES = st.lists(st.sampled_from(["", "a", "b", "aa", "the a of b", "  a"]), min_size=1, max_size=14)


def lines(start: int, end: int) -> Anchor:
    return Anchor(selected_text="", line_start=start, line_end=end)


def words(text: str, near: int = 1) -> Anchor:
    return Anchor(selected_text=text, line_start=near, line_end=near)


def moved(anchor: Anchor, *revisions: str) -> Moved:
    """Return where an anchor placed in the first revision is in the last."""
    [now] = [Moved(place(anchor, revisions[0]), outdated=False)]
    for before, after in itertools.pairwise(revisions):
        [now] = follow([now], before, after)
    return now


def span(where: Moved) -> tuple[int, int] | None:
    return None if where.outdated else (where.anchor.line_start, where.anchor.line_end)


def is_there(where: Moved, text: str) -> bool:
    """Return whether the text of an anchor stands in the lines that it names."""
    named = lines_of(text)[where.anchor.line_start - 1 : where.anchor.line_end]
    return where.anchor.selected_text in "\n".join(named)


def text_of(written: Sequence[str]) -> str:
    return "\n".join(written)


SPEC = "# Wish\n\nA page.\nIt is blue.\n\n# Limits\n\nNone.\nIt is blue."


@pytest.mark.parametrize(
    ("anchor", "edited", "expected"),
    [
        (lines(3, 4), SPEC, (3, 4)),
        (lines(3, 4), "New\n" + SPEC, (4, 5)),
        (lines(3, 4), SPEC.replace("# Wish\n\n", ""), (1, 2)),
        (lines(3, 4), SPEC + "\nMore.", (3, 4)),
        (lines(3, 4), SPEC.replace("A page.\n", "A page.\nTwo of them.\n"), None),
        (lines(4, 4), SPEC.replace("A page.\n", ""), (3, 3)),
        # Which of the equals it is is known from what stayed.
        (lines(4, 4), SPEC.replace("A page.\nIt is blue.", "A page."), None),
        (lines(9, 9), SPEC.replace("A page.\nIt is blue.", "A page."), (8, 8)),
        # The line was edited, the words stayed.
        (words("page"), SPEC.replace("A page.", "One small page."), (3, 3)),
        (words("page"), SPEC.replace("A page.", "A leaf."), None),
        # A comment on a line is on all of it.
        (lines(3, 3), SPEC.replace("A page.", "A page. Or two."), None),
        # It was moved.
        (lines(6, 8), "# Limits\n\nNone.\nIt is blue.\n\n# Wish\n\nA page.\nIt is blue.", (1, 3)),
        (lines(1, 3), "", None),
        (lines(3, 4), SPEC.replace("\n", "\r\n"), (3, 4)),
    ],
)
def test_an_anchor_goes_where_its_text_goes(anchor: Anchor, edited: str, expected: tuple[int, int] | None) -> None:
    assert span(moved(anchor, SPEC, edited)) == expected


def test_what_comes_back_is_found_again_and_the_old_place_is_kept_until_then() -> None:
    without = SPEC.replace("A page.\nIt is blue.\n", "")
    gone = moved(lines(3, 4), SPEC, without, without + "\nMore.")
    assert gone.outdated
    assert (gone.anchor.line_start, gone.anchor.line_end) == (3, 4)
    assert span(moved(lines(3, 4), SPEC, without, "New\n\n" + SPEC)) == (5, 6)


def test_of_equals_that_came_the_one_in_the_old_surroundings_is_taken() -> None:
    edited = "It is blue.\n\n# Wish\n\nA leaf.\nIt is blue.\n"
    before = "# Wish\n\nA leaf.\nIt is blue.\n"
    assert span(moved(lines(4, 4), before, "Something else.", edited)) == (6, 6)


@pytest.mark.parametrize(
    ("anchor", "problem"),
    [
        (lines(2, 2), "there is no text in lines 2 to 2"),
        (lines(9, 10), "there are no lines 9 to 10; it has 9 lines"),
        (lines(4, 3), "there are no lines 4 to 3"),
        (words("red"), "the text is not there"),
    ],
)
def test_an_anchor_is_on_something(anchor: Anchor, problem: str) -> None:
    with pytest.raises(NotThere, match=problem):
        place(anchor, SPEC)


def test_words_are_taken_nearest_to_the_line_that_is_named() -> None:
    assert place(words("blue", near=1), SPEC).line_start == 4
    assert place(words("blue", near=8), SPEC).line_start == 9
    assert place(words("A page.\r\nIt is"), SPEC).line_end == 4


@given(LINES, LINES, LINES, st.data())
def test_whatever_is_edited_an_anchor_is_on_its_text_or_outdated(
    first: list[str], second: list[str], third: list[str], data: st.DataObject
) -> None:
    revisions = [text_of(lines) for lines in (first, second, third, first)]
    start = data.draw(st.integers(1, len(first)))
    end = data.draw(st.integers(start, len(first)))
    if not text_of(first[start - 1 : end]).strip():
        return
    now = [Moved(place(lines(start, end), revisions[0]), outdated=False)]
    for before, after in itertools.pairwise(revisions):
        was = now
        now = follow(was, before, after)
        if now[0].outdated:
            assert now[0].anchor == was[0].anchor
        else:
            assert is_there(now[0], after)
        # What is nowhere is outdated; whole lines are whole lines.
        if now[0].anchor.selected_text not in after:
            assert now[0].outdated
        again = follow(now, after, after)
        assert again == now


PIECES = ["a", "b", "ab", "a\nb", "\n", "\n\n", "\r\n", " ", "x" * 300, "é\r"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)


@given(
    TEXTS,
    st.lists(TEXTS, max_size=4),
    st.sampled_from(["a", "b\na", "a\nb", "\na", "b\n", "a\r\nb"]),
    st.integers(1, 9),
)
def test_words_are_followed_as_lines_are(first: str, edits: list[str], selected: str, near: int) -> None:
    if "\n".join(lines_of(selected)) not in "\n".join(lines_of(first)):
        return
    now = [Moved(place(words(selected, near), first), outdated=False)]
    for before, after in itertools.pairwise([first, *edits, first]):
        now = follow(now, before, after)
        assert now[0].outdated or is_there(now[0], after)
        assert now[0].outdated or now[0].anchor.line_end <= len(lines_of(after))


@given(LINES, st.data())
def test_edits_elsewhere_take_an_anchor_along(written: list[str], data: st.DataObject) -> None:
    """Every line is told from every other, so the place is known exactly."""
    document = [f"{number} {line}" for number, line in enumerate(written)]
    start = data.draw(st.integers(1, len(document)))
    end = data.draw(st.integers(start, len(document)))
    own = document[start - 1 : end]
    above = data.draw(st.lists(st.sampled_from([*document[: start - 1], "new", ""]), max_size=20, unique=True))
    below = data.draw(st.lists(st.sampled_from([*document[end:], "new", ""]), max_size=20, unique=True))
    edited = [*above, *own, *below]
    [now] = follow(
        [Moved(place(lines(start, end), text_of(document)), outdated=False)], text_of(document), text_of(edited)
    )
    assert span(now) == (len(above) + 1, len(above) + len(own))


@given(LINES, LINES, st.data())
def test_a_text_that_goes_and_returns_is_found(written: list[str], other: list[str], data: st.DataObject) -> None:
    text = text_of(written)
    start = data.draw(st.integers(1, len(written)))
    if not written[start - 1].strip():
        return
    without = text_of([line for line in other if line != written[start - 1]])
    away = moved(lines(start, start), text, without)
    assert away.outdated
    [back] = follow([away], without, text)
    assert not back.outdated
    assert is_there(back, text)


def test_a_large_document_that_changes_wholly_costs_little() -> None:
    """No clock: each stretch is looked at a bounded number of times, else this would take hours."""
    count = 60_000
    before = "\n".join("ab"[number % 2] for number in range(count))
    after = "\n".join("ba"[number % 3 > 1] for number in range(count))
    where = [
        Moved(place(lines(number * 100 + 1, number * 100 + 1 + number), before), outdated=False)
        for number in range(200)
    ]
    assert len(follow(where, before, after)) == 200
