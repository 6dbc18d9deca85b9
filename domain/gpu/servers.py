"""What people and tasks ask for: start, attach, detach, stop. Decided here, done by activities, reported later."""

from domain.errors import Rejected
from domain.gpu.commands import AcceptMemory, AttachServer, DetachServer, ServerDue, StartServer, StopServer
from domain.gpu.draft import Draft
from domain.gpu.models import GpuPodState, ModelServer, shown_state
from domain.gpu.planning import candidates
from domain.gpu.queue import dispatch, waits_for
from domain.gpu.request import StartRequest, check_request
from domain.gpu.restarts import describe


def start_server(draft: Draft, command: StartServer) -> None:
    """A person wants a server. Rejected: ``already_running``, ``no_room``, and what planning refuses."""
    request = command.request
    existing = draft.state.servers.get(request.name)
    if existing is not None and not existing.finished:
        raise Rejected("already_running", already_running(draft.state, existing))
    _check(draft.state, request)
    holders = existing.holders if existing is not None and existing.model == request.model else ()
    _queue(draft, request, existing, holders=holders, kept=True, wait=command.wait)


def attach_server(draft: Draft, command: AttachServer) -> None:
    """A task wants a server: it becomes a holder, and the server is started if it does not run.

    One that is just being stopped is started again as soon as that is verified. Rejected: ``name_taken`` where the
    name serves another model, and what planning refuses.
    """
    request, task_id = command.request, command.task_id
    existing = draft.state.servers.get(request.name)
    if existing is not None and not existing.finished and existing.model != request.model:
        raise Rejected(
            "name_taken",
            f"model server {request.name!r} on pod {draft.state.name!r} serves {existing.model}, not {request.model}: "
            "name the server of the plan differently",
        )
    if existing is None or existing.finished:
        _check(draft.state, request)
        holders = (*(existing.holders if existing else ()), task_id)
        _queue(draft, request, existing, holders=tuple(dict.fromkeys(holders)), kept=False, wait=True)
    elif task_id not in existing.holders:
        draft.change(existing, holders=(*existing.holders, task_id), wanted=True)
    else:
        draft.change(existing, wanted=True)
        return
    draft.emit("holder_added", server=request.name, task=task_id)


def detach_server(draft: Draft, command: DetachServer) -> None:
    """A task lets go of a server. Letting go of one that it does not hold changes nothing."""
    server = draft.state.servers.get(command.name)
    if server is not None and command.task_id in server.holders:
        release_holder(draft, server, command.task_id, why=f"task {command.task_id} no longer needs it")


def holder_gone(draft: Draft, task_id: str) -> None:
    """Let go of every server that a closed task held."""
    for server in list(draft.state.servers.values()):
        if task_id in server.holders:
            release_holder(draft, server, task_id, why=f"task {task_id} is closed")


def release_holder(draft: Draft, server: ModelServer, task_id: str, *, why: str) -> None:
    """Remove a holder; a server that nobody needs any more is stopped."""
    left = tuple(holder for holder in server.holders if holder != task_id)
    told = {task: what for task, what in server.told.items() if task != task_id}
    server = draft.change(server, holders=left, told=told)
    draft.emit("holder_removed", server=server.name, task=task_id, reason=why)
    if not left and not server.kept and server.wanted:
        _stop(draft, server, server.request.grace, why=f"{why}, and nobody else does")


def stop_server(draft: Draft, command: StopServer) -> None:
    """A person wants a server gone. Rejected: ``server_not_found``, ``not_running``."""
    server = draft.state.server(command.name)
    if server.finished:
        raise Rejected(
            "not_running",
            f"model server {server.name!r} on pod {draft.state.name!r} is {server.state} since "
            f"{server.since:%Y-%m-%d %H:%M:%S}: there is nothing to stop",
        )
    _stop(draft, server, server.request.grace if command.grace is None else command.grace, why="asked for")


def accept_memory(draft: Draft, command: AcceptMemory) -> None:
    """Release the lease of a server whose memory stayed unexplained. Rejected: ``nothing_to_accept``."""
    server = draft.state.server(command.name)
    if server.state != "memory_unexplained":
        raise Rejected(
            "nothing_to_accept",
            f"model server {server.name!r} is {shown_state(draft.state, server)}: only one that stopped with its GPU "
            "memory unexplained can be released by a person's word",
        )
    after_end(draft, draft.end(server, "memory_accepted", "failed" if server.failure else "stopped"))


def server_due(draft: Draft, command: ServerDue) -> None:
    """The time has come at which a server is launched again: it goes back into the queue. Rejected: ``not_due``."""
    server = draft.state.server(command.name)
    if server.state != "restarting" or server.retry_at is None or server.retry_at > draft.now:
        raise Rejected("not_due", f"model server {server.name!r} is {server.state}: nothing is due yet")
    # Whoever would not wait for its first launch was served then.
    requeue(draft, draft.change(server, wait=True, refused_launches=0))
    draft.emit("server_queued", by="podctl", server=server.name, reason=f"restart {len(server.restarts)}")


def requeue(draft: Draft, server: ModelServer) -> None:
    """Put a server whose last launch left nothing behind back into the queue, at the place it had."""
    fresh = ModelServer(
        name=server.name,
        request=server.request,
        since=draft.now,
        counter=server.counter,
        holders=server.holders,
        kept=server.kept,
        wait=server.wait,
        refused_launches=server.refused_launches,
        restarts=server.restarts,
        created_at=server.created_at,
        told=server.told,
    )
    draft.put(fresh)


def after_end(draft: Draft, server: ModelServer) -> None:
    """Start a server again that was wanted while its last launch was being stopped; one to be restarted waits."""
    if server.wanted and server.retry_at is None:
        requeue(draft, server)
        draft.emit("server_queued", by="podctl", server=server.name, reason="wanted again while it was being stopped")


def _check(state: GpuPodState, request: StartRequest) -> None:
    """Refuse at once what no waiting can cure, as far as the machine is known."""
    if state.inventory is None:
        check_request(request)
    else:
        candidates(request, state.inventory)


def _queue(
    draft: Draft,
    request: StartRequest,
    existing: ModelServer | None,
    *,
    holders: tuple[str, ...],
    kept: bool,
    wait: bool,
) -> None:
    server = ModelServer(
        name=request.name,
        request=request,
        since=draft.now,
        counter=existing.counter if existing else 0,
        holders=holders,
        kept=kept,
        wait=wait,
        created_at=draft.now,
        told={task: what for task, what in existing.told.items() if task in holders} if existing else {},
    )
    draft.put(server)
    draft.emit(
        "server_requested",
        server=request.name,
        model=request.model,
        gpus=request.gpus,
        memory=request.memory,
        context=request.context,
        arguments=list(request.arguments) if request.arguments is not None else None,
        restart=request.restart if request.restart != "never" else None,
        idle_ttl=request.idle_ttl,
        exposed=request.expose or None,
    )
    dispatch(draft)
    server = draft.state.servers[request.name]
    if server.failure is not None:
        raise Rejected(server.failure.type, f"{server.failure.message}; {server.failure.advice}")
    if server.state != "pending":
        return
    reason = waits_for(draft.state, server)
    if not wait and draft.state.reachable is False:
        raise Rejected("pod_unreachable", f"{request.name!r} cannot be started now: it would wait for {reason}")
    draft.emit("server_queued", by="podctl", server=request.name, reason=reason)


def _stop(draft: Draft, server: ModelServer, grace: float, *, why: str) -> None:
    """Bring a server that is not finished to its end, from whatever state it is in.

    One that is being stopped already is stopped sooner by a shorter grace.
    """
    server = draft.change(server, wanted=False, kept=False, retry_at=None)
    if server.state in {"pending", "restarting"}:
        waited = "launched" if server.state == "pending" else "launched again"
        draft.move(server, "stopped", failure=None)
        draft.emit("server_stopped", server=server.name, reason=f"{why}; it had not been {waited}")
    elif server.stop is None or grace < server.stop.grace:
        draft.order_stop(server, grace, why=why)


def already_running(state: GpuPodState, server: ModelServer) -> str:
    """Return why no server of this name can be started, and what to do then."""
    shown = shown_state(state, server)
    where = f" as launch {server.launch_id}" if server.launch_id else ""
    port = f", port {server.plan.port}" if server.plan else ""
    if server.state == "restarting":
        then = f"it is {describe(server)}; to start it anew, stop it first"
    elif server.stop is not None:
        then = "its last launch is still being stopped: try again when that is done"
    elif server.state == "memory_unexplained":
        then = "its GPU memory did not come back: `podctl stop` verifies it again"
    else:
        then = "stop it first, or choose another --name"
    since = f"since {server.since:%Y-%m-%d %H:%M:%S} UTC"
    return (
        f"model server {server.name!r} ({server.model}) is {shown} on pod {state.name!r} {since}{where}{port}; {then}"
    )
