"""What is known of each agent, how one ends, and what is asked about one that failed."""

from collections.abc import Callable
from datetime import datetime

from domain.errors import Rejected
from domain.task import messages
from domain.task.change import Change, names
from domain.task.models import (
    Agent,
    AgentStatus,
    AgentType,
    ApprovalRequest,
    GenerationStatus,
    Message,
    Phase,
    Result,
)
from domain.task.readiness import AGENT_PHASE, agent_basis, is_for

#: Agents that have ended and are still known; the event log has them all.
ENDED_KEPT = 50
ACTIVE_LIMIT = 100
#: Bytes of what an agent said last, and of its error.
OUTPUT_LIMIT = 4 * 1024
FAILURE_OPTIONS = ("retry", "write by hand", "cancel")

#: What an agent of a type makes, in words.
MAKES = {AgentType.SPEC_WRITER: "spec", AgentType.PLANNER: "plan", AgentType.REVIEWER: "review"}


def find(change: Change, agent_id: str) -> Agent:
    """Return an agent, or raise ``Rejected('agent_not_found')`` naming those there are."""
    agent = change.state.agents.get(agent_id)
    if agent is None:
        raise Rejected("agent_not_found", f"there is no agent {agent_id!r} in this task; {names(change.state.agents)}")
    return agent


def check_active(agent: Agent) -> None:
    """Raise ``Rejected('agent_not_running')`` for an agent that has not begun or has ended."""
    if agent.status is AgentStatus.PENDING_START:
        raise Rejected("agent_not_running", f"agent {agent.agent_id!r} has not started yet: it waits for a free slot")
    if not agent.active:
        raise Rejected(
            "agent_not_running",
            f"agent {agent.agent_id!r} is {agent.status.value}"
            + (f" ({agent.error[:200]})" if agent.error else "")
            + "; nothing is changed by what is said of it now",
        )


def add(change: Change, agent: Agent) -> None:
    """Take an agent on, as the newest."""
    if sum(known.active for known in change.state.agents.values()) >= ACTIVE_LIMIT:
        raise Rejected("too_many_agents", f"{ACTIVE_LIMIT} agents are at work on this task, which is the limit")
    # At the end, also where the id was there before: the oldest are forgotten first.
    others = {name: known for name, known in change.state.agents.items() if name != agent.agent_id}
    change.set(agents={**others, agent.agent_id: agent})


def update(change: Change, agent_id: str, **fields: object) -> None:
    """Replace fields of an agent."""
    agent = change.state.agents[agent_id].model_copy(update=fields)
    change.set(agents={**change.state.agents, agent_id: agent})


def end(
    change: Change,
    agent: Agent,
    status: AgentStatus,
    *,
    error: str | None = None,
    output: str = "",
    result: Result | None = None,
    retry_at: datetime | None = None,
) -> None:
    """End an agent. Its run is stopped, unless the run's own outcome is what ended it."""
    if agent.run is not None and (result is None or result.run is None):
        change.set(stopping_runs={**change.state.stopping_runs, agent.run.run_id: agent.run.pod})
    error = None if error is None else _end_of(error)
    update(
        change,
        agent.agent_id,
        status=status,
        run=None,
        cooldown_until=None,
        completed_at=change.now,
        output=_end_of(output),
        error=error,
    )
    set_generating(change, agent.agent_type, GenerationStatus.IDLE)
    messages.close_approvals(
        change,
        f"agent {agent.agent_id} has ended",
        lambda m: m.approval is not None and m.approval.agent_id == agent.agent_id and m.approval.subject == "question",
    )
    told = {"agent": agent.agent_id, "agent_type": agent.agent_type.value, "workstream": agent.workstream_id}
    if status is AgentStatus.COMPLETED:
        change.emit("agent_completed", **told, attempt=agent.attempt)
    elif status is AgentStatus.FAILED:
        change.emit(
            "agent_failed",
            **told,
            attempt=agent.attempt,
            error=error,
            retry_at=None if retry_at is None else retry_at.isoformat(),
        )
    else:
        change.emit("agent_interrupted", **told, attempt=agent.attempt, error=error)
    _forget_old(change)


def end_where(change: Change, about: Callable[[Agent], bool], reason: str) -> None:
    """Interrupt every agent at work that ``about`` picks."""
    for agent in [agent for agent in change.state.agents.values() if agent.active and about(agent)]:
        end(change, agent, AgentStatus.INTERRUPTED, error=reason)


def end_of_workstream(change: Change, ws_id: str, status: AgentStatus, reason: str | None) -> None:
    """End the agent of a workstream whose attempt has ended."""
    agent = change.state.agents.get(change.state.workstreams[ws_id].agent_id or "")
    if agent is not None and agent.active and agent.workstream_id == ws_id:
        end(change, agent, status, error=reason)


def end_with_phase(change: Change) -> None:
    """Stop agents whose phase is over."""
    phase = change.state.phase

    def over(agent: Agent) -> bool:
        return phase is not AGENT_PHASE.get(agent.agent_type, Phase.WORKSTREAM_EXECUTION)

    reason = f"the task moved on to {phase.replace('_', ' ')}"
    end_where(change, over, reason)
    for agent_type, at_work in AGENT_PHASE.items():
        if phase is not at_work:
            close_failures(change, agent_type, reason)


def written_by_hand(change: Change, agent_type: AgentType) -> None:
    """Stop agents whose work somebody else has just done; an agent that sends its own work goes on."""

    def superseded(agent: Agent) -> bool:
        return agent.agent_type is agent_type and agent.agent_id != change.by

    end_where(change, superseded, f"the {MAKES[agent_type]} was written by {change.by}")
    close_failures(change, agent_type, f"the {MAKES[agent_type]} was written by {change.by}")


def ask_about_failure(change: Change, agent: Agent, error: str) -> None:
    """Ask a person what becomes of an agent's work: it is not tried again by itself."""
    messages.post(
        change,
        f"{words(agent.agent_type)} {agent.agent_id} failed (attempt {agent.attempt}): {_end_of(error)}",
        message_type="approval",
        approval=ApprovalRequest(options=FAILURE_OPTIONS, subject="agent_failed", agent_id=agent.agent_id),
    )


def close_failures(change: Change, agent_type: AgentType, reason: str) -> None:
    """Close what was asked about failed agents of a type."""

    def failed(message: Message) -> bool:
        approval = message.approval
        if approval is None or approval.subject != "agent_failed" or approval.agent_id is None:
            return False
        agent = change.state.agents.get(approval.agent_id)
        return agent is None or agent.agent_type is agent_type

    messages.close_approvals(change, reason, failed)


def set_generating(change: Change, agent_type: AgentType, status: GenerationStatus) -> None:
    """Show how far an agent of a type is with the spec."""
    spec = change.state.spec
    if agent_type is AgentType.SPEC_WRITER and spec.generation_status is not status:
        change.set(spec=spec.model_copy(update={"generation_status": status}))


def words(agent_type: AgentType) -> str:
    """Return an agent's type as people say it."""
    return agent_type.value.replace("_", " ")


def _forget_old(change: Change) -> None:
    state = change.state
    current = [agent_basis(state, agent_type) for agent_type in AGENT_PHASE]
    asked = {m.approval.agent_id for m in state.open_approvals() if m.approval is not None}
    ended = [
        agent.agent_id
        for agent in state.agents.values()
        if not agent.active and agent.agent_id not in asked and not any(is_for(agent, basis) for basis in current)
    ]
    kept = sum(not agent.active for agent in state.agents.values())
    forgotten = frozenset(ended[: max(0, kept - ENDED_KEPT)])
    if forgotten:
        change.set(agents={name: agent for name, agent in state.agents.items() if name not in forgotten})


def _end_of(text: str) -> str:
    return text.encode("utf-8", "replace")[-OUTPUT_LIMIT:].decode(errors="ignore")
