"""What our workflows are held against: one that does nothing, in a worker process of its own.

``python -m tests.bench.bare ADDRESS [TASK_QUEUE]``
"""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

from temporalio import workflow
from temporalio.client import Client
from temporalio.common import RawValue
from temporalio.worker import Worker

TASK_QUEUE = "bench-bare"


@workflow.defn(name="Bare")
class Bare:
    """Takes every message of a task pod, looks at none, and ends at the last one."""

    def __init__(self) -> None:
        self._ended = False

    @workflow.run
    async def run(self, _start: Any) -> None:  # noqa: ANN401 - whatever a task begins with
        """Wait for the end."""
        await workflow.wait_condition(lambda: self._ended)

    @workflow.signal(dynamic=True)
    def signal(self, name: str, _arguments: Sequence[RawValue]) -> None:
        """Take in a signal."""
        self._ended = name == "approve-review"

    @workflow.update
    async def execute(self, _envelope: Any) -> None:  # noqa: ANN401 - whatever a command is
        """Do nothing."""

    @workflow.query
    def outcome(self, _command_id: str) -> None:
        """Return nothing."""


async def work(address: str, task_queue: str = TASK_QUEUE) -> None:
    """Serve the bare workflow until the process is ended."""
    async with Worker(await Client.connect(address), task_queue=task_queue, workflows=[Bare]):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(work(*sys.argv[1:]))
