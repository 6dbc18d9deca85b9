"""What a program that runs for a task is told: the JSON that ``$PODCTL_INPUT`` names."""

from typing import Any

from pydantic import JsonValue

from domain.task.models import Agent, Rejection, TaskState
from domain.task.plan_text import plan_draft, plan_text
from domain.task.readiness import drafts
from domain.task.runs import AgentRun, RunSubject, WorkstreamRun, wanted_runs


def briefing(state: TaskState, subject: RunSubject) -> dict[str, JsonValue]:
    """Return what the program is told of the task and of its own part in it."""
    told: dict[str, Any] = {
        "task": state.task_id,
        "title": state.title,
        "phase": state.phase.value,
        "spec": {
            "revision": state.spec.revision,
            "content": state.spec.content,
            "requirements": list(state.spec.requirements),
            "acceptance_criteria": list(state.spec.acceptance_criteria),
        },
        "plan": None if state.plan is None else {"revision": state.plan.revision, "summary": state.plan.summary},
        "feedback": _feedback(state),
    }
    if isinstance(subject, WorkstreamRun):
        told["workstream"] = _workstream(state, subject)
    elif isinstance(subject, AgentRun):
        if state.plan is not None:
            told["plan"]["text"] = plan_text(plan_draft(state.plan))
        told["agent"] = _agent(state, state.agents[subject.agent_id])
    else:
        approval = state.actions[subject.action_id]
        told["action"] = {"id": approval.action_id, "reason": approval.reason, "comment": approval.comment}
    return told


def briefing_for_run(state: TaskState, run_id: str) -> dict[str, JsonValue] | None:
    """Return what the program of a run is told, or None if the task does not want that run (any more)."""
    wanted = next((wanted for wanted in wanted_runs(state) if wanted.run.run_id == run_id), None)
    return None if wanted is None else briefing(state, wanted.subject)


def _workstream(state: TaskState, subject: WorkstreamRun) -> dict[str, JsonValue]:
    draft = drafts(state)[subject.ws_id]
    dependencies: list[JsonValue] = []
    for name in draft.depends_on:
        done = state.workstreams[name]
        dependencies.append(
            {
                "id": name,
                "title": drafts(state)[name].title,
                "status": done.status.value,
                "result": "" if done.result is None else done.result.text,
                "artifacts": [] if done.result is None else list(done.result.artifacts),
            }
        )
    return {
        "id": draft.id,
        "title": draft.title,
        "description": draft.description,
        "attempt": subject.attempt,
        "dependencies": dependencies,
    }


def _agent(state: TaskState, agent: Agent) -> dict[str, JsonValue]:
    before = [a for a in state.agents.values() if a.agent_id != agent.agent_id]
    told: dict[str, JsonValue] = {
        "id": agent.agent_id,
        "type": agent.agent_type.value,
        "attempt": agent.attempt,
        "instructions": agent.instructions,
        "last_error": next((a.error for a in reversed(before) if a.basis == agent.basis), None),
    }
    if agent.agent_type == "reviewer":
        told["results"] = [
            {
                "id": ws.ws_id,
                "title": drafts(state)[ws.ws_id].title,
                "status": ws.status.value,
                "result": "" if ws.result is None else ws.result.text,
                "artifacts": [] if ws.result is None else list(ws.result.artifacts),
                "error": ws.error,
            }
            for ws in state.workstreams.values()
        ]
    return told


def _feedback(state: TaskState) -> dict[str, JsonValue]:
    """Return what people said when they last sent something back."""
    rejections: dict[str, Rejection | None] = {
        "spec": state.spec.rejection,
        "plan": None if state.plan is None else state.plan.rejection,
        "review": state.review.rejection,
    }
    return {
        name: {"by": said.by, "revision": said.revision, "comment": said.comment}
        for name, said in rejections.items()
        if said is not None
    }
