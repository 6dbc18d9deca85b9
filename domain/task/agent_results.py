"""What agents report: their work goes into spec, plan, review or workstream; a failure is tried again, then asked."""

from domain.errors import Rejected
from domain.task import agent_records, agents, documents, work
from domain.task.change import Change
from domain.task.commands import (
    AgentDone,
    AgentFailed,
    AgentInterrupted,
    CompleteWorkstream,
    FailWorkstream,
    InterruptAgent,
    InterruptWorkstream,
    UpdatePlan,
    UpdateSpec,
)
from domain.task.models import SCHEDULER, Agent, AgentStatus, AgentType, GenerationStatus, Result
from domain.task.size import fit

#: Characters of a program's last line that its agent's error takes over.
_REASON = 300


def agent_done(change: Change, command: AgentDone) -> None:
    """Take what an agent made. What cannot be used is refused to a person, and is a failure of a program."""
    agent = agent_records.find(change, command.agent_id)
    agent_records.check_active(agent)
    state, events = change.state, list(change.events)
    try:
        _take(change, agent, command)
        fit(change.state, state, growing=True)
    except Rejected as rejected:
        if change.by != SCHEDULER:
            raise
        change.state, change.events = state, events
        _fail(change, agent, f"what it made cannot be used: {rejected.message}", command.result, recoverable=None)


def agent_failed(change: Change, command: AgentFailed) -> None:
    """Take a failure: tried again after a growing delay while attempts are left, else a person decides."""
    agent = agent_records.find(change, command.agent_id)
    agent_records.check_active(agent)
    _fail(change, agent, command.error, command.result, recoverable=command.recoverable)


def agent_interrupted(change: Change, command: AgentInterrupted) -> None:
    """Take it that nobody saw how an agent's run ended. It is never just repeated: a person decides."""
    agent = agent_records.find(change, command.agent_id)
    agent_records.check_active(agent)
    agent_records.end(change, agent, AgentStatus.INTERRUPTED, error=command.reason)
    agent_records.ask_about_failure(change, agent, command.reason)


def interrupt_agent(change: Change, command: InterruptAgent) -> None:
    """End an agent's work on a person's word; a workstream's attempt ends with it."""
    agent = agent_records.find(change, command.agent_id)
    if not agent.active:
        agent_records.check_active(agent)
    reason = f"interrupted by {change.by}" + (f": {command.reason}" if command.reason else "")
    agent_records.end(change, agent, AgentStatus.INTERRUPTED, error=reason)
    if agent.workstream_id is not None:
        work.interrupt_workstream(change, InterruptWorkstream(ws_id=agent.workstream_id, reason=command.reason))


def _take(change: Change, agent: Agent, command: AgentDone) -> None:
    if agent.agent_type is AgentType.WORKSTREAM and agent.workstream_id is not None:
        result = command.result
        if command.text:
            result = result.model_copy(update={"text": command.text})
        work.complete_workstream(change, CompleteWorkstream(ws_id=agent.workstream_id, result=result))
        return
    agent_records.end(
        change, agent, AgentStatus.COMPLETED, output=command.text or command.result.text, result=command.result
    )
    if agent.agent_type is AgentType.PLANNER:
        if command.plan is None or not command.plan.workstreams:
            raise Rejected("plan_empty", f"{agent.agent_id} made no plan with workstreams: give one as plan")
        documents.update_plan(change, UpdatePlan(plan=command.plan))
        return
    if not command.text.strip():
        raise Rejected("content_empty", f"{agent.agent_id} made no text: give it as text")
    if agent.agent_type is AgentType.REVIEWER:
        documents.write_report(change, command.text)
        return
    documents.update_spec(change, UpdateSpec(content=command.text))
    ready = {"generation_status": GenerationStatus.READY_FOR_REVIEW}
    change.set(spec=change.state.spec.model_copy(update=ready))


def _fail(change: Change, agent: Agent, error: str, result: Result | None, *, recoverable: bool | None) -> None:
    if recoverable is None:
        recoverable = agent.workstream_id is None
    if agent.workstream_id is not None:
        agent_records.end(change, agent, AgentStatus.FAILED, error=error)
        work.fail_workstream(
            change, FailWorkstream(ws_id=agent.workstream_id, error=error, recoverable=recoverable, result=result)
        )
        return
    error = _with_reason(error, result)
    config = change.state.config
    if agent.executor is None or not recoverable or agent.attempt >= config.agent_attempts:
        agent_records.end(change, agent, AgentStatus.FAILED, error=error, result=result)
        if agent.executor is not None:
            agent_records.ask_about_failure(change, agent, error)
        return
    delays = config.failure_cooldown_seconds or (0.0,)
    retry_at = agents.try_again(change, agent, delays[min(agent.attempt, len(delays)) - 1])
    agent_records.end(change, agent, AgentStatus.FAILED, error=error, result=result, retry_at=retry_at)


def _with_reason(error: str, result: Result | None) -> str:
    """Return the error of a program that failed with the last line of what it printed, which mostly says why."""
    run = None if result is None else result.run
    if result is None or run is None or run.exit_code == 0 or not result.text.strip():
        return error
    return f"{error}: {result.text.strip().splitlines()[-1].strip()[:_REASON]}"
