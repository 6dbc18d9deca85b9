"""What `podctl status` shows: the processes of `podctl up`, the server that commands go to, and who works for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from temporalio.service import RPCError

from podctl import embedded
from podctl.client import PodctlClient
from podctl.connection import NoServer, connect_to, target
from podctl.namespace import Poller, pollers, unserved
from podctl.paths import PodctlPaths
from workflows.task_queues import DEFAULT_TASK_QUEUE

State = Literal["running", "gone", "not started", "ok", "unreachable", "none"]


@dataclass(frozen=True)
class Part:
    """One line of the status."""

    name: str
    state: State
    detail: str


@dataclass(frozen=True)
class SystemStatus:
    """Everything that `podctl status` shows; ``advice`` is empty when there is nothing to do."""

    parts: tuple[Part, ...]
    address: str
    namespace: str
    source: str
    reachable: bool
    workers: tuple[Poller, ...]
    ui_address: str | None
    data: str
    advice: str


async def system_status(paths: PodctlPaths) -> SystemStatus:
    """Look at processes and server; changes nothing. An unreachable server is an answer, not an error."""
    processes = embedded.status(paths)
    chosen = target(paths)
    parts = [_server_part(processes), _worker_part(processes)]
    workers: tuple[Poller, ...] = ()
    advice = ""
    waiting: Mapping[str, tuple[str, ...]] = {}
    try:
        client = await connect_to(chosen)
        workers = await pollers(client, DEFAULT_TASK_QUEUE)
        waiting = await unserved(client, await PodctlClient(client).pods())
        reachable = True
        parts.append(Part("connection", "ok", f"{chosen.address}, namespace {chosen.namespace} ({chosen.source})"))
    except (NoServer, RPCError) as error:
        reachable = False
        parts.append(Part("connection", "unreachable", f"{chosen.address}, namespace {chosen.namespace}"))
        advice = str(error)
    if workers:
        asked = max(0, round((datetime.now(UTC) - workers[0].last_asked).total_seconds()))
        parts.append(Part("workers", "ok", f"{len(workers)}, the last one asked for work {asked} s ago"))
    elif reachable:
        parts.append(Part("workers", "none", "nobody asked for work in the last minutes"))
        advice = "tasks wait until a worker runs: `podctl up`, or `podctl worker`"
    for queue, pods in waiting.items():
        parts.append(Part(f"workers of {queue}", "none", f"no worker polls task queue {queue}: {', '.join(pods)}"))
        advice = advice or f"where the key of those machines is: podctl worker --task-queue {queue}"
    return SystemStatus(
        parts=tuple(parts),
        address=chosen.address,
        namespace=chosen.namespace,
        source=chosen.source,
        reachable=reachable,
        workers=workers,
        ui_address=processes.server.ui_address if processes.server and processes.server_alive else None,
        data=str(paths.data),
        advice=advice,
    )


def _server_part(processes: embedded.Status) -> Part:
    if processes.server is None:
        return Part("server", "not started", "`podctl up` runs one on this machine")
    if not processes.server_alive:
        return Part("server", "gone", f"process {processes.server.process.pid} ended: `podctl up` starts it again")
    return Part("server", "running", f"process {processes.server.process.pid}, Web UI {processes.server.ui_address}")


def _worker_part(processes: embedded.Status) -> Part:
    if processes.worker is None:
        return Part("worker", "not started", "`podctl up` runs one on this machine")
    if not processes.worker_alive:
        return Part("worker", "gone", f"process {processes.worker.process.pid} ended: `podctl up` starts it again")
    return Part("worker", "running", f"process {processes.worker.process.pid}")
