"""The queue for GPUs: who is started now, who waits, and for what."""

from datetime import timedelta

from domain.errors import Rejected
from domain.gpu.draft import Draft
from domain.gpu.failures import failure
from domain.gpu.leases import Lease, leases, taken_ports
from domain.gpu.models import GpuPodState, ModelServer, StartPlan
from domain.gpu.observation import Inventory
from domain.gpu.planning import plan_start, reserve
from domain.gpu.setup_rules import awaits_setup
from domain.ids import launch_id, parse_launch_id

#: An older inventory is looked at again before a start is planned on it: GPUs may have gone to somebody else.
INVENTORY_FRESH = timedelta(seconds=60)
#: How long a port that something else listened on is not tried again.
_BUSY_PORT_KEPT = timedelta(minutes=10)


def queue(state: GpuPodState) -> list[ModelServer]:
    """Return the servers that wait to be launched, first come first."""
    return sorted((s for s in state.servers.values() if s.state == "pending"), key=lambda s: (s.created_at, s.name))


def dispatch(draft: Draft) -> None:
    """Launch every waiting server for which there is room. Nothing is decided on a view of the machine that is old."""
    state = draft.state
    inventory = state.inventory
    if inventory is None or state.inventory_stale or state.reachable is False or state.removed or not queue(state):
        return
    if awaits_setup(state):
        return
    busy = {port: at for port, at in state.busy_ports.items() if draft.now - at < _BUSY_PORT_KEPT}
    if busy != state.busy_ports:
        draft.update(busy_ports=busy)
    decisions = _decide(draft.state, inventory)
    if all(isinstance(decision, Rejected) and _waits(server, decision) for server, decision in decisions):
        return
    if state.inventory_at is None or draft.now - state.inventory_at > INVENTORY_FRESH:
        draft.update(inventory_stale=True)
        return
    for server, decision in decisions:
        if isinstance(decision, StartPlan):
            _launch(draft, server, inventory, decision)
        elif not _waits(server, decision):
            reason = failure("no_room" if decision.code == "no_room" else "planning", decision.message)
            draft.rest(draft.fail(server, reason), "failed")


def waits_for(state: GpuPodState, server: ModelServer) -> str:
    """Return what a server waits for, in words; empty for one that is not in the queue."""
    if server.state != "pending":
        return ""
    if state.reachable is False:
        return f"the pod, unreachable since {state.since:%Y-%m-%d %H:%M:%S}: {state.unreachable_reason}"
    if state.inventory is None or state.inventory_stale:
        problem = f", which failed: {state.inspection_problem}" if state.inspection_problem else ""
        return f"a look at the machine's GPUs{problem}"
    if awaits_setup(state):
        return "the setup of the machine, which brings its vLLM"
    decisions = {waiting.name: decision for waiting, decision in _decide(state, state.inventory)}
    decision = decisions[server.name]
    if isinstance(decision, Rejected):
        return f"room: {decision.message}" if decision.code == "no_room" else decision.message
    return "its turn"


def _waits(server: ModelServer, rejected: Rejected) -> bool:
    return rejected.code in {"no_room", "launch_runs"} and server.wait


def _decide(state: GpuPodState, inventory: Inventory) -> list[tuple[ModelServer, StartPlan | Rejected]]:
    """Return what becomes of each waiting server, in the order of the queue.

    One that finds no room keeps later ones off the GPUs it will get, so that large ones do not starve.
    """
    held = leases(state)
    ports = set(taken_ports(state))
    decisions: list[tuple[ModelServer, StartPlan | Rejected]] = []
    for server in queue(state):
        try:
            _refuse_second(state, server)
            plan = plan_start(server.request, inventory, held, ports, models_path=state.models_path)
        except Rejected as rejected:
            decisions.append((server, rejected))
            if rejected.code == "no_room" and server.wait:
                held = held + reserve(server.request, inventory, held)
        else:
            decisions.append((server, plan))
            held = held + [Lease(gpu=gpu, share=plan.share, server=server.name) for gpu in plan.gpus]
            ports.update(plan.ports)
    return decisions


def _refuse_second(state: GpuPodState, server: ModelServer) -> None:
    """Raise Rejected ``launch_runs`` if a launch of this very server lives of which this state does not know.

    So it is when the workflow's history was reset to a point before it: nothing is concluded, and nothing doubled.
    """
    for orphan in state.orphans:
        parts = parse_launch_id(orphan.launch_id)
        if parts is not None and parts[:2] == (state.name, server.name) and orphan.owner == state.owner:
            how = f"which this pod has no memory of: end it with `podctl pods reap {state.name} {orphan.launch_id}`"
            raise Rejected(
                "launch_runs",
                f"the end of its launch {orphan.launch_id}, {'which is under way' if orphan.reap else how}",
            )


def _launch(draft: Draft, server: ModelServer, inventory: Inventory, plan: StartPlan) -> None:
    counter = draft.state.next_counter(server.name)
    identity = launch_id(draft.state.name, server.name, counter)
    indexes = [gpu.index for gpu in inventory.gpus if gpu.uuid in plan.gpus]
    draft.move(server, "launching", counter=counter, launch_id=identity, plan=plan)
    draft.emit(
        "lease_granted",
        by="podctl",
        server=server.name,
        launch_id=identity,
        gpus=list(plan.gpus),
        gpu_indexes=list(indexes),
        share=plan.share,
    )
    draft.emit(
        "server_launching",
        by="podctl",
        server=server.name,
        launch_id=identity,
        model=server.model,
        port=plan.port,
        exposed=server.request.expose or None,
        command=" ".join(plan.argv)[:1_000],
    )
