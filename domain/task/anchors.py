"""Anchors of review comments: they move with their text from one revision of a document to the next.

Which lines stayed is found by comparing the revisions, as ``diff`` does: a line that stayed takes its comments along,
also among equals. Text that did not stay is looked for in what is new (it was moved, or its line was edited); if it is
not there either, the comment is outdated, until a later revision brings the text back.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate, islice
from typing import NamedTuple

from domain.task.models import Anchor

#: Lines before and after that are kept with an anchor.
CONTEXT = 3
#: Bytes of one line of them.
_CONTEXT_LINE = 200
#: Places that are looked at, where a text stands often.
_CANDIDATES = 100
#: How often a stretch of changed lines is compared more closely.
_DEPTH = 8


class Moved(NamedTuple):
    """Where an anchor is in a new revision; outdated: where it was last."""

    anchor: Anchor
    outdated: bool


class NotThere(Exception):
    """The text or the lines that an anchor names are not in the document."""


def lines_of(text: str) -> list[str]:
    """Return a document's lines, as anchors count them."""
    return text.replace("\r\n", "\n").split("\n")


def place(anchor: Anchor, text: str) -> Anchor:
    """Return a new anchor as it stands in a document: without text it is about whole lines.

    With text it is looked for nearest to the lines that it names. Raises ``NotThere`` that says what is.
    """
    lines = lines_of(text)
    start, end = anchor.line_start, anchor.line_end
    if not anchor.selected_text.strip():
        if not start <= end <= len(lines):
            raise NotThere(f"there are no lines {start} to {end}; it has {len(lines)} lines")
        if not any(line.strip() for line in lines[start - 1 : end]):
            raise NotThere(f"there is no text in lines {start} to {end}")
        return _anchor("\n".join(lines[start - 1 : end]), start, lines)
    selected = "\n".join(lines_of(anchor.selected_text))
    whole = "\n".join(lines)
    nearest = 0
    line, position = 1, 0
    for found in _occurrences(whole, selected):
        line, position = line + whole.count("\n", position, found), found
        if not nearest or abs(line - start) < abs(nearest - start):
            nearest = line
    if not nearest:
        raise NotThere("the text is not there")
    return _anchor(selected, nearest, lines)


def follow(anchors: Sequence[Moved], before: str, after: str) -> list[Moved]:
    """Return where anchors are once a document that was ``before`` is ``after``."""
    old, new = lines_of(before), lines_of(after)
    if old == new or not anchors:
        return list(anchors)
    kept = _kept_lines(old, new)
    changed = _Changed(new, set(range(len(new))) - set(kept.values()))
    return [_follow(moved, kept, changed) for moved in anchors]


def _follow(moved: Moved, kept: dict[int, int], changed: "_Changed") -> Moved:
    anchor = moved.anchor
    if not moved.outdated:
        span = range(anchor.line_start - 1, anchor.line_end)
        first = kept.get(span[0])
        if first is not None and all(kept.get(line) == first + number for number, line in enumerate(span)):
            return Moved(_anchor(anchor.selected_text, first + 1, changed.lines), outdated=False)
    line = changed.find(anchor)
    if line is None:
        return Moved(anchor, outdated=True)
    return Moved(_anchor(anchor.selected_text, line + 1, changed.lines), outdated=False)


def _anchor(selected: str, line: int, lines: Sequence[str]) -> Anchor:
    """Return the anchor of a text that begins in a line, counted from 1."""
    end = line + selected.count("\n")
    around = lines[max(0, line - 1 - CONTEXT) : end + CONTEXT]
    return Anchor(
        selected_text=selected,
        surrounding_text="\n".join(_short(text) for text in around),
        line_start=line,
        line_end=end,
    )


def _short(line: str) -> str:
    return line[:_CONTEXT_LINE].encode("utf-8", "surrogatepass")[:_CONTEXT_LINE].decode("utf-8", "ignore")


class _Changed:
    """The lines of a new revision that the old one did not have."""

    def __init__(self, lines: list[str], numbers: set[int]) -> None:
        self.lines = lines
        self._numbers = sorted(numbers)
        self._excerpts: dict[int, _Excerpt] = {}

    def find(self, anchor: Anchor) -> int | None:
        """Return the line, from 0, where the text of a lost anchor most likely is; None if nothing new has it."""
        height = anchor.selected_text.count("\n")
        before, after, whole_lines = _context(anchor)
        selected = anchor.selected_text.split("\n")
        best: tuple[int, int, int] | None = None
        for line in self._excerpt(height).places(anchor.selected_text):
            if not self._touches(line, line + height):
                continue
            if whole_lines and self.lines[line : line + height + 1] != selected:
                continue
            above = self.lines[max(0, line - CONTEXT) : line]
            likeness = sum(a == _short(b) for a, b in zip(reversed(before), reversed(above), strict=False))
            below = self.lines[line + height + 1 : line + height + 1 + CONTEXT]
            likeness += sum(a == _short(b) for a, b in zip(after, below, strict=False))
            candidate = (-likeness, abs(line + 1 - anchor.line_start), line)
            best = candidate if best is None else min(best, candidate)
        return None if best is None else best[2]

    def _excerpt(self, height: int) -> "_Excerpt":
        """Return the new lines, with at least ``height`` lines around each."""
        # Few sizes, so that many anchors of different heights share them.
        reach = 0 if not height else 1 << (height - 1).bit_length()
        if (2 * reach + 1) * len(self._numbers) > len(self.lines):
            return self._whole
        if reach not in self._excerpts:
            numbers: list[int] = []
            for number in self._numbers:
                begin = max(0, number - reach, numbers[-1] + 1 if numbers else 0)
                numbers.extend(range(begin, min(len(self.lines), number + reach + 1)))
            self._excerpts[reach] = _Excerpt(self.lines, numbers)
        return self._excerpts[reach]

    @cached_property
    def _whole(self) -> "_Excerpt":
        return _Excerpt(self.lines, range(len(self.lines)))

    def _touches(self, first: int, last: int) -> bool:
        position = bisect_left(self._numbers, first)
        return position < len(self._numbers) and self._numbers[position] <= last


class _Excerpt:
    """Some lines of a document as one text, to be searched in one go."""

    def __init__(self, lines: Sequence[str], numbers: Sequence[int]) -> None:
        self._numbers = numbers
        self._text = "\n".join(lines[number] for number in numbers)
        self._starts = list(accumulate((len(lines[number]) + 1 for number in numbers), initial=0))

    def places(self, selected: str) -> Iterator[int]:
        """Yield the lines of the document where the text begins, the first ``_CANDIDATES`` of them."""
        height = selected.count("\n")
        for found in islice(_occurrences(self._text, selected), _CANDIDATES):
            first = bisect_right(self._starts, found) - 1
            line = self._numbers[first]
            # Lines that stand together here may be far from each other in the document.
            if self._numbers[first + height] == line + height:
                yield line


def _context(anchor: Anchor) -> tuple[list[str], list[str], bool]:
    """Return the lines before and after an anchor, and whether it is about whole lines."""
    around = anchor.surrounding_text.split("\n")
    above = min(CONTEXT, anchor.line_start - 1)
    height = anchor.line_end - anchor.line_start + 1
    own = around[above : above + height]
    whole_lines = own == [_short(line) for line in anchor.selected_text.split("\n")]
    return around[:above], around[above + height :], whole_lines


def _occurrences(text: str, selected: str) -> Iterator[int]:
    """Yield where a text stands, at most once a line."""
    found = text.find(selected)
    while found >= 0:
        yield found
        line_end = text.find("\n", found)
        if line_end < 0:
            return
        found = text.find(selected, line_end + 1)


# -- which lines stayed -------------------------------------------------------------------------------------------


def _kept_lines(old: Sequence[str], new: Sequence[str]) -> dict[int, int]:
    """Return old line -> new line, from 0, for the lines that stayed in their order.

    Patience: equal beginnings and ends stayed, and between them the lines that stand once in both, in their longest
    order; between two of those again. Each level looks at every line once, and there are few levels.
    """
    kept: dict[int, int] = {}
    stretches = [(0, len(old), 0, len(new), 0)]
    while stretches:
        old_first, old_end, new_first, new_end, depth = stretches.pop()
        while old_first < old_end and new_first < new_end and old[old_first] == new[new_first]:
            kept[old_first] = new_first
            old_first, new_first = old_first + 1, new_first + 1
        while old_first < old_end and new_first < new_end and old[old_end - 1] == new[new_end - 1]:
            old_end, new_end = old_end - 1, new_end - 1
            kept[old_end] = new_end
        if old_first == old_end or new_first == new_end or depth == _DEPTH:
            continue
        pairs = _longest_order(_unique_in_both(old, old_first, old_end, new, new_first, new_end))
        if not pairs:
            continue
        for old_line, new_line in pairs:
            kept[old_line] = new_line
            stretches.append((old_first, old_line, new_first, new_line, depth + 1))
            old_first, new_first = old_line + 1, new_line + 1
        stretches.append((old_first, old_end, new_first, new_end, depth + 1))
    return kept


def _unique_in_both(
    old: Sequence[str], old_first: int, old_end: int, new: Sequence[str], new_first: int, new_end: int
) -> list[tuple[int, int]]:
    theirs = _unique(new, new_first, new_end)
    return [(number, theirs[line]) for line, number in _unique(old, old_first, old_end).items() if line in theirs]


def _unique(lines: Sequence[str], first: int, end: int) -> dict[str, int]:
    """Return line -> number for the lines that stand once, in their order."""
    seen: dict[str, int] = {}
    for number in range(first, end):
        seen[lines[number]] = -1 if lines[number] in seen else number
    return {line: number for line, number in seen.items() if number >= 0}


def _longest_order(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the most pairs that rise in both, of pairs that rise in the first."""
    ends: list[int] = []
    tops: list[int] = []
    before: list[int] = []
    for number, (_, new_line) in enumerate(pairs):
        pile = bisect_left(ends, new_line)
        before.append(tops[pile - 1] if pile else -1)
        if pile == len(ends):
            ends.append(new_line)
            tops.append(number)
        else:
            ends[pile], tops[pile] = new_line, number
    order = []
    number = tops[-1] if tops else -1
    while number >= 0:
        order.append(pairs[number])
        number = before[number]
    return order[::-1]
