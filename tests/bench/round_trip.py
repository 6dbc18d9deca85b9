"""A command and its answer, against an update that does nothing with the same payload."""

import itertools
import time

from domain.task.commands import Envelope, PostMessage
from domain.task.models import TaskInput
from podctl.client import new_command_id
from tests.bench.figure import Figure, by_turns, milliseconds
from tests.bench.site import Site, start_bare

_ROUNDS = 300
#: Messages to one workflow before the next one is begun: as many as a lively task gets in a day.
_PER_WORKFLOW = 25


async def round_trip(site: Site) -> list[Figure]:
    """Return how much longer a command takes than an update of a workflow that does nothing."""
    commands, updates = itertools.count(), itertools.count()

    async def command() -> float:
        begun, sent = divmod(next(commands), _PER_WORKFLOW)
        task_id = f"round-trip-{begun}"
        if sent == 0:
            task = TaskInput(task_id=task_id, title=task_id, by="ann", command_id=new_command_id(), spec="Do it.")
            await site.podctl.create_task(task)
            # Answered by the worker: from here on the workflow is at rest.
            await site.podctl.task(task_id)
        started = time.perf_counter()
        await site.podctl.execute_task(task_id, _command(sent), by="ann")
        return time.perf_counter() - started

    async def update() -> float:
        begun, sent = divmod(next(updates), _PER_WORKFLOW)
        workflow_id = f"bare-round-trip-{begun}"
        handle = site.bare.get_workflow_handle(workflow_id)
        if sent == 0:
            await start_bare(site.bare, workflow_id, {})
            await handle.query("outcome", "")
        envelope = Envelope(command_id=new_command_id(), by="ann", command=_command(sent)).model_dump(mode="json")
        started = time.perf_counter()
        await handle.execute_update("execute", envelope, id=envelope["command_id"])
        return time.perf_counter() - started

    turns = await by_turns(command, update, rounds=_ROUNDS)
    return [
        Figure(
            name="command round trip / bare update",
            value=turns.ratio,
            unit="ratio",
            bound="<=",
            limit=1.3,
            measured=milliseconds(turns),
        )
    ]


def _command(number: int) -> PostMessage:
    return PostMessage(content=f"Part {number} is half done.")
