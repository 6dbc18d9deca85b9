"""What may start, and what is missing where it may not: asked by the rules and by the scheduler alike."""

from typing import Final

from domain.task.models import (
    DOWN,
    LET_GO,
    SATISFIED,
    UNDER_WAY,
    Agent,
    AgentStatus,
    AgentType,
    AttachedServer,
    CommandExecutor,
    Executor,
    Phase,
    RunAction,
    ServerStatus,
    TaskConfig,
    TaskState,
    WorkstreamDraft,
    WorkstreamStatus,
)

#: Who does a phase's own work.
AGENT_PHASE: Final = {
    AgentType.SPEC_WRITER: Phase.SPEC_CLARIFICATION,
    AgentType.PLANNER: Phase.PLANNING,
    AgentType.REVIEWER: Phase.REVIEW,
}
#: Put between the input of an agent and a number, where a person has it started once more for the same input.
_AGAIN = "/again-"


def drafts(state: TaskState) -> dict[str, WorkstreamDraft]:
    """Return what the plan says of each workstream, in plan order."""
    return {} if state.plan is None else state.plan.workstreams


def missing_dependencies(state: TaskState, draft: WorkstreamDraft) -> tuple[str, ...]:
    """Return the dependencies that are neither completed nor skipped."""
    if not draft.depends_on:
        return ()
    workstreams = state.workstreams
    return tuple([name for name in draft.depends_on if workstreams[name].status not in SATISFIED])


def free_slots(state: TaskState) -> int:
    """Return how many more workstreams and agents may be in progress; negative after the limit was lowered.

    An agent at work on a workstream takes no slot beside it.
    """
    busy = sum(ws.status is WorkstreamStatus.IN_PROGRESS for ws in state.workstreams.values())
    busy += sum(a.status is AgentStatus.RUNNING and a.workstream_id is None for a in state.agents.values())
    return state.config.max_concurrent - busy


def stopping_run(state: TaskState, ws_id: str) -> tuple[str, str] | None:
    """Return run id and pod of an earlier attempt's run that has to end and is not known to have, if there is one.

    The attempts of a workstream share a folder: the next one starts when the last is verified gone, wherever it ran.
    """
    earlier = f"{state.task_id}/{ws_id}"
    stopping = state.stopping_runs.items()
    return next(((run_id, pod) for run_id, pod in stopping if run_id.rpartition("/")[0] == earlier), None)


def agent_executor(config: TaskConfig, agent_type: AgentType) -> Executor | None:
    """Return how the task's agent of a type works; None: people do its work."""
    agents = config.agents
    return {
        AgentType.SPEC_WRITER: agents.spec_writer,
        AgentType.PLANNER: agents.planner,
        AgentType.REVIEWER: agents.reviewer,
    }.get(agent_type)


def agent_basis(state: TaskState, agent_type: AgentType) -> str:
    """Return what an agent of a type works on now: by itself none is started twice for the same."""
    if agent_type is AgentType.SPEC_WRITER:
        return f"spec/{state.spec.revision}"
    if agent_type is AgentType.PLANNER:
        return f"plan/{state.spec.revision}/{0 if state.plan is None else state.plan.revision}"
    # Not of the review's revision, which the report itself raises.
    return f"review/{state.phase_changes}"


def is_for(agent: Agent, basis: str) -> bool:
    """Return whether an agent was made for this input, by itself or because a person wanted it again."""
    return agent.basis.partition(_AGAIN)[0] == basis


def again(basis: str, number: int) -> str:
    """Return the basis of an agent that a person wants for an input once more."""
    return f"{basis}{_AGAIN}{number}"


def active_agent(state: TaskState, agent_type: AgentType) -> Agent | None:
    """Return the agent of a type that has not ended, if there is one."""
    return next((a for a in state.agents.values() if a.agent_type is agent_type and a.active), None)


def agent_wanted(state: TaskState) -> AgentType | None:
    """Return the agent whose work the phase needs and has not had yet, where one is configured."""
    agent_type = next((kind for kind, phase in AGENT_PHASE.items() if phase is state.phase), None)
    if agent_type is None or agent_executor(state.config, agent_type) is None or not _to_be_made(state, agent_type):
        return None
    basis = agent_basis(state, agent_type)
    had = any(a.agent_type is agent_type and (a.active or is_for(a, basis)) for a in state.agents.values())
    return None if had else agent_type


def agent_at_work(state: TaskState, agent_type: AgentType) -> bool:
    """Return whether an agent of a type is at work, or about to be."""
    return agent_wanted(state) is agent_type or active_agent(state, agent_type) is not None


def agent_expected(state: TaskState, agent_type: AgentType) -> bool:
    """Return whether an agent's work may still come: it is at work, about to be, or failed and a person decides."""
    return agent_at_work(state, agent_type) or any(
        m.approval is not None
        and m.approval.subject == "agent_failed"
        and (agent := state.agents.get(m.approval.agent_id or "")) is not None
        and agent.agent_type is agent_type
        for m in state.open_approvals()
    )


def deadlocked(state: TaskState) -> tuple[str, ...]:
    """Return the workstreams that will never start by themselves although nothing is under way and nothing is asked."""
    if state.phase is not Phase.WORKSTREAM_EXECUTION or any(True for _ in state.open_approvals()):
        return ()
    stuck: list[str] = []
    for name, draft in drafts(state).items():
        ws = state.workstreams[name]
        if ws.status in UNDER_WAY:
            return ()
        if ws.status is WorkstreamStatus.BLOCKED:
            stuck.append(name)
        elif ws.status is WorkstreamStatus.PENDING:
            if not missing_dependencies(state, draft):
                return ()
            stuck.append(name)
    return tuple(stuck)


def _to_be_made(state: TaskState, agent_type: AgentType) -> bool:
    if agent_type is AgentType.SPEC_WRITER:
        return not state.spec.content.strip()
    if agent_type is AgentType.PLANNER:
        return state.plan is None or not state.plan.workstreams
    return state.review.approval is None and not state.review.report


def server_of(state: TaskState, draft: WorkstreamDraft) -> AttachedServer | None:
    """Return the model server whose address a workstream's command is given, if it uses one."""
    executor = draft.executor
    if isinstance(executor, CommandExecutor) and executor.server is not None:
        return state.servers[executor.server]
    return None


def server_ready(state: TaskState, server: AttachedServer) -> bool:
    """Return whether a command that uses the server may start: one under an older description will not do."""
    return server.status is ServerStatus.READY and server_needed(state, server)


def server_needed(state: TaskState, server: AttachedServer) -> bool:
    """Return whether work that is being done needs the server as the plan describes it."""
    return (
        state.phase is Phase.WORKSTREAM_EXECUTION
        and state.plan is not None
        and state.plan.model_servers.get(server.name) == server.spec
        and state.unfinished()
    )


def server_due_for_release(state: TaskState, server: AttachedServer) -> bool:
    """Return whether the task has to let go of the server.

    Kept while unfinished work waits for the plan to be changed; given up when the plan no longer wants it so.
    """
    if server.status in LET_GO:
        return False
    if state.final or state.plan is None or state.plan.model_servers.get(server.name) != server.spec:
        return True
    return not state.unfinished() and not _used_by_action(state, server)


def _used_by_action(state: TaskState, server: AttachedServer) -> bool:
    return any(
        action.status == "granted"
        and isinstance(action.action, RunAction)
        and action.action.executor.server == server.name
        for action in state.actions.values()
    )


def servers_down(state: TaskState) -> list[AttachedServer]:
    """Return the servers that are needed and do not come back by themselves."""
    if not any(server.status in DOWN for server in state.servers.values()):
        return []
    return [s for s in state.servers.values() if s.status in DOWN and server_needed(state, s)]


def task_blocked(state: TaskState) -> bool:
    """Return whether a blocking question to the whole task is open: nothing new starts until it is answered."""
    return any(
        m.workstream_id is None and m.approval is not None and m.approval.agent_id is None and m.approval.blocking
        for m in state.open_approvals()
    )


def workstreams_asking(state: TaskState) -> frozenset[str]:
    """Return the workstreams that have a blocking question open."""
    return frozenset(
        m.workstream_id
        for m in state.open_approvals()
        if m.workstream_id is not None and m.approval is not None and m.approval.blocking
    )
