"""A worker that kills itself at one boundary of an activity: ``python -m tests.chaos.dying_worker --task-queue … …``.

``before``: it has taken the activity up and done nothing; ``after``: it has done everything and reported nothing.
"""

import argparse
import asyncio
import os
import signal
from typing import Any

from pydantic import BaseModel
from temporalio.plugin import SimplePlugin
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from podctl.connection import connect
from remote.ssh import SshPool
from tests.chaos.boundaries import label
from worker import build_worker
from workflows.plugin import project_plugin


class _Dies(ActivityInboundInterceptor):
    """Ends this process at the boundary."""

    def __init__(self, following: ActivityInboundInterceptor, activity: str, about: str, when: str) -> None:
        super().__init__(following)
        self._boundary = (activity, about, when)

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002, ANN401 - as it is defined
        """Carry out the activity, unless the process ends there."""
        [argument] = input.args
        assert isinstance(argument, BaseModel)
        name = getattr(input.fn, "__temporal_activity_definition").name
        here = (name, label(argument.model_dump(mode="json")))
        if (*here, "before") == self._boundary:
            os.kill(os.getpid(), signal.SIGKILL)
        result = await super().execute_activity(input)
        if (*here, "after") == self._boundary:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


class _Dying(Interceptor):
    def __init__(self, activity: str, about: str, when: str) -> None:
        self._boundary = (activity, about, when)

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002
        """Put the end of the process around every activity."""
        return _Dies(next, *self._boundary)


async def serve(task_queue: str, activity: str, about: str, when: str) -> None:
    """Work until the boundary."""
    dying = SimplePlugin("dying", interceptors=[_Dying(activity, about, when)])
    client = await connect(plugins=[project_plugin(), dying])
    async with build_worker(client, SshPool(), task_queue):
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--task-queue", required=True)
    parser.add_argument("activity")
    parser.add_argument("about")
    parser.add_argument("when", choices=["before", "after"])
    given = parser.parse_args()
    asyncio.run(serve(given.task_queue, given.activity, given.about, given.when))
