"""Where the output of a workstream or an action is: on the pod it ran on, under the id of its run."""

from dataclasses import dataclass

from domain.errors import Rejected
from domain.ids import run_id
from domain.task.models import CommandExecutor, TaskState
from domain.task.runs import agent_run_id


@dataclass(frozen=True)
class RunPlace:
    """One attempt of a ``command`` workstream, or what a granted action ran."""

    pod: str
    run_id: str


def run_place(state: TaskState, ws_id: str) -> RunPlace:
    """Return where the newest attempt of a workstream, or the run of an action, ran or runs.

    Raises Rejected: ``workstream_not_found`` (says what there is), ``no_output`` for work that people do, and
    ``not_started``.
    """
    agent = state.agents.get(ws_id)
    if agent is not None:
        if not isinstance(agent.executor, CommandExecutor) or agent.executor.pod is None:
            raise Rejected("no_output", f"agent {ws_id!r} works outside of podctl, which has no log of it")
        if agent.started_at is None:
            raise Rejected("not_started", f"agent {ws_id!r} has not started yet: it waits for a free slot")
        return RunPlace(pod=agent.executor.pod, run_id=agent_run_id(state.task_id, ws_id, agent.attempt))
    drafts = state.plan.workstreams if state.plan else {}
    action = state.actions.get(ws_id)
    if ws_id not in drafts and action is not None and action.run is not None:
        return RunPlace(pod=action.run.pod, run_id=action.run.run_id)
    draft = drafts.get(ws_id)
    if draft is None or state.plan is None:
        there = f"there are {', '.join(drafts)}" if drafts else "there are none yet"
        raise Rejected("workstream_not_found", f"task {state.task_id!r} has no workstream {ws_id!r}; {there}")
    workstream = state.workstreams.get(ws_id)
    if not isinstance(draft.executor, CommandExecutor):
        said = workstream.result.text if workstream and workstream.result else ""
        result = f"; what was reported: {said}" if said else f"; see podctl task show {state.task_id}"
        raise Rejected("no_output", f"workstream {ws_id!r} is done outside of podctl, which has no log of it{result}")
    if workstream is None or not workstream.attempt:
        raise Rejected(
            "not_started",
            f"workstream {ws_id!r} has not started yet: podctl task show {state.task_id} says what it waits for",
        )
    pod = workstream.run.pod if workstream.run else state.plan.pod_of(draft.executor)
    if pod is None:
        raise Rejected("no_output", f"the plan no longer says on which pod workstream {ws_id!r} runs")
    return RunPlace(pod=pod, run_id=run_id(state.task_id, ws_id, workstream.attempt))
