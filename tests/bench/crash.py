"""A model server that dies, until a client that follows its pod hears that its state has changed."""

import math
import os
import signal
import statistics
import time
from typing import Literal

from simulator.api import Settings, SimulatedMachine
from tests.bench.figure import Figure
from tests.bench.followed import FollowedPod, followed
from tests.bench.site import Site

_POD = "bench-crash"
_SERVER = "doomed"
#: Of each kind.
_CRASHES = 12


async def crash(site: Site) -> list[Figure]:
    """Return the seconds within which 95 of 100 crashes are heard of: of the engine, and of the root process."""
    engine: list[float] = []
    root: list[float] = []
    async with site.pod(_POD, Settings(load_seconds=0.2)) as machine, followed(site.podctl, _POD) as pod:
        for _ in range(_CRASHES):
            engine.append(await _crash(machine, pod, "engine"))
            root.append(await _crash(machine, pod, "api_server"))
    return [
        Figure(
            name="a model server's crash until a following client hears of it (95th percentile)",
            value=percentile(engine + root, 95),
            unit="s",
            bound="<=",
            limit=1,
            measured=f"median {statistics.median(engine):.2f} s, worst {max(engine):.2f} s of {_CRASHES} killed "
            f"engines; median {statistics.median(root):.2f} s, worst {max(root):.2f} s of {_CRASHES} killed roots",
        )
    ]


async def _crash(machine: SimulatedMachine, pod: FollowedPod, role: Literal["engine", "api_server"]) -> float:
    await pod.start(_SERVER)
    [pid] = [process.pid for process in await machine.processes() if process.role == role]
    killed = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    heard, seen = await pod.until(_SERVER, lambda server: server.state != "ready")
    if not seen.finished:
        # One whose engine died is unhealthy and ends by itself within seconds.
        await pod.stop(_SERVER, grace=5.0)
    return heard - killed


def percentile(values: list[float], percent: int) -> float:
    """Return the value that ``percent`` of 100 values do not exceed (nearest rank)."""
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]
