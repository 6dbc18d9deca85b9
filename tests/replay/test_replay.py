"""Recorded histories must mean the same to today's code."""

import asyncio
import time
from pathlib import Path

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHistory

from domain.gpu import rules
from domain.gpu.commands import Command
from domain.gpu.draft import Draft
from domain.gpu.models import GpuPodState
from domain.task.models import Phase, TaskState
from podctl.events import ReplayFailed, replay_run

HISTORIES = Path(__file__).parent / "histories"
TASK_EVENTS = ["task_created", "spec_updated", "plan_updated", "command_refused", "spec_approved"]


def load(name: str) -> WorkflowHistory:
    return WorkflowHistory.from_json(name, (HISTORIES / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", sorted(HISTORIES.glob("*.json")), ids=lambda path: path.stem)
async def test_every_recorded_history_replays(path: Path) -> None:
    entity = await replay_run(load(path.stem))
    assert entity.state.sequence == len(entity.events)


async def test_the_recorded_task_is_completed_and_says_how() -> None:
    entity = await replay_run(load("task-pod"))
    state = entity.state
    assert isinstance(state, TaskState)
    assert state.phase is Phase.COMPLETED
    types = [event.type for event in entity.events]
    assert types[:5] == TASK_EVENTS
    assert types.count("workstream_started") == types.count("workstream_completed") == 4
    assert [refusal.code for refusal in state.refusals] == ["invalid_phase"]


async def test_the_recorded_pod_has_launched_once_and_stopped_verified() -> None:
    entity = await replay_run(load("gpu-pod"))
    state = entity.state
    assert isinstance(state, GpuPodState)
    [server] = state.servers.values()
    assert (server.state, server.counter, server.holders) == ("stopped", 1, ())
    assert [event.type for event in entity.events].count("lease_released") == 1


async def test_a_history_that_other_code_made_is_told_as_such() -> None:
    history = load("gpu-pod")
    scheduled = EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
    event = next(event for event in history.events if event.event_type == scheduled)
    event.activity_task_scheduled_event_attributes.activity_type.name = "something_else"
    with pytest.raises(ReplayFailed, match="does other things than this one"):
        await replay_run(history)


async def test_a_slow_machine_is_not_taken_for_a_history_that_other_code_made(monkeypatch: pytest.MonkeyPatch) -> None:
    change = rules._change

    def slowly(draft: Draft, command: Command) -> None:
        monkeypatch.setattr(rules, "_change", change)
        time.sleep(2.5)  # a worker's workflow task would be given up after 2 s
        change(draft, command)

    monkeypatch.setattr(rules, "_change", slowly)
    entity = await replay_run(load("gpu-pod"))
    assert isinstance(entity.state, GpuPodState)
    assert rules._change is change, "it was slow"


async def test_a_replay_that_is_cancelled_ends() -> None:
    replay = asyncio.create_task(replay_run(load("gpu-pod")))
    await asyncio.sleep(0)
    replay.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(replay, 30)
