"""What a workstream adds to its task's history: events, and bytes."""

from dataclasses import dataclass

from domain.ids import task_workflow_id
from domain.task.commands import ApprovePlan, ApproveSpec
from domain.task.models import CommandExecutor, Executor, Phase, PlanDraft, SignalExecutor, TaskInput, WorkstreamDraft
from podctl.client import new_command_id
from podctl.live import follow_task
from tests.bench.figure import Figure
from tests.bench.site import POD, Site

#: Workstreams of two tasks that are alike otherwise.
_FEW, _MANY = 2, 22


async def task_history(site: Site) -> list[Figure]:
    """Return how much a workstream of each kind adds, from its start to its end."""
    by_signal = await _added(site, "by-signal", SignalExecutor())
    by_command = await _added(site, "by-command", CommandExecutor(argv=("true",), pod=POD))
    return [*_figures("signal", by_signal, 8, 10), *_figures("command", by_command, 15, 20)]


@dataclass(frozen=True)
class _History:
    events: float
    size: float


def _figures(kind: str, added: _History, events: int, kilobytes: int) -> list[Figure]:
    measured = f"a task of {_MANY} workstreams against one of {_FEW}"
    name = f"added to a task's history by a {kind} workstream"
    return [
        Figure(f"events {name}", added.events, "events", "<=", events, measured),
        Figure(f"size {name}", added.size / 1e3, "KB", "<=", kilobytes, measured),
    ]


async def _added(site: Site, name: str, executor: Executor) -> _History:
    few = await _history(site, f"{name}-{_FEW}", _FEW, executor)
    many = await _history(site, f"{name}-{_MANY}", _MANY, executor)
    return _History((many.events - few.events) / (_MANY - _FEW), (many.size - few.size) / (_MANY - _FEW))


async def _history(site: Site, task_id: str, size: int, executor: Executor) -> _History:
    """Return how long the history of a task is that has come to its review."""
    names = [f"part-{number}" for number in range(size)]
    plan = PlanDraft(
        workstreams=tuple(WorkstreamDraft(id=name, title=f"Part {name}", executor=executor) for name in names)
    )
    task = TaskInput(task_id=task_id, title=task_id, by="ann", command_id=new_command_id(), spec="Do it.", plan=plan)
    await site.podctl.create_task(task)
    await site.podctl.execute_task(task_id, ApproveSpec(revision=1), by="ann")
    await site.podctl.execute_task(task_id, ApprovePlan(revision=1), by="ann")
    if isinstance(executor, SignalExecutor):
        for name in names:
            report = {"by": "ann", "workstream": name, "status": "completed", "result": "It is done, and it is good."}
            await site.podctl.signal_task(task_id, "workstream-result", report)
    async for state in follow_task(site.podctl, task_id):
        if state.phase is Phase.REVIEW:
            break
    described = await site.podctl.temporal.get_workflow_handle(task_workflow_id(task_id)).describe()
    return _History(described.history_length, described.raw_description.workflow_execution_info.history_size_bytes)
