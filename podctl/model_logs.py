"""Logs of launches, model servers and runs alike, read on their pod over SSH from this very process.

Nothing of a log passes through Temporal. A dropped connection costs nothing but the wait: reading goes on at the byte
where it ended.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime

from domain.errors import Rejected
from domain.gpu.models import PodAddress
from domain.gpu.observation import PodObservation
from domain.ids import launch_id, parse_launch_id
from podctl.client import PodctlClient
from remote.errors import Unreachable
from remote.podlet import Podlet, log_piece
from remote.ssh import SshPool
from remote.ssh_keys import Passphrases

#: Bytes read from a log's end for each line that is wanted of it, at first; doubled until there are enough.
BYTES_PER_LINE = 200


def _ignore(*_: object) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class LogReader:
    """Reads the log of one launch, ``{pod}/{server}/{counter}`` or ``{task}/{workstream}/{attempt}``.

    ``on_lost`` hears of each lost connection that reading waits for; ``on_gap`` of bytes that are not kept any more:
    the offset of the first and of the first one after them.
    """

    podlet: Podlet
    address: PodAddress
    launch_id: str
    on_lost: Callable[[Unreachable], None] = _ignore
    on_gap: Callable[[int, int], None] = _ignore

    async def read(
        self, *, tail: int | None = None, since: datetime | None = None, follow: bool = False
    ) -> AsyncIterator[bytes]:
        """Give the log in pieces: all of it, or its last ``tail`` lines, or what was printed ``since`` a point in time.

        With ``follow`` also what is added to it. ``since`` may begin up to ten seconds earlier: so far apart are marks.
        Following ends when the launch has ended and all is read. Raises ``remote.errors``: ``PodletError`` if the pod
        has no such launch, ``Unreachable`` only if the pod did not answer even once.
        """
        offset = 0
        if tail is not None:
            last, offset = await self._last_lines(tail)
            if last:
                yield last
        async for piece in self._from(offset, since=since, follow=follow, answered=tail is not None):
            yield piece

    async def _from(self, offset: int, *, since: datetime | None, follow: bool, answered: bool) -> AsyncIterator[bytes]:
        while True:
            request = {"id": self.launch_id, "offset": offset, "limit": None, "follow": follow}
            if since is not None:
                request["since"] = since.timestamp()
            try:
                async with self.podlet.stream(self.address, "read_log", request) as lines:
                    async for line in lines:
                        answered = True
                        if line["type"] == "result":
                            return
                        if line["type"] == "log":
                            piece = log_piece(line)
                            if since is None and line["offset"] > offset:
                                self.on_gap(offset, line["offset"])
                            offset, since = line["offset"] + len(piece), None
                            yield piece
            except Unreachable as error:
                if not answered:
                    raise
                self.on_lost(error)
                await asyncio.sleep(max(0.2, error.retry_after))

    async def _last_lines(self, count: int) -> tuple[bytes, int]:
        """Return the last ``count`` lines, and the offset where they end."""
        wanted = max(1, count) * BYTES_PER_LINE
        while True:
            pieces: list[bytes] = []
            start = end = first_kept = 0
            request = {"id": self.launch_id, "offset": -wanted, "limit": wanted, "follow": False}
            async with self.podlet.stream(self.address, "read_log", request) as lines:
                async for line in lines:
                    if line["type"] == "log":
                        piece = log_piece(line)
                        start = start if pieces else line["offset"]
                        pieces.append(piece)
                    elif line["type"] == "result":
                        end, first_kept = line["result"]["offset"], line["result"]["start"]
            found = b"".join(pieces).splitlines(keepends=True)
            whole = not pieces or start <= first_kept
            if whole or len(found) > count:
                # Not the whole log: its first line here may be the end of a longer one.
                return b"".join(found[-count:] if count else []), end
            wanted *= 2


@dataclass(frozen=True)
class PodLogs:
    """The logs on one pod."""

    podlet: Podlet
    address: PodAddress

    def reader(
        self, launch_id: str, on_lost: Callable[[Unreachable], None], on_gap: Callable[[int, int], None]
    ) -> LogReader:
        """Return a reader of one launch's log."""
        return LogReader(self.podlet, self.address, launch_id, on_lost, on_gap)

    async def launch_before(self, server: str) -> str:
        """Return the launch of a model server before its newest one on the machine.

        Raises Rejected ``no_previous_launch``, and ``remote.errors``.
        """
        seen = PodObservation.model_validate(await self.podlet.call(self.address, "observe", {"ids": None}))
        known = [parsed for launch in seen.launches if (parsed := parse_launch_id(launch.id)) is not None]
        counters = sorted(counter for pod, name, counter in known if (pod, name) == (self.address.pod, server))
        if len(counters) < 2:
            raise Rejected(
                "no_previous_launch",
                f"pod {self.address.pod} keeps {'one launch' if counters else 'no launch'} of model server {server!r}: "
                "there is none before it",
            )
        return launch_id(self.address.pod, server, counters[-2])


@contextlib.asynccontextmanager
async def open_logs(client: PodctlClient, pod: str, passphrases: Passphrases | None = None) -> AsyncIterator[PodLogs]:
    """Give the logs on a pod, over a connection of its own. Raises ``NotFound`` for an unknown pod."""
    pool = SshPool(passphrases=passphrases)
    try:
        yield PodLogs(Podlet(pool), await client.pod_address(pod))
    finally:
        await pool.close()
