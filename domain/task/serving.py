"""The model servers a task uses: wanted, attached, told of by their GPU pods, released."""

from domain.errors import Rejected
from domain.task import messages
from domain.task.change import Change, names
from domain.task.commands import ReleaseServer, ServerAttached, ServerAttachFailed, ServerChanged, ServerReleased
from domain.task.models import (
    DOWN,
    LET_GO,
    ApprovalRequest,
    AttachedServer,
    ServerStatus,
)
from domain.task.readiness import server_due_for_release, server_needed, servers_down

#: What a GPU pod can report; the others are the task's own words.
REPORTED = frozenset(ServerStatus) - {ServerStatus.WANTED, ServerStatus.ATTACHED, *LET_GO}
DETAIL_LIMIT = 1_000


def want_servers(change: Change) -> None:
    """Want every model server of the plan that is not there, as long as there is work to do.

    A server that is down was asked about; once work is taken up again, it is simply wanted again.
    """
    plan = change.state.plan
    if plan is None:
        return
    for spec in plan.model_servers.values():
        server = change.state.servers.get(spec.name)
        # One that is there under another description, or being released, is released first; server_released then
        # wants it as the plan has it.
        if server is None or server.status is ServerStatus.RELEASED or (server.status in DOWN and server.spec == spec):
            _want(change, AttachedServer(spec=spec, since=change.now))


def want_again(change: Change, name: str) -> None:
    """Ask the GPU pod once more for a server that is down."""
    _want(change, AttachedServer(spec=change.state.servers[name].spec, since=change.now))


def forget_released(change: Change) -> None:
    """Forget the servers that the task has given up and that the plan no longer names."""
    named = {} if change.state.plan is None else change.state.plan.model_servers
    servers = change.state.servers
    kept = {n: s for n, s in servers.items() if s.status is not ServerStatus.RELEASED or n in named}
    if len(kept) < len(servers):
        change.set(servers=kept)


def ask_about_servers(change: Change) -> None:
    """Keep exactly one open question for each needed server that is down."""
    down = {server.name: server for server in servers_down(change.state)}
    asked = {
        m.approval.server for m in change.state.open_approvals() if m.approval and m.approval.subject == "server_down"
    }
    gone = asked - down.keys()
    if gone:
        messages.close_approvals(
            change,
            "the model server is no longer down, or no longer needed",
            lambda m: m.approval is not None and m.approval.subject == "server_down" and m.approval.server in gone,
        )
    for name, server in down.items():
        if name in asked:
            continue
        reason = f": {server.detail}" if server.detail else ""
        messages.post(
            change,
            f"model server {name} ({server.model}) on pod {server.pod} is {server.status.replace('_', ' ')}{reason}",
            message_type="approval",
            approval=ApprovalRequest(options=("retry", "cancel"), subject="server_down", server=name),
        )


def server_attached(change: Change, command: ServerAttached) -> None:
    """The GPU pod counts the task as a holder. What it has reported since is newer and stays."""
    server = _find(change, command.name)
    if server.status is ServerStatus.WANTED:
        _set(change, server.model_copy(update={"status": ServerStatus.ATTACHED, "since": change.now}))


def server_attach_failed(change: Change, command: ServerAttachFailed) -> None:
    """The GPU pod refused: a person decides."""
    server = _find(change, command.name)
    if server.status is ServerStatus.WANTED:
        detail = f"{command.message} ({command.code})"[:DETAIL_LIMIT]
        _set(change, _changed(change, server, ServerStatus.FAILED, None, detail))


def server_changed(change: Change, command: ServerChanged) -> None:
    """The GPU pod reports a change. What happens to a server that is let go of is not the task's business."""
    server = _find(change, command.name)
    if server.pod != command.pod:
        raise Rejected(
            "server_not_found", f"model server {command.name!r} of this task is on {server.pod!r}, not {command.pod!r}"
        )
    if command.status not in REPORTED:
        listed = ", ".join(sorted(REPORTED))
        raise Rejected("invalid_status", f"a GPU pod cannot report {command.status.value!r}; it can report {listed}")
    if command.status is ServerStatus.READY and command.launch_id is None:
        raise Rejected("invalid_status", f"{command.name!r} is said to be ready, but not in which launch: launch_id")
    detail = command.detail[:DETAIL_LIMIT]
    said = (command.status, command.launch_id or server.launch_id, detail)
    if server.status not in LET_GO and said != (server.status, server.launch_id, server.detail):
        _set(change, _changed(change, server, *said))


def release_server(change: Change, command: ReleaseServer) -> None:
    """Begin to let go of a server. Whatever is wanted meanwhile, it is not ready again before it was released."""
    server = _find(change, command.name)
    if not server_due_for_release(change.state, server):
        raise Rejected(
            "server_in_use",
            f"model server {server.name!r} is {server.status.value}, and the task does not let go of it",
        )
    _set(change, _changed(change, server, ServerStatus.RELEASING, server.launch_id, ""))


def server_released(change: Change, command: ServerReleased) -> None:
    """The GPU pod no longer counts the task as a holder."""
    server = _find(change, command.name)
    if server.status is ServerStatus.RELEASING:
        _set(change, _changed(change, server, ServerStatus.RELEASED, server.launch_id, ""))
        spec = None if change.state.plan is None else change.state.plan.model_servers.get(server.name)
        if spec is not None:
            _want(change, AttachedServer(spec=spec, since=change.now))


def _want(change: Change, server: AttachedServer) -> None:
    if server_needed(change.state, server):
        _set(change, server)


def _changed(
    change: Change, server: AttachedServer, status: ServerStatus, launch_id: str | None, detail: str
) -> AttachedServer:
    since = server.since if status is server.status else change.now
    return server.model_copy(update={"status": status, "launch_id": launch_id, "detail": detail, "since": since})


def _set(change: Change, server: AttachedServer) -> None:
    change.put_server(server)
    change.emit(
        f"model_server_{server.status}",
        server=server.name,
        pod=server.pod,
        model=server.model,
        launch_id=server.launch_id,
        detail=server.detail,
    )


def _find(change: Change, name: str) -> AttachedServer:
    server = change.state.servers.get(name)
    if server is None:
        raise Rejected("server_not_found", f"this task uses no model server {name!r}; {names(change.state.servers)}")
    return server
