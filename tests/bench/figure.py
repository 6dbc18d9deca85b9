"""A figure, and how the ratios are measured: side by side, by turns, by median."""

import statistics
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Figure:
    """One line of the table. ``value`` is None where it could not be measured; ``measured`` then says why."""

    name: str
    value: float | None
    unit: str
    bound: Literal["<=", ">="]
    limit: float
    #: What the value was made of, for people.
    measured: str

    @property
    def aim(self) -> str:
        """What the value should be."""
        return f"{self.bound} {self.limit:g}"

    @property
    def holds(self) -> bool:
        """Whether the value is what it should be; one that could not be measured is not."""
        if self.value is None:
            return False
        return self.value <= self.limit if self.bound == "<=" else self.value >= self.limit

    def record(self) -> dict[str, object]:
        """Return what ``bench.json`` says of it."""
        return {"name": self.name, "value": self.value, "unit": self.unit, "aim": self.aim, "holds": self.holds}


@dataclass(frozen=True)
class Medians:
    """Medians of what two things took, measured by turns, in seconds."""

    ours: float
    theirs: float

    @property
    def ratio(self) -> float:
        """How many times as long ours takes."""
        return self.ours / self.theirs


async def by_turns(
    ours: Callable[[], Awaitable[float]], theirs: Callable[[], Awaitable[float]], *, rounds: int
) -> Medians:
    """Measure both ``rounds`` times, by turns, after one turn that does not count; each returns its own seconds.

    Who goes first changes every round: what one leaves behind in caches and queues then burdens both alike.
    """
    taken: dict[str, list[float]] = {"ours": [], "theirs": []}
    turns = [("ours", ours), ("theirs", theirs)]
    for _, measure in turns:
        await measure()
    for _ in range(rounds):
        for name, measure in turns:
            taken[name].append(await measure())
        turns.reverse()
    return Medians(statistics.median(taken["ours"]), statistics.median(taken["theirs"]))
