"""Agents: who writes a spec or a plan, reviews, or works on a workstream from outside. One record an attempt.

What their reports do to spec, plan, review and workstreams stands in ``agent_results``.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from domain.errors import Rejected
from domain.task import messages
from domain.task.change import Change, check_length, names
from domain.task.commands import (
    GeneratePlan,
    GenerateSpec,
    RegisterAgent,
    RestartAgent,
    StartAgent,
    UnregisterAgent,
)
from domain.task.models import (
    UNDER_WAY,
    Agent,
    AgentStatus,
    AgentType,
    ApprovalRequest,
    CommandExecutor,
    Executor,
    GenerationStatus,
    Message,
    Phase,
    Result,
    Run,
    TaskConfig,
    TaskState,
)
from domain.task.plan_rules import carries_secret
from domain.task.readiness import (
    AGENT_PHASE,
    active_agent,
    again,
    agent_basis,
    agent_executor,
    agent_wanted,
    free_slots,
    is_for,
    task_blocked,
)
from domain.task.runs import agent_run_id

#: Agents that have ended and are still known; the event log has them all.
ENDED_KEPT = 50
ACTIVE_LIMIT = 100
#: Bytes of what an agent said last, and of its error.
OUTPUT_LIMIT = 4 * 1024
FAILURE_OPTIONS = ("retry", "write by hand", "cancel")

_MAKES = {AgentType.SPEC_WRITER: "spec", AgentType.PLANNER: "plan", AgentType.REVIEWER: "review"}


# -- made and started ---------------------------------------------------------------------------------------------


def generate_spec(change: Change, command: GenerateSpec) -> None:
    """Have the configured spec writer write the spec, or write it anew."""
    request(change, AgentType.SPEC_WRITER, command.instructions)


def generate_plan(change: Change, command: GeneratePlan) -> None:
    """Have the configured planner write the plan, or write it anew."""
    request(change, AgentType.PLANNER, command.instructions)


def request(change: Change, agent_type: AgentType, instructions: str) -> None:
    """Have an agent started as soon as there is a slot, because a person wants it: its attempts count anew."""
    check_length("the instructions", instructions, messages.MESSAGE_LIMIT, "put a longer text into the spec")
    executor = agent_executor(change.state.config, agent_type)
    if executor is None:
        raise Rejected(
            "no_agent_configured",
            f"task {change.state.task_id!r} has no {_words(agent_type)}: set one as agents.{agent_type.value} in its "
            "config (podctl task config), or write it yourself",
        )
    active = active_agent(change.state, agent_type)
    if active is not None:
        raise Rejected(
            "agent_running",
            f"{_words(agent_type)} {active.agent_id} is {active.status.value} already: wait for it, or interrupt it "
            "first (podctl agents interrupt)",
        )
    _check_not_approved(change.state, agent_type)
    close_failures(change, agent_type, "it is tried again")
    number = change.state.agents_registered + 1
    basis = again(agent_basis(change.state, agent_type), number)
    agent = _add_pending(change, agent_type, executor, basis=basis, instructions=instructions)
    change.emit(
        "agent_requested",
        agent=agent.agent_id,
        agent_type=agent_type.value,
        instructions=instructions[:500],
    )


def start_agent(change: Change, command: StartAgent) -> None:
    """Begin an agent's work; its run id is decided and written down here, before anything runs."""
    state = change.state
    agent = next(
        (
            agent
            for agent in state.agents.values()
            if agent.status is AgentStatus.PENDING_START
            and (agent.agent_type, agent.basis) == (command.agent_type, command.basis)
        ),
        None,
    )
    if agent is None:
        agent = _first_attempt(change, command)
    if task_blocked(state):
        raise Rejected("awaiting_answer", f"agent {agent.agent_id!r} waits for the answer to a blocking question")
    if free_slots(state) <= 0:
        raise Rejected(
            "no_free_slot",
            f"{state.config.max_concurrent} workstreams and agents are in progress, which is the limit; wait or raise "
            "it",
        )
    executor = agent_executor(state.config, agent.agent_type) or agent.executor
    run = None
    if isinstance(executor, CommandExecutor):
        if executor.pod is None:
            raise Rejected("no_pod", f"the {_words(agent.agent_type)} does not say on which pod it runs")
        run = Run(run_id=agent_run_id(state.task_id, agent.agent_id, agent.attempt), pod=executor.pod)
    _update(
        change,
        agent.agent_id,
        status=AgentStatus.RUNNING,
        executor=executor,
        run=run,
        started_at=change.now,
        cooldown_until=None,
    )
    _set_generating(change, agent.agent_type, GenerationStatus.GENERATING)
    change.cool_down()
    change.emit(
        "agent_started",
        agent=agent.agent_id,
        agent_type=agent.agent_type.value,
        attempt=agent.attempt,
        basis=agent.basis,
        executor="signal" if run is None else "command",
        pod=None if run is None else run.pod,
        run_id=None if run is None else run.run_id,
    )


def register(change: Change, command: RegisterAgent) -> None:
    """Take it that somebody outside is at work; a workstream's agent speaks for it until it has ended."""
    state = change.state
    known = state.agents.get(command.agent_id)
    if known is not None and known.active:
        raise Rejected("duplicate_agent", f"agent {command.agent_id!r} is {known.status.value} already")
    if known is not None and known.executor is not None:
        raise Rejected("duplicate_agent", f"{command.agent_id!r} is an agent that podctl ran; take another id")
    if (command.workstream_id is not None) != (command.agent_type is AgentType.WORKSTREAM):
        raise Rejected(
            "wrong_agent_type", "an agent of type workstream names its workstream_id, and one of another type has none"
        )
    if command.workstream_id is None:
        _check_room_for(change, command.agent_type)
    else:
        _check_free_workstream(change, command.workstream_id)
    basis = (
        f"workstream/{command.workstream_id}/{state.workstreams[command.workstream_id].attempt}"
        if command.workstream_id is not None
        else agent_basis(state, command.agent_type)
    )
    _add(
        change,
        Agent(
            agent_id=command.agent_id,
            agent_type=command.agent_type,
            workstream_id=command.workstream_id,
            status=AgentStatus.RUNNING,
            basis=basis,
            attempt=1 if known is None else known.attempt + 1,
            created_at=change.now,
            started_at=change.now,
        ),
    )
    if command.workstream_id is not None:
        change.update_workstream(command.workstream_id, agent_id=command.agent_id)
    _set_generating(change, command.agent_type, GenerationStatus.GENERATING)
    change.emit(
        "agent_registered",
        agent=command.agent_id,
        agent_type=command.agent_type.value,
        workstream=command.workstream_id,
    )


def unregister(change: Change, command: UnregisterAgent) -> None:
    """Forget an agent that has ended."""
    agent = find(change, command.agent_id)
    if agent.active:
        raise Rejected(
            "agent_running",
            f"agent {agent.agent_id!r} is {agent.status.value}: it is interrupted, or reports, before it is forgotten",
        )
    messages.close_approvals(
        change,
        f"agent {agent.agent_id} was unregistered",
        lambda m: m.approval is not None and m.approval.agent_id == agent.agent_id,
    )
    change.set(agents={name: a for name, a in change.state.agents.items() if name != agent.agent_id})
    change.emit("agent_unregistered", agent=agent.agent_id)


def restart(change: Change, command: RestartAgent) -> None:
    """Have an agent that has ended try once more, as an agent of its own."""
    agent = find(change, command.agent_id)
    if agent.active:
        raise Rejected("agent_running", f"agent {agent.agent_id!r} is {agent.status.value}: interrupt it first")
    if agent.executor is None:
        raise Rejected(
            "agent_outside", f"agent {agent.agent_id!r} works outside of podctl: it registers again by itself"
        )
    phase = AGENT_PHASE[agent.agent_type]
    if change.state.phase is not phase:
        raise Rejected(
            "invalid_phase",
            f"a {_words(agent.agent_type)} works in phase {phase.value}, and the task is in {change.state.phase.value}",
        )
    request(change, agent.agent_type, command.instructions or agent.instructions)


def try_again(change: Change, agent: Agent, wait_seconds: float) -> datetime:
    """Have another attempt at the same input started after a while; return when."""
    due = change.now + timedelta(seconds=wait_seconds)
    if agent.executor is not None:
        _add_pending(
            change,
            agent.agent_type,
            agent.executor,
            basis=agent.basis,
            instructions=agent.instructions,
            attempt=agent.attempt + 1,
            cooldown_until=due if wait_seconds else None,
        )
    return due


# -- talk ---------------------------------------------------------------------------------------------------------


def await_input(change: Change, agent_id: str, message_id: str) -> None:
    """Let an agent wait for the answer to what it asks."""
    _update(change, agent_id, status=AgentStatus.AWAITING_INPUT)
    change.emit("agent_awaiting_input", agent=agent_id, message=message_id)


def answered(change: Change, agent_id: str) -> None:
    """Let an agent go on that was answered, unless it has asked something else that it waits for."""
    agent = change.state.agents.get(agent_id)
    if agent is None or not agent.active:
        return
    waits = any(
        m.approval is not None and m.approval.agent_id == agent_id and m.approval.blocking
        for m in change.state.open_approvals()
    )
    resumed = agent.status is AgentStatus.AWAITING_INPUT and not waits
    status = AgentStatus.RUNNING if resumed else agent.status
    _update(change, agent_id, status=status, turns=agent.turns + 1)
    if resumed:
        change.emit("agent_resumed", agent=agent_id, turns=agent.turns + 1)


# -- ended --------------------------------------------------------------------------------------------------------


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
    _update(
        change,
        agent.agent_id,
        status=status,
        run=None,
        cooldown_until=None,
        completed_at=change.now,
        output=_end_of(output),
        error=error,
    )
    _set_generating(change, agent.agent_type, GenerationStatus.IDLE)
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


def written_by_hand(change: Change, agent_type: AgentType) -> None:
    """Stop agents whose work somebody else has just done; an agent that sends its own work goes on."""

    def superseded(agent: Agent) -> bool:
        return agent.agent_type is agent_type and agent.agent_id != change.by

    end_where(change, superseded, f"the {_MAKES[agent_type]} was written by {change.by}")
    close_failures(change, agent_type, f"the {_MAKES[agent_type]} was written by {change.by}")


def ask_about_failure(change: Change, agent: Agent, error: str) -> None:
    """Ask a person what becomes of an agent's work: it is not tried again by itself."""
    messages.post(
        change,
        f"{_words(agent.agent_type)} {agent.agent_id} failed (attempt {agent.attempt}): {_end_of(error)}",
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


def evaluate(change: Change) -> None:
    """End cooldowns, so that the scheduler decides anew."""
    for agent in [agent for agent in change.state.agents.values() if agent.cooldown_until is not None]:
        _update(change, agent.agent_id, cooldown_until=None)


def config_changed(change: Change) -> None:
    """Stop agents that a person no longer wants, before they have begun."""
    config = change.state.config
    end_where(
        change,
        lambda agent: agent.status is AgentStatus.PENDING_START and agent_executor(config, agent.agent_type) is None,
        "it is no longer configured",
    )


def check_config(config: TaskConfig) -> None:
    """Raise ``Rejected`` for agents that could never start."""
    for agent_type in AGENT_PHASE:
        executor = agent_executor(config, agent_type)
        if not isinstance(executor, CommandExecutor):
            continue
        if carries_secret(executor):
            raise Rejected(
                "secret_in_arguments",
                f"the command of agents.{agent_type.value} carries what looks like an access token; keep it in a file "
                "on the pod that the program reads",
            )
        if executor.pod is None:
            raise Rejected("no_pod", f"agents.{agent_type.value} does not say on which pod its program runs: pod")
        if executor.server is not None:
            raise Rejected(
                "agent_with_server",
                f"agents.{agent_type.value} names model server {executor.server!r}, but servers belong to a plan, "
                "which is not there yet: give the program the address of its model by environment",
            )


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


def _first_attempt(change: Change, command: StartAgent) -> Agent:
    executor = agent_executor(change.state.config, command.agent_type)
    if (
        executor is None
        or agent_wanted(change.state) is not command.agent_type
        or agent_basis(change.state, command.agent_type) != command.basis
    ):
        raise Rejected(
            "agent_not_wanted", f"the task needs no {_words(command.agent_type)} for {command.basis!r} just now"
        )
    return _add_pending(change, command.agent_type, executor, basis=command.basis)


def _add_pending(
    change: Change,
    agent_type: AgentType,
    executor: Executor,
    *,
    basis: str,
    instructions: str = "",
    attempt: int = 1,
    cooldown_until: datetime | None = None,
) -> Agent:
    number = change.state.agents_registered + 1
    stem = agent_type.value.replace("_", "-")
    while f"{stem}-{number}" in change.state.agents:
        number += 1
    change.set(agents_registered=number)
    agent = Agent(
        agent_id=f"{stem}-{number}",
        agent_type=agent_type,
        executor=executor,
        basis=basis,
        instructions=instructions,
        attempt=attempt,
        cooldown_until=cooldown_until,
        created_at=change.now,
    )
    _add(change, agent)
    return agent


def _add(change: Change, agent: Agent) -> None:
    if sum(known.active for known in change.state.agents.values()) >= ACTIVE_LIMIT:
        raise Rejected("too_many_agents", f"{ACTIVE_LIMIT} agents are at work on this task, which is the limit")
    # At the end, also where the id was there before: the oldest are forgotten first.
    others = {name: known for name, known in change.state.agents.items() if name != agent.agent_id}
    change.set(agents={**others, agent.agent_id: agent})


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


def _update(change: Change, agent_id: str, **fields: object) -> None:
    agent = change.state.agents[agent_id].model_copy(update=fields)
    change.set(agents={**change.state.agents, agent_id: agent})


def _set_generating(change: Change, agent_type: AgentType, status: GenerationStatus) -> None:
    spec = change.state.spec
    if agent_type is AgentType.SPEC_WRITER and spec.generation_status is not status:
        change.set(spec=spec.model_copy(update={"generation_status": status}))


def _check_not_approved(state: TaskState, agent_type: AgentType) -> None:
    if agent_type is AgentType.REVIEWER:
        if state.review.approval is not None:
            raise Rejected("already_approved", f"the work was accepted by {state.review.approval.by}")
        return
    what = _MAKES[agent_type]
    document = state.spec if agent_type is AgentType.SPEC_WRITER else state.plan
    if document is not None and document.approval is not None:
        raise Rejected(
            "already_approved",
            f"the {what} was approved by {document.approval.by}: reopen it first "
            f"(podctl {what} reopen {state.task_id})",
        )


def _check_room_for(change: Change, agent_type: AgentType) -> None:
    phase = AGENT_PHASE[agent_type]
    if change.state.phase is not phase:
        raise Rejected(
            "invalid_phase",
            f"a {_words(agent_type)} works in phase {phase.value}, and the task is in {change.state.phase.value}",
        )
    active = active_agent(change.state, agent_type)
    if active is not None:
        raise Rejected("agent_running", f"{active.agent_id!r} is at work as {_words(agent_type)} already")


def _check_free_workstream(change: Change, ws_id: str) -> None:
    workstream = change.workstream(ws_id)
    if workstream.status not in UNDER_WAY:
        raise Rejected(
            "workstream_not_in_progress",
            f"workstream {ws_id!r} is {workstream.status.value}; an agent registers for one that is in progress",
        )
    at_work = change.state.agents.get(workstream.agent_id or "")
    if at_work is not None and at_work.active:
        raise Rejected("agent_running", f"{at_work.agent_id!r} is at work on workstream {ws_id!r} already")


def _words(agent_type: AgentType) -> str:
    return agent_type.value.replace("_", " ")


def _end_of(text: str) -> str:
    return text.encode("utf-8", "replace")[-OUTPUT_LIMIT:].decode(errors="ignore")
