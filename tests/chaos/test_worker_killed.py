"""A worker is killed with SIGKILL at every step of a task; another one takes over, and nothing happens twice."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pytest
from temporalio.client import Client

from domain.ids import task_workflow_id
from domain.task.models import TaskState
from tests.chaos.support import MODEL, WAITING_PROGRAM, Hook, Site, count, stories

#: Stories told at the same time: each mostly waits for a dead worker to be noticed.
CONCURRENT = 5
PROGRAM = f'{WAITING_PROGRAM}; echo "$OPENAI_MODEL"'
PLAN = """
model_servers:
  - {{name: coder, model: {model}, pod: {pod}}}
workstreams:
  - id: work
    title: Work
    executor: {{type: command, argv: [sh, -c, '{program}'], server: coder}}
"""


@dataclass(frozen=True)
class Told:
    """A task that is under way on a site."""

    site: Site
    task_id: str


@dataclass(frozen=True)
class Point:
    """Where the worker dies. ``lose`` waits for that point, kills the worker, starts another and lets things go on."""

    name: str
    lose: Callable[[Told], Awaitable[None]]
    before: Callable[[Told], Awaitable[None]] | None = None
    settings: Mapping[str, object] = field(default_factory=dict)


Second = Literal["comes", "may come", "must not come"]


def at_hook(point: str, second: Second, done: tuple[str, ...] = ("loading", "ready")) -> Point:
    """Return the point at which a program on the machine stops, with no more to go on before the new worker is there.

    ``second`` says whether another program, started for the new worker, stops there too: the podlet's calls that are
    repeated do, a launch that exists must not be made again. It may come where the lost program has done its work,
    which the new worker's watch may see before that is repeated: the server is then in one of the states ``done``.
    """

    async def lose(told: Told) -> None:
        hook = Hook(told.site.machine, point)
        await hook.reached()
        told.site.workers[-1].kill()
        worker = told.site.start_worker()
        if second == "comes":
            await hook.reached()
        elif second == "may come":
            await told.site.reached_again(hook, worker, "coder", *done)
        else:
            await told.site.held_by(told.site.pod_workflow, "watch_pod", worker)
            await told.site.server("coder", *done)
            assert not hook.was_reached(), f"a second program came to {point}"
        hook.release()

    return _hooked(point, lose)


def at_hook_alone(point: str) -> Point:
    """Return the point at which a program on the machine stops, and goes on while there is no worker."""

    async def lose(told: Told) -> None:
        hook = Hook(told.site.machine, point)
        await hook.reached()
        told.site.workers[-1].kill()
        hook.release()
        told.site.start_worker()

    return _hooked(point, lose, "-alone")


def _hooked(point: str, lose: Callable[[Told], Awaitable[None]], suffix: str = "") -> Point:
    async def before(told: Told) -> None:
        Hook(told.site.machine, point).set()
        told.site.let_program_go()

    # Else no stop would come as far as KILL.
    settings = {"hang_on_term": "always"} if point == "stop.before-kill" else {}
    return Point(point.replace(".", "-") + suffix, lose, before, settings)


async def lose_while_command_runs(told: Told) -> None:
    await told.site.program_started()
    told.site.workers[-1].kill()
    worker = told.site.start_worker()
    await told.site.held_by(task_workflow_id(told.task_id), "run_command", worker)
    told.site.let_program_go()


async def fill_the_machine(told: Told) -> None:
    told.site.let_program_go()
    await told.site.start_server("first")
    await told.site.server("first", "ready")


async def lose_while_queued(told: Told) -> None:
    await told.site.server("coder", "pending")
    told.site.workers[-1].kill()
    worker = told.site.start_worker()
    await told.site.held_by(told.site.pod_workflow, "watch_pod", worker)
    pod = await told.site.pod()
    assert (pod.servers["coder"].state, pod.servers["first"].state) == ("pending", "ready")
    await told.site.stop_server("first")


POINTS = {
    point.name: point
    for point in (
        at_hook("launch.before-exec", "must not come"),
        at_hook("launch.before-reply", "may come"),
        at_hook("vllm.loading", "must not come"),
        at_hook("watch.before-change", "comes"),
        Point("command-running", lose_while_command_runs),
        at_hook("run.before-reply", "comes"),
        Point("start-in-queue", lose_while_queued, fill_the_machine),
        at_hook("stop.before-term", "comes"),
        at_hook("stop.before-kill", "comes"),
        at_hook("stop.before-reply", "may come", done=("stopped",)),
        at_hook_alone("launch.before-exec"),
        at_hook_alone("run.before-reply"),
        at_hook_alone("stop.before-kill"),
    )
}


@pytest.fixture(scope="module")
async def told_stories(
    request: pytest.FixtureRequest, client: Client, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Mapping[str, asyncio.Task[None]]]:
    """All chosen stories, under way: each test waits for its own."""

    async def tell(made: Site, point: str) -> None:
        await _tell(Told(made, f"task-{point}"), POINTS[point])

    async with stories(request, client, tmp_path_factory, tell, at_once=CONCURRENT) as under_way:
        yield under_way


@pytest.mark.parametrize("point", POINTS)
async def test_killed_worker_is_replaced_and_nothing_happens_twice(
    point: str, told_stories: Mapping[str, asyncio.Task[None]]
) -> None:
    await told_stories[point]


async def _tell(told: Told, point: Point) -> None:
    made = told.site
    await made.machine.settings(load_seconds=0.2, **point.settings)
    if point.before is not None:
        await point.before(told)
    plan = PLAN.format(model=MODEL, pod=made.pod_name, program=PROGRAM)
    await made.create_task(told.task_id, plan)
    await made.signal(told.task_id, "approve-spec")
    await made.signal(told.task_id, "approve-plan")
    await point.lose(told)
    await made.task(told.task_id, lambda task: task.phase == "review", "is in review")
    await made.signal(told.task_id, "approve-review")
    finished = await made.task(told.task_id, lambda task: task.phase == "completed", "is completed")
    await made.server("coder", "stopped")
    _assert_done_once(told, finished)
    await _assert_told_once(told)
    await made.assert_nothing_left()


def _assert_done_once(told: Told, finished: TaskState) -> None:
    made = told.site
    assert made.program_starts == 1
    assert made.launches(told.task_id, "work") == ["1"]
    result = finished.workstreams["work"].result
    assert result is not None
    assert result.run is not None
    assert (result.run.exit_code, result.text) == (0, f"{MODEL}\n")
    assert made.launches(made.pod_name, "coder") == ["1"]
    assert made.server_starts(f"{made.pod_name}/coder/1") == 1


async def _assert_told_once(told: Told) -> None:
    made = told.site
    _assert_counts(
        count(await made.events(task_workflow_id(told.task_id))),
        once=("spec_approved", "plan_approved", "review_approved", "workstream_started", "workstream_completed"),
        never=("workstream_failed", "workstream_interrupted", "workstream_retried", "approval_requested"),
    )
    _assert_counts(
        count(await made.events(made.pod_workflow), server="coder"),
        once=(
            "lease_granted",
            "server_launching",
            "server_ready",
            "server_stopping",
            "server_stopped",
            "lease_released",
        ),
        never=("server_failed", "server_lost", "launch_refused", "server_stop_failed"),
    )
    assert (await made.pod()).servers["coder"].counter == 1


def _assert_counts(happened: Mapping[str, int], *, once: Sequence[str], never: Sequence[str]) -> None:
    assert {name: happened[name] for name in (*once, *never)} == {**dict.fromkeys(once, 1), **dict.fromkeys(never, 0)}
