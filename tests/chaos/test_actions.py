"""A granted action's program runs once, wherever the worker is killed between the grant and its end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from temporalio.client import Client
from temporalio.worker import Worker

from domain.ids import task_workflow_id
from domain.task.commands import CancelTask, GrantAction, RequestAction
from domain.task.models import ActionApproval, CommandExecutor, RunAction
from podctl.client import Refused
from simulator.api import MachineConfig, simulate
from tests.chaos.support import WAITING_PROGRAM, Hook, Site, count, site, stories

#: Stories told at the same time: each mostly waits for a dead worker to be noticed.
CONCURRENT = 3
PROGRAM = f"{WAITING_PROGRAM}; echo deployed"
PLAN = "workstreams: [{id: docs, title: Docs, executor: signal}]"
ACTION = "action-1"


@dataclass(frozen=True)
class Told:
    """A task with a proposed action, on a site."""

    site: Site
    task_id: str

    @property
    def workflow_id(self) -> str:
        return task_workflow_id(self.task_id)

    async def propose(self, program: str = PROGRAM) -> None:
        await self.site.create_task(self.task_id, PLAN)
        executor = CommandExecutor(argv=("sh", "-c", program), pod=self.site.pod_name)
        request = RequestAction(action=RunAction(executor=executor), reason="it is time")
        await self.site.client.execute_task(self.task_id, request, by="bob")

    async def grant(self, by: str = "carol") -> None:
        """Grant it as the Temporal Web UI would: the signal is recorded also while no worker runs."""
        await self.site.signal(self.task_id, "approve", message_id="m-1", choice="grant", by=by)

    async def action(self, *statuses: str) -> ActionApproval:
        """Wait until the action has one of these statuses."""
        state = await self.site.task(
            self.task_id, lambda task: task.actions[ACTION].status in statuses, f"{ACTION} is {' or '.join(statuses)}"
        )
        return state.actions[ACTION]

    async def lose_worker(self) -> None:
        """Kill the worker and wait until another has taken up the run."""
        self.site.workers[-1].kill()
        await self.site.held_by(self.workflow_id, "run_command", self.site.start_worker())


async def before_the_grant(told: Told) -> None:
    """Two people say yes while nobody works."""
    told.site.let_program_go()
    told.site.workers[-1].kill()
    handle = told.site.temporal.get_workflow_handle(told.workflow_id)
    for name in ("carol", "dave"):
        await handle.signal("approve", {"by": name, "message_id": "m-1", "choice": "grant"})
    told.site.start_worker()
    action = await told.action("done")
    assert action.decided_by == "carol"
    state = await told.site.client.task(told.task_id)
    assert [(refusal.code, refusal.by) for refusal in state.refusals] == [("already_approved", "dave")]


async def between_grant_and_run(told: Told) -> None:
    """Whoever takes in the grant carries out nothing of it."""
    told.site.let_program_go()
    told.site.workers[-1].kill()
    async with Worker(told.site.temporal, task_queue=told.site.task_queue):
        await told.grant()
        await told.action("granted")
    assert told.site.program_starts == 0
    told.site.start_worker()


async def while_it_runs(told: Told) -> None:
    await told.grant()
    await told.site.program_started()
    await told.lose_worker()
    told.site.let_program_go()


def at_hook(point: str) -> Callable[[Told], Awaitable[None]]:
    """Have the run stop at a point on the machine until another worker has taken it up."""

    async def lose(told: Told) -> None:
        told.site.let_program_go()
        hook = Hook(told.site.machine, point).set()
        await told.grant()
        await hook.reached()
        await told.lose_worker()
        hook.release()

    return lose


def at_hook_alone(point: str) -> Callable[[Told], Awaitable[None]]:
    """Have the run stop at a point on the machine, and go on while there is no worker."""

    async def lose(told: Told) -> None:
        told.site.let_program_go()
        hook = Hook(told.site.machine, point).set()
        await told.grant()
        await hook.reached()
        told.site.workers[-1].kill()
        hook.release()
        told.site.start_worker()

    return lose


POINTS: dict[str, Callable[[Told], Awaitable[None]]] = {
    "before-the-grant": before_the_grant,
    "between-grant-and-run": between_grant_and_run,
    "while-it-runs": while_it_runs,
    "launch-before-exec": at_hook("launch.before-exec"),
    "launch-before-exec-alone": at_hook_alone("launch.before-exec"),
    "run-before-reply": at_hook("run.before-reply"),
    "run-before-reply-alone": at_hook_alone("run.before-reply"),
}


@pytest.fixture(scope="module")
async def told_stories(
    request: pytest.FixtureRequest, client: Client, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Mapping[str, asyncio.Task[None]]]:
    """All chosen stories, under way: each test waits for its own."""

    async def tell(made: Site, point: str) -> None:
        told = Told(made, made.pod_name)
        await told.propose()
        await POINTS[point](told)
        await _assert_done_once(told)

    async with stories(request, client, tmp_path_factory, tell, prefix="acting-", at_once=CONCURRENT) as under_way:
        yield under_way


@pytest.mark.parametrize("point", POINTS)
async def test_a_granted_program_runs_once(point: str, told_stories: Mapping[str, asyncio.Task[None]]) -> None:
    await told_stories[point]


async def _assert_done_once(told: Told) -> None:
    action = await told.action("done", "failed", "interrupted")
    assert action.status == "done", await told.site.story(told.workflow_id)
    assert action.result is not None
    assert (action.result.run and action.result.run.exit_code, action.result.text) == (0, "deployed\n")
    assert told.site.program_starts == 1
    assert told.site.launches(told.task_id, f"_{ACTION}") == ["1"]
    happened = count(await told.site.events(told.workflow_id))
    once = ("action_approval_requested", "action_approval_granted", "action_approval_completed", "approval_given")
    assert {name: happened[name] for name in once} == dict.fromkeys(once, 1)
    with pytest.raises(Refused, match="already granted by carol"):
        await told.site.client.execute_task(told.task_id, GrantAction(action_id=ACTION), by="erin")
    await told.site.assert_nothing_left()


@pytest.mark.parametrize("point", ["stop.before-term", "stop.before-kill", "stop.before-reply"])
async def test_what_a_cancelled_task_runs_is_stopped_once_the_worker_is_back(
    client: Client, point: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    async with (
        simulate(tmp_path / "machines", [MachineConfig(name=unique("cancelled"))]) as [machine],
        site(client, machine, tmp_path / "site") as made,
    ):
        told = Told(made, unique("cancelled"))
        # Else no stop would come as far as KILL.
        await told.propose(f"trap '' TERM; {PROGRAM}" if point == "stop.before-kill" else PROGRAM)
        await told.grant()
        await made.program_started()
        hook = Hook(machine, point).set()
        await made.client.execute_task(told.task_id, CancelTask(reason="enough"), by="ann")
        await hook.reached()
        made.workers[-1].kill()
        worker = made.start_worker()
        await made.held_by(told.workflow_id, "stop_launch", worker)
        hook.release()
        state = await made.task(told.task_id, lambda task: not task.stopping_runs, "has stopped what it ran")
        assert state.actions[ACTION].status == "interrupted"
        assert "enough" in state.cancel_reason
        assert made.program_starts == 1
        await made.assert_nothing_left()
