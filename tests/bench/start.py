"""``podctl start`` until the model server is ready, less the time in which the server itself loads."""

import asyncio
import json
import statistics
import time

from simulator.api import Settings, SimulatedMachine
from tests.bench.figure import Figure
from tests.bench.site import PODCTL, Site

_POD = "bench-start"
_SERVER = "started"
_ROUNDS = 9
#: What a server's log says when it begins to answer.
_COMPLETE = b"Application startup complete"


async def start(site: Site) -> list[Figure]:
    """Return the seconds that podctl adds to a start, over SSH on the loopback."""
    added, whole = [], []
    async with site.pod(_POD, Settings(load_seconds=1.0)) as machine:
        for launch in range(1, _ROUNDS + 2):
            loading = asyncio.create_task(_own_load(machine, launch))
            taken = await site.run([PODCTL, "start", "bench/pretend", "--name", _SERVER, "--pod", _POD])
            own = await loading
            await site.run([PODCTL, "stop", _SERVER, "--pod", _POD])
            if launch > 1:  # the first one brings the podlet to the machine
                added.append(taken - own)
                whole.append(taken)
    return [
        Figure(
            name="podctl start until ready, less the server's own load time (median)",
            value=statistics.median(added),
            unit="s",
            bound="<=",
            limit=1.5,
            measured=f"{min(added):.2f} to {max(added):.2f} s of {statistics.median(whole):.2f} s, {_ROUNDS} starts",
        )
    ]


async def _own_load(machine: SimulatedMachine, launch: int) -> float:
    """Return the seconds from the start of the server's process until its own log says that it serves."""
    folder = machine.folder / "home" / ".podctl" / "launches" / _POD / _SERVER / str(launch)
    log, process = folder / "output.log", folder / "process.json"
    while not log.exists() or _COMPLETE not in log.read_bytes():  # noqa: ASYNC110 - a file tells nobody
        await asyncio.sleep(0.005)
    complete = time.time()
    started: float = json.loads(process.read_bytes())["started_at"]
    return complete - started
