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
    def shown_value(self) -> str:
        """The value for people; what is no count with two digits."""
        if self.value is None:
            return "-"
        return str(self.value) if isinstance(self.value, int) else f"{self.value:.2f}"

    @property
    def aim(self) -> str:
        """What the value should be."""
        return f"{self.bound} {self.limit:g}" + ("" if self.unit in {"ratio", "events"} else f" {self.unit}")

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
class Turns:
    """What two things took, measured by turns, in seconds; both tuples are in the order of rounds."""

    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """How many times as long ours takes: the median over rounds, so that what else the machine does weighs little.

        The two turns of one round are neighbours in time and share whatever else goes on.
        """
        return statistics.median(ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True))

    @property
    def slow_ratio(self) -> float:
        """How many times as long ours takes of those that take long: the 95th percentile of one by the other's."""
        ours, theirs = (statistics.quantiles(seconds, n=20)[-1] for seconds in (self.ours, self.theirs))
        return ours / theirs

    @property
    def medians(self) -> tuple[float, float]:
        """The median of ours and of theirs, for people."""
        return statistics.median(self.ours), statistics.median(self.theirs)


async def by_turns(
    ours: Callable[[], Awaitable[float]], theirs: Callable[[], Awaitable[float]], *, rounds: int
) -> Turns:
    """Measure both ``rounds`` times, by turns, after one round that does not count; each returns its own seconds.

    Who goes first changes every round: what one leaves behind in caches and queues then burdens both alike.
    """
    taken: tuple[list[float], list[float]] = ([], [])
    turns = [(ours, taken[0]), (theirs, taken[1])]
    for measure, _ in turns:
        await measure()
    for _ in range(rounds):
        for measure, seconds in turns:
            seconds.append(await measure())
        turns.reverse()
    return Turns(tuple(taken[0]), tuple(taken[1]))


def milliseconds(turns: Turns) -> str:
    """Return the medians for the table."""
    ours, theirs = turns.medians
    return f"{ours * 1e3:.1f} ms / {theirs * 1e3:.1f} ms, {len(turns.ours)} each"
