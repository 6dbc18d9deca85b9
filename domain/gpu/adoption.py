"""Model servers that somebody else started and that become this pod's, as they are.

Decided here like a launch, under a launch id; the podlet finds the process and says what is true of it. Nothing is ever
stopped for an adopted server, nor is it stopped by podctl's own decision: it is listed, watched, and ended when a
person asks for it.
"""

from domain.errors import Rejected
from domain.gpu.commands import AdoptServer
from domain.gpu.draft import Draft
from domain.gpu.failures import failure
from domain.gpu.models import Adoption, ModelServer, StartPlan
from domain.gpu.observation import Observation
from domain.gpu.planning import DEFAULT_SHARE
from domain.gpu.servers import already_running
from domain.ids import launch_id


def adopt_server(draft: Draft, command: AdoptServer) -> None:
    """A person wants a running server taken over. Asked for again while it is one of ours, it changes nothing.

    Rejected: ``already_running``, ``port_taken``, ``not_looked_at``, ``gpu_missing``.
    """
    state, request = draft.state, command.request
    existing = state.servers.get(request.name)
    if existing is not None and not existing.finished:
        if existing.adopted == _adoption(command) and existing.plan is not None and existing.plan.port == command.port:
            return
        raise Rejected("already_running", already_running(state, existing))
    for server in state.servers.values():
        if server.holds_lease and server.plan is not None and command.port in server.plan.ports:
            raise Rejected("port_taken", f"port {command.port} of pod {state.name!r} is that of server {server.name!r}")
    counter = state.next_counter(request.name)
    identity = launch_id(state.name, request.name, counter)
    plan = _plan(draft, command)
    draft.put(
        ModelServer(
            name=request.name,
            request=request.model_copy(update={"restart": "never", "idle_ttl": None}),
            state="launching",
            since=draft.now,
            counter=counter,
            launch_id=identity,
            plan=plan,
            adopted=_adoption(command),
            kept=True,
            created_at=draft.now,
        )
    )
    draft.emit(
        "server_adopting",
        server=request.name,
        launch_id=identity,
        model=request.model,
        pid=command.pid,
        port=command.port,
        gpus=list(plan.gpus),
    )


def adopted(draft: Draft, server: ModelServer, seen: Observation) -> ModelServer:
    """Take in what the podlet found: GPUs and shares are those that the server really has."""
    plan = server.plan
    if plan is not None and seen.gpus:
        shares = {gpu.uuid: gpu.share for gpu in seen.gpus}
        plan = plan.model_copy(update={"gpus": tuple(shares), "share": max(shares.values())})
    server = draft.change(server, plan=plan)
    draft.emit(
        "server_adopted",
        by="podctl",
        server=server.name,
        launch_id=server.launch_id,
        pid=seen.pid,
        gpus=list(plan.gpus) if plan else None,
        share=plan.share if plan else None,
    )
    return server


def not_adopted(draft: Draft, server: ModelServer, why: str) -> None:
    """Note that nothing was taken over; the podlet refuses before it touches anything."""
    draft.end(draft.fail(server, failure("not_adopted", why)), "not_launched", "failed")


def _adoption(command: AdoptServer) -> Adoption:
    return Adoption(pid=command.pid, log=command.log)


def _plan(draft: Draft, command: AdoptServer) -> StartPlan:
    inventory = draft.state.inventory
    if inventory is None:
        raise Rejected(
            "not_looked_at",
            f"no worker has looked at pod {draft.state.name!r} yet: again when `podctl pods show` lists its GPUs",
        )
    uuids = {gpu.index: gpu.uuid for gpu in inventory.gpus}
    missing = [str(index) for index in command.gpus if index not in uuids]
    if missing:
        there = ", ".join(str(index) for index in uuids) or "none"
        raise Rejected("gpu_missing", f"pod {draft.state.name!r} has no GPU {', '.join(missing)}; it has: {there}")
    return StartPlan(
        gpus=tuple(uuids[index] for index in sorted(set(command.gpus))),
        share=DEFAULT_SHARE,
        port=command.port,
        # Which ones it uses inside is not known.
        internal_ports=(command.port, 0),
        argv=(),
        environment={},
        served_name=command.request.model,
    )
