"""Action approvals against a real Temporal server: many people at once, one decision, one run."""

import asyncio

import pytest

from domain.task.commands import CreateTracker, GrantAction, RejectAction, RequestAction
from domain.task.models import CommandExecutor, RemoveItem, RunAction, TrackerItem, TrackerPhase
from podctl.client import Refused
from tests.workflow.support import SimulatedPod, Task, Tasks, eventually, failed_workflow_tasks, history_types

PLAN = "workstreams: [{id: docs, title: Docs, executor: signal}]"
PEOPLE = [f"person-{number}" for number in range(10)]


async def decide(task: Task, action_id: str, by: str, *, yes: bool) -> str:
    """Grant or reject an action; return '' or what the second hears."""
    command = GrantAction(action_id=action_id) if yes else RejectAction(action_id=action_id)
    try:
        await task.podctl.execute_task(task.id, command, by=by)
    except Refused as refused:
        return f"{refused.code}: {refused}"
    return ""


async def test_of_many_who_decide_at_once_one_counts_and_the_others_hear_who(tasks: Tasks) -> None:
    task = await tasks.create(PLAN)
    items = tuple(TrackerItem(item_id=f"i{number}", summary="An item") for number in range(5))
    board = CreateTracker(phases=(TrackerPhase(phase_id="alpha", name="Alpha", items=items),))
    await task.podctl.execute_task(task.id, board, by="ann")
    for number, item in enumerate(items, start=1):
        request = RequestAction(action=RemoveItem(item_id=item.item_id))
        await task.podctl.execute_task(task.id, request, by="bob")
        heard = await asyncio.gather(
            *(decide(task, f"action-{number}", by, yes=position % 2 == 0) for position, by in enumerate(PEOPLE))
        )
        decided = (await task.state()).actions[f"action-{number}"]
        assert heard.count("") == 1
        assert PEOPLE[heard.index("")] == decided.decided_by
        second = [words for words in heard if words]
        assert all(words.startswith("already_approved: ") and decided.decided_by in words for words in second)
    types = await task.event_types()
    assert types.count("approval_given") == len(items)
    state = await task.state()
    done = [action for action in state.actions.values() if action.status == "done"]
    assert types.count("tracker_item_removed") == len(done)
    assert state.tracker is not None
    assert len(list(state.tracker.items())) == len(items) - len(done)


async def test_a_program_is_granted_by_signal_and_told_what_it_is_for(tasks: Tasks, pod: SimulatedPod) -> None:
    task = await tasks.create(PLAN)
    show = ("sh", "-c", 'cat "$PODCTL_INPUT"; echo "$PODCTL_TASK $PODCTL_ACTION"')
    request = RequestAction(action=RunAction(executor=CommandExecutor(argv=show, pod=pod.name)), reason="to see it")
    await task.podctl.execute_task(task.id, request, by="bob")
    before = await history_types(task.podctl.temporal, task.workflow_id)
    assert before["ACTIVITY_TASK_SCHEDULED"] == 0
    await task.ok("approve", message_id="m-1", choice="grant", comment="go on")
    state = await task.until(lambda s: s.actions["action-1"].status == "done", "the action is done")
    result = state.actions["action-1"].result
    assert result is not None
    assert '"reason": "to see it"' in result.text
    assert '"comment": "go on"' in result.text
    assert result.text.endswith(f"{task.id} action-1\n")
    after = await history_types(task.podctl.temporal, task.workflow_id)
    assert after["ACTIVITY_TASK_SCHEDULED"] == 1
    assert not await failed_workflow_tasks(task.podctl.temporal, task.workflow_id)


@pytest.mark.parametrize("argv", [("false",), ("/no/such/program",)])
async def test_what_fails_is_not_repeated(tasks: Tasks, pod: SimulatedPod, argv: tuple[str, ...]) -> None:
    task = await tasks.create(PLAN)
    request = RequestAction(action=RunAction(executor=CommandExecutor(argv=argv, pod=pod.name)))
    await task.podctl.execute_task(task.id, request, by="bob")
    await task.ok("approve", message_id="m-1", choice="grant")
    state = await task.until(lambda s: not s.actions["action-1"].open, "the action is over")
    assert state.actions["action-1"].status == "failed"
    assert state.actions["action-1"].error
    assert any(item.kind == "blocker_raised" for item in state.inbox.values())


async def test_a_run_whose_end_nobody_saw_is_left_to_a_person(tasks: Tasks, pod: SimulatedPod) -> None:
    task = await tasks.create(PLAN)
    begun = pod.machine.folder / "home" / task.id
    argv = ("sh", "-c", f'echo begun >> "$HOME/{task.id}"; sleep 1000')
    request = RequestAction(action=RunAction(executor=CommandExecutor(argv=argv, pod=pod.name)))
    await task.podctl.execute_task(task.id, request, by="bob")
    await task.ok("approve", message_id="m-1", choice="grant")

    async def runs() -> bool:
        return begun.exists()

    await eventually(runs, "the program runs")
    await pod.machine.reboot()
    state = await task.until(lambda s: not s.actions["action-1"].open, "the action is over")
    assert state.actions["action-1"].status == "interrupted"
    assert "may have taken effect" in state.actions["action-1"].error
    assert any("propose it again" in message.content for message in state.messages.values())
    assert begun.read_text() == "begun\n"
    await pod.machine.reachable()


async def test_a_pod_that_nobody_knows_fails_the_action(tasks: Tasks) -> None:
    task = await tasks.create(PLAN)
    request = RequestAction(action=RunAction(executor=CommandExecutor(argv=("true",), pod="nowhere")))
    await task.podctl.execute_task(task.id, request, by="bob")
    await task.ok("approve", message_id="m-1", choice="grant")
    state = await task.until(lambda s: not s.actions["action-1"].open, "the action is over")
    assert "nowhere" in state.actions["action-1"].error
