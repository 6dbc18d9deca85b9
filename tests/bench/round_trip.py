"""A command and its answer: against an update that does nothing with the same payload, and in a task of any size."""

import itertools
import time
from collections.abc import Awaitable, Callable

from domain.task.commands import ApprovePlan, ApproveSpec, Envelope, PostMessage
from domain.task.models import Phase, PlanDraft, SignalExecutor, TaskInput, WorkstreamDraft
from podctl.client import new_command_id
from tests.bench.figure import Figure, by_turns, milliseconds
from tests.bench.site import Site, start_bare

_ROUNDS = 300
#: Messages to one workflow before the next one is begun: as many as a lively task gets in a day.
_PER_WORKFLOW = 25
_LARGE = 500
_SMALL = 3


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
        return await _timed(site, task_id, sent)

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
        ),
        Figure(
            name="command round trip / bare update, 95th percentile",
            value=turns.slow_ratio,
            unit="ratio",
            bound="<=",
            limit=1.5,
            measured=f"{len(turns.ours)} each",
        ),
    ]


async def large_task(site: Site) -> list[Figure]:
    """Return how much longer a command takes in a task of hundreds of workstreams than in one of a few."""
    large, small = await _executing(site, "large", _LARGE), await _executing(site, "small", _SMALL)
    turns = await by_turns(large, small, rounds=_ROUNDS)
    return [
        Figure(
            name=f"command round trip, {_LARGE} workstreams / {_SMALL}",
            value=turns.ratio,
            unit="ratio",
            bound="<=",
            limit=1.5,
            measured=milliseconds(turns),
        )
    ]


async def _executing(site: Site, task_id: str, size: int) -> Callable[[], Awaitable[float]]:
    """Begin a task whose workstreams are being worked on; return how to time one command to it."""
    names = [f"part-{number:03}" for number in range(size)]
    plan = PlanDraft(
        summary="Many parts, reported from outside.",
        workstreams=tuple(
            WorkstreamDraft(
                id=name,
                title=f"Part {number}",
                description="What has to be done, in a sentence or two, as a planner would put it.",
                executor=SignalExecutor(),
                depends_on=tuple(names[max(0, number - 2) : number]) if number % 3 else (),
            )
            for number, name in enumerate(names)
        ),
    )
    task = TaskInput(
        task_id=task_id, title=task_id, by="ann", command_id=new_command_id(), spec="Write all of it.", plan=plan
    )
    await site.podctl.create_task(task)
    await site.podctl.execute_task(task_id, ApproveSpec(revision=1), by="ann")
    await site.podctl.execute_task(task_id, ApprovePlan(revision=1), by="ann")
    state = await site.podctl.task(task_id)
    if state.phase is not Phase.WORKSTREAM_EXECUTION or len(state.workstreams) != size:
        raise RuntimeError(f"{task_id} is in {state.phase} with {len(state.workstreams)} workstreams")
    numbers = itertools.count()
    return lambda: _timed(site, task_id, next(numbers))


async def _timed(site: Site, task_id: str, number: int) -> float:
    """Return the seconds that a command and its answer take."""
    started = time.perf_counter()
    await site.podctl.execute_task(task_id, _command(number), by="ann")
    return time.perf_counter() - started


def _command(number: int) -> PostMessage:
    return PostMessage(content=f"Part {number} is half done.")
