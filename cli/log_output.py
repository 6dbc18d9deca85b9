"""The output of a launch, copied to stdout from the pod it runs on."""

import sys
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from cli.output import print_progress
from cli.passphrases import passphrases

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from podctl.client import PodctlClient
    from podctl.model_logs import PodLogs
    from remote.errors import Unreachable


@dataclass(frozen=True)
class Part:
    """Which part of a log is wanted; all of it if nothing is said."""

    tail: int | None = None
    since: datetime | None = None
    follow: bool = False


def open_logs(client: "PodctlClient", pod: str) -> "AbstractAsyncContextManager[PodLogs]":
    """Return the logs on a pod, over a connection that a person's encrypted keys may open."""
    from podctl import model_logs

    return model_logs.open_logs(client, pod, passphrases())


async def copy_log(client: "PodctlClient", logs: "PodLogs", launch_id: str, part: Part) -> None:
    """Copy a log byte for byte, going on where it was after a lost connection.

    An unreachable pod is told with what its workflow knows: since when, and what is kept.
    """
    from remote.errors import Unreachable

    def lost(error: "Unreachable") -> None:
        print_progress(f"{error}; going on when it is back")

    def gap(first: int, following: int) -> None:
        where = f"bytes {first:,} to {following - 1:,}" if first else f"the first {following:,} bytes"
        print_progress(f"{where} of the log of {launch_id} are not kept any more: a pod keeps the newest part of each")

    try:
        async for piece in logs.reader(launch_id, lost, gap).read(tail=part.tail, since=part.since, follow=part.follow):
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
    except Unreachable as error:
        raise await explained(client, error) from error


async def explained(client: "PodctlClient", error: "Unreachable") -> "Unreachable":
    """Return the error with what the pod's workflow knows of it."""
    from cli.render_pods import unreachable_note
    from remote.errors import Unreachable

    note = unreachable_note(await client.pod(error.pod))
    return Unreachable(error.pod, f"{error.reason}. {note}") if note else error
