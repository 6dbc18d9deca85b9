"""Two people decide the same at the same instant: one decision counts, and the other hears who was first."""

import asyncio

import pytest

from domain.entity import Event
from domain.task.commands import (
    ApprovePlan,
    ApproveReview,
    ApproveSpec,
    CancelTask,
    ChangeConfig,
    CompleteWorkstream,
    GiveApproval,
    RequestApproval,
    TaskCommand,
)
from domain.task.models import TaskState
from podctl.client import PodctlClient, Refused
from podctl.settings import change_settings
from tests.workflow.support import Task, Tasks

PLAN = """
workstreams:
  - {id: work, title: Work, executor: signal}
"""
#: Each task has four decisions: spec, plan, a question, review.
TASKS = 50
#: How each of the two sends it. Every decision is made in each of these ways.
WAYS = (("signal", "signal"), ("signal", "update"), ("update", "signal"), ("update", "update"))


async def decide(podctl: PodctlClient, task: Task, way: str, by: str, command: TaskCommand) -> str:
    """Send a decision; return why it was refused, or nothing."""
    try:
        if way == "update":
            await podctl.execute_task(task.id, command, by=by)
            return ""
        signal = "approve" if command.type == "give_approval" else command.type.replace("_", "-")
        payload = command.model_dump(mode="json", exclude={"type"})
        outcome = await podctl.signal_task(task.id, signal, {**payload, "by": by})
    except Refused as refused:
        return f"{refused.code}: {refused}"
    assert outcome is not None, "no worker processed the signal"
    return "" if outcome.accepted else f"{outcome.code}: {outcome.message}"


async def both_decide(podctl: PodctlClient, task: Task, ways: tuple[str, str], command: TaskCommand) -> str:
    """Have ann and bob decide at once; return who was first."""
    told = await asyncio.gather(
        *(decide(podctl, task, way, by, command) for way, by in zip(ways, ("ann", "bob"), strict=True))
    )
    assert sorted(bool(words) for words in told) == [False, True], told
    first, second = ("ann", "bob") if told[1] else ("bob", "ann")
    words = "".join(told)
    assert words.startswith(("already_approved: ", "already_terminal: ")), words
    assert f"by {first}" in words, f"{second} is told who was first: {words}"
    return first


async def one_task(podctl: PodctlClient, tasks: Tasks, number: int) -> int:
    task = await tasks.create(PLAN)
    ways = WAYS[number % len(WAYS)]
    firsts = [await both_decide(podctl, task, ways, ApproveSpec(revision=1))]
    firsts.append(await both_decide(podctl, task, ways, ApprovePlan(revision=1)))
    await podctl.execute_task(task.id, RequestApproval(content="red or blue?", options=("red", "blue")), by="carl")
    (question,) = (await task.state()).open_approvals()
    firsts.append(
        await both_decide(podctl, task, ways, GiveApproval(message_id=question.message_id, choice="blue", comment="!"))
    )
    await podctl.execute_task(task.id, CompleteWorkstream(ws_id="work"), by="carl")
    firsts.append(await both_decide(podctl, task, ways, ApproveReview(revision=1)))

    await task.handle.result()
    state = await task.state()
    assert state.plan
    answer = state.messages[question.message_id].approval
    assert answer
    assert answer.answer
    gates = (state.spec.approval, state.plan.approval, state.review.approval)
    assert [gate.by for gate in gates if gate] == [firsts[0], firsts[1], firsts[3]]
    assert (answer.answer.by, answer.answer.choice) == (firsts[2], "blue")
    decided = [e for e in await _events(podctl, task) if e.type.endswith("_approved") or e.type == "approval_given"]
    assert [(e.type, e.by) for e in decided] == list(
        zip(("spec_approved", "plan_approved", "approval_given", "review_approved"), firsts, strict=True)
    )
    return len(firsts)


async def _events(podctl: PodctlClient, task: Task) -> tuple[Event, ...]:
    return (await podctl.log(task.workflow_id)).events


async def test_of_two_people_at_once_one_decides_and_the_other_is_told(podctl: PodctlClient, tasks: Tasks) -> None:
    at_once = asyncio.Semaphore(10)

    async def limited(number: int) -> int:
        async with at_once:
            return await one_task(podctl, tasks, number)

    async with asyncio.TaskGroup() as group:
        decided = [group.create_task(limited(number)) for number in range(TASKS)]
    assert sum(task.result() for task in decided) == 200


async def test_who_repeats_the_command_that_ended_a_task_hears_that_it_counted(
    podctl: PodctlClient, tasks: Tasks
) -> None:
    task = await tasks.create()
    first = await podctl.execute_task(task.id, CancelTask(reason="enough"), by="ann", command_id="the-end")
    await task.handle.result()
    assert await podctl.execute_task(task.id, CancelTask(reason="enough"), by="ann", command_id="the-end") == first
    assert await podctl.signal_task(task.id, "message", {"by": "ann", "content": "x", "command_id": "the-end"}) == first
    for late in (ApproveSpec(), CancelTask()):
        with pytest.raises(Refused) as refused:
            await podctl.execute_task(task.id, late, by="bob")
        assert refused.value.code == "already_terminal"
        assert "cancelled by ann (enough)" in str(refused.value)
    with pytest.raises(Refused, match="cancelled by ann"):
        await podctl.signal_task(task.id, "approve-spec", {"by": "bob"})


class Overtaken(PodctlClient):
    """Has bob change a setting right after each of the first reads of a task."""

    times = 1

    async def task(self, task_id: str) -> TaskState:
        state = await super().task(task_id)
        if self.times:
            self.times -= 1
            config = state.config.model_copy(update={"agent_attempts": state.config.agent_attempts + 1})
            await self.execute_task(task_id, ChangeConfig(config=config), by="bob")
        return state


async def test_settings_that_two_change_at_once_are_both_changed(podctl: PodctlClient, tasks: Tasks) -> None:
    task = await tasks.create(PLAN)
    overtaken = Overtaken(podctl.temporal)
    done = await change_settings(overtaken, task.id, None, ["max_concurrent=7"], by="ann")
    config = (await task.state()).config
    assert (config.agent_attempts, config.max_concurrent) == (4, 7)
    assert done.names == ("max_concurrent",)


async def test_settings_that_are_changed_all_the_time_are_left_alone_after_some_tries(
    podctl: PodctlClient, tasks: Tasks
) -> None:
    task = await tasks.create(PLAN)
    overtaken = Overtaken(podctl.temporal)
    overtaken.times = 3
    with pytest.raises(Refused, match="read those"):
        await change_settings(overtaken, task.id, None, ["max_concurrent=7"], by="ann")
    assert (await task.state()).config.max_concurrent == 3
