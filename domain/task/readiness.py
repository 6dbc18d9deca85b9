"""What may start, and what is missing where it may not: asked by the rules and by the scheduler alike."""

from domain.task.models import (
    DOWN,
    SATISFIED,
    AttachedServer,
    CommandExecutor,
    Phase,
    RunAction,
    ServerStatus,
    TaskState,
    WorkstreamDraft,
    WorkstreamStatus,
)


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
    """Return how many more workstreams may be in progress; negative after the limit was lowered."""
    busy = [ws for ws in state.workstreams.values() if ws.status is WorkstreamStatus.IN_PROGRESS]
    return state.config.max_concurrent - len(busy)


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
    """Return whether the task has to tell the GPU pod that it no longer holds the server.

    Kept while unfinished work waits for the plan to be changed; given up when the plan no longer wants it so.
    """
    if server.status is ServerStatus.RELEASED:
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
        m.workstream_id is None and m.approval is not None and m.approval.blocking for m in state.open_approvals()
    )


def workstreams_asking(state: TaskState) -> frozenset[str]:
    """Return the workstreams that have a blocking question open."""
    return frozenset(
        m.workstream_id
        for m in state.open_approvals()
        if m.workstream_id is not None and m.approval is not None and m.approval.blocking
    )
