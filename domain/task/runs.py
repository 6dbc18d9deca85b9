"""Programs that a task runs on GPU pods: a workstream's attempt, an agent's, a granted action's."""

from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple

from pydantic import Discriminator

from domain import ids
from domain.entity import Value
from domain.task.models import UNDER_WAY, AgentType, CommandExecutor, Executor, Run, RunAction, TaskState
from domain.task.readiness import drafts


class WorkstreamRun(Value):
    """One attempt of a workstream."""

    type: Literal["workstream"] = "workstream"
    ws_id: str
    attempt: int


class AgentRun(Value):
    """What an agent does; each attempt is an agent of its own."""

    type: Literal["agent"] = "agent"
    agent_id: str


class ActionRun(Value):
    """What a granted action runs, once."""

    type: Literal["action"] = "action"
    action_id: str


RunSubject = Annotated[WorkstreamRun | AgentRun | ActionRun, Discriminator("type")]


class WantedRun(NamedTuple):
    """A run that the state wants to have been carried out."""

    subject: WorkstreamRun | AgentRun | ActionRun
    run: Run
    executor: CommandExecutor
    #: What the program makes for the task, beside its output.
    makes: Literal["text", "plan"] | None = None


def agent_run_id(task_id: str, agent_id: str, attempt: int) -> str:
    """Return the run id of an agent. No workstream's name begins with an underscore."""
    return ids.run_id(task_id, f"_{agent_id}", attempt)


def action_run_id(task_id: str, action_id: str) -> str:
    """Return the run id of an action, which runs once."""
    return ids.run_id(task_id, f"_{action_id}", 1)


def wanted_runs(state: TaskState) -> Iterator[WantedRun]:
    """Yield every run whose outcome is waited for."""
    plan = drafts(state)
    for ws in state.workstreams.values():
        if ws.run is not None and ws.status in UNDER_WAY:
            subject = WorkstreamRun(ws_id=ws.ws_id, attempt=ws.attempt)
            yield from _wanted(subject, ws.run, plan[ws.ws_id].executor)
    for agent in state.agents.values():
        if agent.run is not None and agent.active:
            makes: Literal["text", "plan"] = "plan" if agent.agent_type is AgentType.PLANNER else "text"
            yield from _wanted(AgentRun(agent_id=agent.agent_id), agent.run, agent.executor, makes)
    for approval in state.actions.values():
        if approval.run is not None and approval.status == "granted" and isinstance(approval.action, RunAction):
            subject_of_action = ActionRun(action_id=approval.action_id)
            yield from _wanted(subject_of_action, approval.run, approval.action.executor)


def _wanted(
    subject: WorkstreamRun | AgentRun | ActionRun,
    run: Run,
    executor: Executor | None,
    makes: Literal["text", "plan"] | None = None,
) -> Iterator[WantedRun]:
    if isinstance(executor, CommandExecutor):
        yield WantedRun(subject, run, executor, makes)
