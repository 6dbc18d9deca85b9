"""A task of five hundred workstreams and twenty thousand commands, and a thousand tasks on one worker."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable

from domain.entity import STATE_LIMIT
from domain.ids import task_workflow_id
from domain.task.commands import ApprovePlan, ApproveSpec, CompleteWorkstream, PostMessage, TaskCommand
from domain.task.models import Phase, PlanDraft, Result, SignalExecutor, TaskConfig, TaskInput, WorkstreamDraft
from podctl.client import NoWorker, PodctlClient, new_command_id
from tests.chaos.support import count, eventually

WORKSTREAMS = 500
COMMANDS = 20_000
TASKS = 1_000
#: Senders at a time.
SENDERS = 40


async def test_task_of_hundreds_of_workstreams_takes_thousands_of_commands(
    podctl: PodctlClient, unique: Callable[[str], str]
) -> None:
    task_id = unique("large")
    handle = podctl.temporal.get_workflow_handle(task_workflow_id(task_id))
    names = [f"part-{number:03}" for number in range(WORKSTREAMS)]
    await podctl.create_task(_task(task_id, names, max_concurrent=100))
    await _execute(podctl, task_id, ApproveSpec(revision=1), "approve-spec")
    await _execute(podctl, task_id, ApprovePlan(revision=1), "approve-plan")

    async def send(number: int) -> None:
        """Send a message; each fortieth command is a workstream's result."""
        command_id = f"c-{number:05}"
        if number % (COMMANDS // WORKSTREAMS) == 0:
            # Under way long since: a hundred are at a time, and few commands.
            name = names[number * WORKSTREAMS // COMMANDS]
            result = Result(text=f"{name} is done. " * 20)
            await _execute(podctl, task_id, CompleteWorkstream(ws_id=name, result=result), command_id)
        elif number % 100 != 1:
            await _execute(podctl, task_id, PostMessage(content=f"message {number}"), command_id)
        else:
            await handle.signal("message", {"by": "ann", "content": f"message {number}", "command_id": command_id})

    await _for_each(range(COMMANDS), send)
    await eventually(lambda: _is_in(podctl, task_id, Phase.REVIEW), f"{task_id} is reviewed")
    state = await podctl.task(task_id)
    assert len(state.model_dump_json()) < STATE_LIMIT
    assert {ws.status for ws in state.workstreams.values()} == {"completed"}
    events = (await podctl.log(task_workflow_id(task_id))).events
    assert [event.sequence for event in events] == list(range(1, state.sequence + 1))
    happened = Counter(e.command_id for e in events if e.type in ("message_posted", "workstream_completed"))
    assert happened == dict.fromkeys((f"c-{number:05}" for number in range(COMMANDS)), 1)
    assert count(events)["workstream_started"] == WORKSTREAMS


async def test_thousand_tasks_live_on_one_worker(podctl: PodctlClient, unique: Callable[[str], str]) -> None:
    prefix = unique("crowd")
    tasks = [f"{prefix}-{number}" for number in range(TASKS)]
    await _for_each(tasks, lambda task_id: podctl.create_task(_task(task_id, ["one", "two"])))
    # All of them live until the last step: each step goes round among all tasks.
    for name, payload in (
        ("approve-spec", {}),
        ("approve-plan", {}),
        ("workstream-result", {"workstream": "one", "status": "completed"}),
        ("workstream-result", {"workstream": "two", "status": "completed"}),
        ("approve-review", {}),
    ):
        given = {"by": "ann", **payload}
        await _for_each(tasks, lambda task_id, name=name, given=given: _signal(podctl, task_id, name, given))

    async def completed(task_id: str) -> None:
        await eventually(lambda: _is_in(podctl, task_id, Phase.COMPLETED), f"{task_id} is completed")

    await _for_each(tasks, completed)
    once = ("spec_approved", "plan_approved", "review_approved")
    for task_id in tasks[:: TASKS // 20]:
        happened = count((await podctl.log(task_workflow_id(task_id))).events)
        assert {name: happened[name] for name in once} == dict.fromkeys(once, 1)
        assert happened["workstream_completed"] == 2


def _task(task_id: str, names: list[str], max_concurrent: int = 3) -> TaskInput:
    plan = PlanDraft(
        workstreams=tuple(WorkstreamDraft(id=name, title=f"Part {name}", executor=SignalExecutor()) for name in names)
    )
    return TaskInput(
        task_id=task_id,
        title=task_id,
        by="ann",
        command_id=new_command_id(),
        spec="Do all of it.",
        plan=plan,
        config=TaskConfig(max_concurrent=max_concurrent),
    )


async def _execute(podctl: PodctlClient, task_id: str, command: TaskCommand, command_id: str) -> None:
    """Send a command until it is answered: while a run ends, the server makes senders wait, each time longer."""

    async def answered() -> bool:
        try:
            await podctl.execute_task(task_id, command, by="ann", command_id=command_id)
        except NoWorker:
            return False
        return True

    await eventually(answered, f"{command_id} is answered")


async def _signal(podctl: PodctlClient, task_id: str, name: str, payload: dict[str, str]) -> None:
    await podctl.temporal.get_workflow_handle(task_workflow_id(task_id)).signal(name, payload)


async def _is_in(podctl: PodctlClient, task_id: str, phase: Phase) -> bool:
    return (await podctl.task(task_id)).phase is phase


async def _for_each(items: Iterable[object], do: Callable[..., Awaitable[None]]) -> None:
    """Do something for each item, in order, for ``SENDERS`` of them at a time."""
    left = iter(items)

    async def some() -> None:
        for item in left:
            await do(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(SENDERS):
            group.create_task(some())
