"""The output of a launch, copied to stdout from the pod it runs on."""

import sys
from typing import TYPE_CHECKING

from cli.output import print_progress
from cli.passphrases import passphrases

if TYPE_CHECKING:
    from podctl.client import PodctlClient
    from remote.errors import Unreachable


async def copy_log(client: "PodctlClient", pod: str, launch_id: str, *, tail: int | None, follow: bool) -> None:
    """Copy a log byte for byte, going on where it was after a lost connection.

    An unreachable pod is told with what its workflow knows: since when, and what is kept.
    """
    from podctl.model_logs import open_log
    from remote.errors import Unreachable

    def lost(error: "Unreachable") -> None:
        print_progress(f"{error}; going on when it is back")

    async with open_log(client, pod, launch_id, lost, passphrases()) as log:
        try:
            async for piece in log.read(tail=tail, follow=follow):
                sys.stdout.buffer.write(piece)
                sys.stdout.buffer.flush()
        except Unreachable as error:
            from cli.render import unreachable_note

            note = unreachable_note(await client.pod(pod))
            if not note:
                raise
            raise Unreachable(pod, f"{error.reason}. {note}") from error
