"""``podctl --help``, against the help of a typer program with one command that does nothing."""

import sys
from pathlib import Path

from tests.bench.figure import Figure, by_turns, milliseconds
from tests.bench.site import PODCTL, Site

_ROUNDS = 25
_EMPTY = Path(__file__).with_name("empty_program.py")


async def cold_start(site: Site) -> list[Figure]:
    """Return how much longer ``podctl --help`` takes."""
    turns = await by_turns(
        lambda: site.run([PODCTL, "--help"]), lambda: site.run([sys.executable, str(_EMPTY), "--help"]), rounds=_ROUNDS
    )
    return [
        Figure(
            name="podctl --help / empty typer program --help",
            value=turns.ratio,
            unit="ratio",
            bound="<=",
            limit=1.4,
            measured=milliseconds(turns),
        )
    ]
