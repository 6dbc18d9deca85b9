"""Measure, print a table, write ``build/bench.json``."""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.cold_start import cold_start
from tests.bench.crash import crash
from tests.bench.figure import Figure
from tests.bench.lifecycles import lifecycles
from tests.bench.listing import listing
from tests.bench.logs import logs
from tests.bench.quiet_history import quiet_history
from tests.bench.round_trip import large_task, round_trip
from tests.bench.scale import scale
from tests.bench.site import Site, site
from tests.bench.start import start
from tests.bench.stop import stop
from tests.bench.task_history import task_history
from tests.bench.waiting_tasks import waiting_tasks

#: What can be chosen, in the order in which it is measured on one site.
FIGURES: dict[str, Callable[[Site], Awaitable[list[Figure]]]] = {
    "round-trip": round_trip,
    "large-task": large_task,
    "lifecycles": lifecycles,
    "task-history": task_history,
    "help": cold_start,
    "list": listing,
    "start": start,
    "crash": crash,
    "logs": logs,
    "stop": stop,
    "waiting-tasks": waiting_tasks,
}
#: Takes ten minutes, and runs beside those above.
QUIET = "quiet"
#: Takes the whole machine, and runs alone when those above are done.
SCALE = "scale"
_OUTPUT = Path(__file__).parents[2] / "build" / "bench.json"


async def measure(chosen: Sequence[str]) -> list[Figure]:
    """Take the figures that were chosen; the long one runs beside the others."""
    if task := asyncio.current_task():
        # TERM ends it as Ctrl-C does: with everything that was started.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="podctl-bench-") as folder:
        if set(chosen) - {SCALE}:
            async with site(Path(folder) / "site") as made, asyncio.TaskGroup() as group:
                quiet = group.create_task(quiet_history(made)) if QUIET in chosen else None
                for name in (name for name in FIGURES if name in chosen):
                    figures += await _take(name, FIGURES[name](made))
                if quiet is not None:
                    figures += await _take(f"{QUIET} (the rest of its ten minutes)", quiet)
        if SCALE in chosen:
            figures += await _take(SCALE, scale(Path(folder) / "scale", _tell))
    return figures


async def _take(name: str, measuring: Awaitable[list[Figure]]) -> list[Figure]:
    _tell(f"measuring: {name}")
    figures = await measuring
    for figure in figures:
        _tell(f"  {figure.name}: {figure.shown_value} ({figure.measured})")
    return figures


def show(figures: list[Figure]) -> None:
    """Print the table."""
    table = Table("figure", "value", "aim", "holds", "measured", box=None, pad_edge=False)
    for figure in figures:
        table.add_row(figure.name, figure.shown_value, figure.aim, "yes" if figure.holds else "NO", figure.measured)
    Console(width=200 if not sys.stdout.isatty() else None).print(table)


def main() -> None:
    """Run the benchmark."""
    names = [*FIGURES, QUIET, SCALE]
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measure what podctl costs, each figure beside what it is made of. Prints a table and writes "
        f"{_OUTPUT.relative_to(Path(__file__).parents[2])}.",
    )
    parser.add_argument(
        "figures", nargs="*", choices=[[], *names], metavar="FIGURE", help=f"only these: {', '.join(names)}"
    )
    chosen = parser.parse_args().figures or names
    figures = asyncio.run(measure(chosen))
    show(figures)
    _OUTPUT.parent.mkdir(exist_ok=True)
    _OUTPUT.write_text(json.dumps([figure.record() for figure in figures], indent=2) + "\n")
    _tell(f"written: {_OUTPUT}")


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
