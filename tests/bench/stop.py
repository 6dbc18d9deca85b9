"""A stop of processes that no TERM ends: it may take its grace, and a moment."""

import os
import signal
import statistics

from simulator.api import Settings, SimulatedMachine
from tests.bench.figure import Figure
from tests.bench.followed import followed
from tests.bench.site import Site

_POD = "bench-stop"
_SERVER = "deaf"
#: Seconds between TERM and KILL.
_GRACES = (1.0, 2.0, 4.0)
#: Stops with each grace.
_ROUNDS = 3


async def stop(site: Site) -> list[Figure]:
    """Return the most that a stop took beyond its grace, until a following client heard that nothing is left."""
    beyond = []
    async with site.pod(_POD, Settings(load_seconds=0.2)) as machine, followed(site.podctl, _POD) as pod:
        for grace in _GRACES * _ROUNDS:
            await pod.start(_SERVER)
            await _make_deaf(machine)
            beyond.append(await pod.stop(_SERVER, grace) - grace)
    graces = ", ".join(f"{grace:g}" for grace in _GRACES)
    return [
        Figure(
            name="stop of a tree that ignores TERM, beyond its grace (worst)",
            value=max(beyond),
            unit="s",
            bound="<=",
            limit=1,
            measured=f"median {statistics.median(beyond):.2f} s, {len(beyond)} stops, graces of {graces} s",
        )
    ]


async def _make_deaf(machine: SimulatedMachine) -> None:
    """Stop every process of the model server in its tracks: TERM waits for it to go on, KILL does not."""
    for process in await machine.processes():
        if process.role != "other":
            os.kill(process.pid, signal.SIGSTOP)
