"""Measure, print a table, write ``build/bench.json``."""

import asyncio
import json
import signal
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.cold_start import cold_start
from tests.bench.figure import Figure
from tests.bench.lifecycles import lifecycles
from tests.bench.listing import listing
from tests.bench.quiet_history import quiet_history
from tests.bench.round_trip import round_trip
from tests.bench.site import site

_OUTPUT = Path(__file__).parents[2] / "build" / "bench.json"


async def measure() -> list[Figure]:
    """Take every figure; the long one runs beside the others."""
    if task := asyncio.current_task():
        # TERM ends it as Ctrl-C does: with everything that was started.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    figures = []
    with tempfile.TemporaryDirectory(prefix="podctl-bench-") as folder:
        async with site(Path(folder)) as made, asyncio.TaskGroup() as group:
            quiet = group.create_task(quiet_history(made))
            for take in (round_trip, lifecycles, cold_start, listing):
                _tell(f"measuring: {take.__name__.replace('_', ' ')}")
                figures.append(await take(made))
                _tell(f"  {figures[-1].measured}")
            _tell("measuring: the rest of the ten minutes of a healthy model server")
            figures.append(await quiet)
    return figures


def show(figures: list[Figure]) -> None:
    """Print the table."""
    table = Table("figure", "value", "aim", "holds", "measured", box=None, pad_edge=False)
    for figure in figures:
        value = (
            "-" if figure.value is None else f"{figure.value:.2f}" if figure.unit == "ratio" else f"{figure.value:g}"
        )
        table.add_row(figure.name, value, figure.aim, "yes" if figure.holds else "NO", figure.measured)
    Console(width=200 if not sys.stdout.isatty() else None).print(table)


def main() -> None:
    """Run the benchmark."""
    figures = asyncio.run(measure())
    show(figures)
    _OUTPUT.parent.mkdir(exist_ok=True)
    _OUTPUT.write_text(json.dumps([figure.record() for figure in figures], indent=2) + "\n")
    _tell(f"written: {_OUTPUT}")


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
