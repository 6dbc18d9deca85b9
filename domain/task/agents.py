"""Agents: who writes a spec or a plan, reviews, or works on a workstream from outside. One record an attempt.

How they end stands in ``agent_records``; what their reports do to spec, plan, review and workstreams, in
``agent_results``.
"""

from datetime import datetime, timedelta

from domain.errors import Rejected
from domain.gpu.arguments import redact
from domain.task import agent_records, messages
from domain.task.agent_records import MAKES, words
from domain.task.change import Change, check_length
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
    CommandExecutor,
    Executor,
    GenerationStatus,
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
            f"task {change.state.task_id!r} has no {words(agent_type)}: set one as agents.{agent_type.value} in its "
            "config (podctl task config), or write it yourself",
        )
    active = active_agent(change.state, agent_type)
    if active is not None:
        raise Rejected(
            "agent_running",
            f"{words(agent_type)} {active.agent_id} is {active.status.value} already: wait for it, or interrupt it "
            "first (podctl agents interrupt)",
        )
    _check_not_approved(change.state, agent_type)
    agent_records.close_failures(change, agent_type, "it is tried again")
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
            raise Rejected("no_pod", f"the {words(agent.agent_type)} does not say on which pod it runs")
        run = Run(run_id=agent_run_id(state.task_id, agent.agent_id, agent.attempt), pod=executor.pod)
    agent_records.update(
        change,
        agent.agent_id,
        status=AgentStatus.RUNNING,
        executor=executor,
        run=run,
        started_at=change.now,
        cooldown_until=None,
    )
    agent_records.set_generating(change, agent.agent_type, GenerationStatus.GENERATING)
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
    agent_records.add(
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
    agent_records.set_generating(change, command.agent_type, GenerationStatus.GENERATING)
    change.emit(
        "agent_registered",
        agent=command.agent_id,
        agent_type=command.agent_type.value,
        workstream=command.workstream_id,
    )


def unregister(change: Change, command: UnregisterAgent) -> None:
    """Forget an agent that has ended, unless it alone tells that podctl has started one for what there is now."""
    agent = agent_records.find(change, command.agent_id)
    if agent.active:
        raise Rejected(
            "agent_running",
            f"agent {agent.agent_id!r} is {agent.status.value}: it is interrupted, or reports, before it is forgotten",
        )
    if _only_one_for_now(change.state, agent):
        raise Rejected(
            "agent_kept",
            f"agent {agent.agent_id!r} stays known while what it was started for ({agent.basis}) is the newest, so "
            f"that podctl does not start it twice; have it tried again: podctl agents restart {change.state.task_id} "
            f"{agent.agent_id}",
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
    agent = agent_records.find(change, command.agent_id)
    if agent.active:
        raise Rejected("agent_running", f"agent {agent.agent_id!r} is {agent.status.value}: interrupt it first")
    if agent.executor is None:
        raise Rejected(
            "agent_outside", f"agent {agent.agent_id!r} works outside of podctl: it registers again by itself"
        )
    _check_phase(change.state, agent.agent_type)
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
    agent_records.update(change, agent_id, status=AgentStatus.AWAITING_INPUT)
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
    agent_records.update(change, agent_id, status=status, turns=agent.turns + 1)
    if resumed:
        change.emit("agent_resumed", agent=agent_id, turns=agent.turns + 1)


# -- settings -----------------------------------------------------------------------------------------------------


def evaluate(change: Change) -> None:
    """End cooldowns, so that the scheduler decides anew."""
    for agent in [agent for agent in change.state.agents.values() if agent.cooldown_until is not None]:
        agent_records.update(change, agent.agent_id, cooldown_until=None)


def config_changed(change: Change) -> None:
    """Stop agents that a person no longer wants, before they have begun."""
    config = change.state.config
    agent_records.end_where(
        change,
        lambda agent: agent.status is AgentStatus.PENDING_START and agent_executor(config, agent.agent_type) is None,
        "it is no longer configured",
    )


def check_config(config: TaskConfig) -> None:
    """Raise ``Rejected`` for agents that could never start, and for what looks like an access token."""
    if any(redact(argument) != argument for argument in config.notify):
        raise Rejected(
            "secret_in_arguments",
            "the notify hook carries what looks like an access token, which the task's history would keep; keep it in "
            "a file that the hook reads",
        )
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


def _first_attempt(change: Change, command: StartAgent) -> Agent:
    executor = agent_executor(change.state.config, command.agent_type)
    if (
        executor is None
        or agent_wanted(change.state) is not command.agent_type
        or agent_basis(change.state, command.agent_type) != command.basis
    ):
        raise Rejected(
            "agent_not_wanted",
            f"the task needs no {words(command.agent_type)} for {command.basis!r} just now",
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
    agent_records.add(change, agent)
    return agent


def _only_one_for_now(state: TaskState, agent: Agent) -> bool:
    basis = agent_basis(state, agent.agent_type)
    started = [
        known.agent_id
        for known in state.agents.values()
        if known.executor is not None and known.agent_type is agent.agent_type and is_for(known, basis)
    ]
    return started == [agent.agent_id]


def _check_not_approved(state: TaskState, agent_type: AgentType) -> None:
    if agent_type is AgentType.REVIEWER:
        if state.review.approval is not None:
            raise Rejected("already_approved", f"the work was accepted by {state.review.approval.by}")
        return
    what = MAKES[agent_type]
    document = state.spec if agent_type is AgentType.SPEC_WRITER else state.plan
    if document is not None and document.approval is not None:
        raise Rejected(
            "already_approved",
            f"the {what} was approved by {document.approval.by}: reopen it first "
            f"(podctl {what} reopen {state.task_id})",
        )


def _check_phase(state: TaskState, agent_type: AgentType) -> None:
    phase = AGENT_PHASE[agent_type]
    if state.phase is not phase:
        raise Rejected(
            "invalid_phase",
            f"a {words(agent_type)} works in phase {phase.value}, and the task is in {state.phase.value}",
        )


def _check_room_for(change: Change, agent_type: AgentType) -> None:
    _check_phase(change.state, agent_type)
    active = active_agent(change.state, agent_type)
    if active is not None:
        raise Rejected("agent_running", f"{active.agent_id!r} is at work as {words(agent_type)} already")


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
