"""Who holds which part of which GPU, and which ports: derived from servers and orphans, stored nowhere."""

from domain.entity import Value
from domain.gpu.models import GpuPodState

#: Sums of shares are sums of decimal fractions: 0.3 + 0.3 + 0.4 is 1.
SHARE_TOLERANCE = 1e-6


class Lease(Value):
    """A part of one GPU's memory that is spoken for by ``server``."""

    gpu: str
    share: float
    server: str


def leases(state: GpuPodState) -> list[Lease]:
    """Return every lease: of servers of which something may be on the machine, and of launches nobody owns."""
    held = [
        Lease(gpu=gpu, share=server.plan.share, server=server.name)
        for server in state.servers.values()
        if server.holds_lease and server.plan is not None
        for gpu in server.plan.gpus
    ]
    held += [
        Lease(gpu=gpu.uuid, share=gpu.share, server=f"launch {orphan.launch_id}, which no server here owns")
        for orphan in state.orphans
        for gpu in orphan.gpus
    ]
    return held


def used_shares(held: list[Lease]) -> dict[str, float]:
    """Return GPU uuid -> sum of the shares leased on it."""
    used: dict[str, float] = {}
    for lease in held:
        used[lease.gpu] = used.get(lease.gpu, 0.0) + lease.share
    return used


def taken_ports(state: GpuPodState) -> frozenset[int]:
    """Return every port that a server here holds, inner ones included, and those found busy."""
    taken = set(state.busy_ports)
    for server in state.servers.values():
        if server.holds_lease and server.plan is not None:
            taken.update(server.plan.ports)
    for orphan in state.orphans:
        taken.update(orphan.ports)
    return frozenset(taken)
