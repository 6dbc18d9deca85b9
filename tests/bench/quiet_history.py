"""What a healthy model server adds to its pod's history: nothing, however long it runs."""

import asyncio
import os

from domain.ids import gpu_pod_workflow_id
from tests.bench.figure import Figure
from tests.bench.site import POD, Site

#: Seconds that count. Fewer are for trying the benchmark out; the table then says so.
SECONDS = 600.0
SECONDS_VARIABLE = "BENCH_QUIET_SECONDS"


async def quiet_history(site: Site) -> list[Figure]:
    """Return how many events the history has grown by while the server was only healthy."""
    seconds = quiet_seconds()
    before = await _events(site)
    await asyncio.sleep(seconds)
    after = await _events(site)
    return [
        Figure(
            name="events added by a healthy model server in ten minutes",
            value=after - before,
            unit="events",
            bound="<=",
            limit=0,
            measured=f"{before} events before, {after} after {seconds:g} s{shortened(seconds)}",
        )
    ]


def quiet_seconds() -> float:
    """Return how long nothing shall happen."""
    return float(os.environ.get(SECONDS_VARIABLE, SECONDS))


def shortened(seconds: float) -> str:
    """Return what the table says of a time that is too short to count."""
    return "" if seconds >= SECONDS else f": SHORTENED by {SECONDS_VARIABLE}"


async def _events(site: Site) -> int:
    described = await site.podctl.temporal.get_workflow_handle(gpu_pod_workflow_id(POD)).describe()
    return described.history_length
