"""Thousands of messages that nobody would send on purpose, to tasks that live: none wedges one, none changes anything
when it is refused, each refusal can be read."""

import re
from dataclasses import dataclass, field
from typing import Any

import pytest
from temporalio.service import RPCError, RPCStatusCode

from domain.entity import REFUSAL_MESSAGE_LIMIT
from domain.task.models import GateMode, Gates, TaskConfig
from domain.task.rejections import REJECTIONS
from podctl.client import PodctlClient
from tests.system.fuzz import Fuzz
from tests.workflow.support import Task, Tasks, asked, failed_workflow_tasks, history_types, refusal
from workflows import names

#: Ten thousand messages, one after the other within each stream; every second begins with the work under way.
STREAMS = 10
MESSAGES = 1_000
PLAN = """
workstreams:
  - {id: docs, title: The docs, executor: signal}
  - {id: second, title: Second, depends_on: [docs], executor: signal}
  - {id: third, title: Third, executor: signal}
"""


@dataclass
class Tally:
    """What came of a stream's messages."""

    sent: int = 0
    accepted: int = 0
    refused: dict[str, int] = field(default_factory=dict)

    def count_refusal(self, code: str, message: str) -> None:
        self.refused[code] = self.refused.get(code, 0) + 1
        assert code in REJECTIONS, (code, message)
        assert message.strip(), code
        assert len(message) <= REFUSAL_MESSAGE_LIMIT, (code, message)
        for ours in ("Traceback", "pydantic", "validation error", "temporalio"):
            assert ours not in message, (code, message)
        assert re.search(r"[a-z]{2,} [a-z0-9'{]+", message), f"no words: {message}"


class Stream:
    """One task after another under a stream of messages; a new one whenever the last has ended."""

    def __init__(self, podctl: PodctlClient, tasks: Tasks, number: int, tally: Tally) -> None:
        self._podctl = podctl
        self._tasks = tasks
        self._fuzz = Fuzz(number)
        self._at_work = number % 2 == 0
        self._tally = tally

    async def run(self) -> None:
        task, before = await self._begin()
        for _ in range(MESSAGES):
            if before["phase"] in {"completed", "cancelled"}:
                await self._end(task)
                task, before = await self._begin()
            before = await (self._signal if self._fuzz.chance(0.4) else self._update)(task, before)
            self._tally.sent += 1
        await self._end(task)

    async def _begin(self) -> tuple[Task, dict[str, Any]]:
        gates = Gates(review=GateMode.AUTO) if self._at_work else Gates()
        task = await self._tasks.create(PLAN, config=TaskConfig(gates=gates))
        if self._at_work:
            await task.work_begins()
        return task, await self._state(task)

    async def _end(self, task: Task) -> None:
        counted = await history_types(self._podctl.temporal, task.workflow_id)
        assert counted["WORKFLOW_TASK_TIMED_OUT"] == 0, task.id
        assert not await failed_workflow_tasks(self._podctl.temporal, task.workflow_id), task.id
        status = (await task.handle.describe()).status
        assert status is not None
        assert status.name in {"RUNNING", "COMPLETED"}, status
        await self._podctl.log(task.workflow_id)  # a worker that knows nothing of it comes to the same

    async def _state(self, task: Task) -> dict[str, Any]:
        state: dict[str, Any] = await asked(task.handle, names.STATE)
        return state

    async def _update(self, task: Task, before: dict[str, Any]) -> dict[str, Any]:
        try:
            refused = await refusal(task.handle, names.EXECUTE, *self._fuzz.update_arguments())
        except RPCError as error:
            if not _ended_or_never_was(error):
                raise
            return await self._state(task)
        after = await self._state(task)
        if refused is None:
            self._tally.accepted += 1
        else:
            self._tally.count_refusal(str(refused.type), refused.message)
            await self._unchanged(task, before, after)
        return after

    async def _signal(self, task: Task, before: dict[str, Any]) -> dict[str, Any]:
        name, arguments = self._fuzz.signal()
        try:
            await task.handle.signal(name, args=arguments)
        except RPCError as error:
            if not _ended_or_never_was(error):
                raise
            return await self._state(task)
        after = await self._state(task)
        if after["refusals"] != before["refusals"]:
            refusal = after["refusals"][-1]
            self._tally.count_refusal(refusal["code"], refusal["message"])
            await self._unchanged(task, before, after)
        else:
            self._tally.accepted += 1
        return after

    async def _unchanged(self, task: Task, before: dict[str, Any], after: dict[str, Any]) -> None:
        """Check that nothing has changed but what podctl itself did meanwhile, and the record of the refusal."""
        if _without_refusals(before) == _without_refusals(after):
            return
        since = await task.handle.query(names.EVENTS, before["sequence"])
        assert [e for e in since if e["by"] != "podctl" and e["type"] != "command_refused"] == [], since
        assert any(e["by"] == "podctl" for e in since), (before, after)


def _ended_or_never_was(error: RPCError) -> bool:
    """Return whether the server itself took no message: the task has just ended, or a name cannot be one."""
    return "workflow" in error.message or error.status is RPCStatusCode.INVALID_ARGUMENT


def _without_refusals(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name not in {"refusals", "sequence"}}


@pytest.mark.parametrize("number", range(STREAMS))
async def test_a_thousand_messages_of_strangers(podctl: PodctlClient, tasks: Tasks, number: int) -> None:
    tally = Tally()
    await Stream(podctl, tasks, number, tally).run()
    assert tally.sent == MESSAGES
    # It was no mere noise: commands were taken, and the rules were asked about most things.
    assert tally.accepted > MESSAGES // 30, tally
    assert len(tally.refused) > 20, tally
