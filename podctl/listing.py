"""Tasks, pods and model servers as rows and documents with stable field names: what ``-o json`` prints."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import JsonValue

from domain.gpu.inventory import describe_gpus
from domain.gpu.models import Failure, GpuPodState, ModelServer, shown_state
from domain.gpu.observation import Beat, Metrics
from domain.gpu.progress import later_progress
from domain.gpu.queue import queue, waits_for
from domain.gpu.schedule import detail
from domain.gpu.summary import pod_state
from domain.task import waits as task_waits
from domain.task.models import FINAL_PHASES, Phase, TaskState
from podctl.client import Summary


@dataclass(frozen=True)
class TaskRow:
    """One task, as the server's list shows it: no worker is asked."""

    task: str
    title: str
    #: A phase, or how Temporal ended a task that was not completed or cancelled: ``terminated``, ``failed`` …
    phase: str
    #: Workstreams completed or skipped, of all: ``2/4``.
    progress: str
    needs_approval: bool
    waits_for: tuple[str, ...]
    created_at: datetime
    closed_at: datetime | None


@dataclass(frozen=True)
class PodRow:
    """One GPU pod of this user. ``cached``: as it was at ``seen_at``, because no server could be asked."""

    name: str
    active: bool
    ssh: str
    #: ``new`` (never reached yet), ``reachable``, ``unreachable``; ``unknown`` if the server has no such pod.
    state: str
    since: str | None
    reason: str
    gpus: str
    #: State -> how many model servers are in it.
    servers: Mapping[str, int]
    #: The version that model servers are started with.
    vllm: str | None
    #: ``running: install``, ``completed``, ``failed: install``; None where none was asked for.
    setup: str | None
    cached: bool
    seen_at: str | None


@dataclass(frozen=True)
class ServerRow:
    """One model server of a pod, in whatever state."""

    name: str
    pod: str
    model: str
    state: str
    since: datetime
    #: Indexes of the GPUs it holds; empty for one that holds none.
    gpus: tuple[int, ...]
    port: int | None
    launch_id: str | None
    pid: int | None
    #: Tasks that need it; ``kept``: a person started it, so it stays without them.
    holders: tuple[str, ...]
    kept: bool
    created_at: datetime
    ready_at: datetime | None
    #: Place in the queue for GPUs, from 1; None for one that does not wait.
    queue_position: int | None
    waits_for: str
    stage: str | None
    failure: Failure | None
    detail: str
    #: When it is launched again: ``never``, ``on-failure`` or ``always``.
    restart: str = "never"
    #: How often it was, within the hour before the last time.
    restarts: int = 0
    #: When it will be; None where it will not.
    retry_at: datetime | None = None
    #: Seconds without a request after which it is stopped; None: it stays.
    idle_ttl: float | None = None
    #: Seconds that requests get at a stop.
    grace: float = 0.0
    #: It listens on every interface of the pod, not only on its loopback.
    expose: bool = False
    #: Why it is unhealthy; empty while it is not.
    unhealthy_reason: str = ""
    #: Somebody else started it, and it was taken over as it is.
    adopted: bool = False
    #: Requests that it works on, and those that wait inside it. These and the next four as it said a few seconds ago;
    #: None where it says nothing: it is not ready, or no worker watches the machine.
    requests_running: int | None = None
    requests_waiting: int | None = None
    #: Tokens that it generates in a second, over all requests.
    tokens_per_second: float | None = None
    #: Part of its KV cache that is in use, 0 to 1.
    kv_cache_usage: float | None = None
    #: Since when it has had no request; None while it has one.
    idle_since: datetime | None = None
    #: Last line of its log.
    last_line: str | None = None


@dataclass(frozen=True)
class OrphanRow:
    """One launch on a machine that no server of its pod owns."""

    launch_id: str
    pod: str
    #: Who launched it, as it says; None where it does not.
    owner: str | None
    #: It was this pod itself, before something of its state was lost.
    ours: bool
    #: Indexes of the GPUs it uses.
    gpus: tuple[int, ...]
    ports: tuple[int, ...]
    started_at: datetime | None
    #: It is being ended.
    reaping: bool


def task_row(summary: Summary) -> TaskRow:
    """Return a task's row."""
    memo = summary.memo
    phase = str(memo.get("phase", Phase.SPEC_CLARIFICATION.value))
    if summary.status not in {"running", "completed"} and phase not in FINAL_PHASES:
        phase = summary.status
    taken_up = "phase" in memo
    return TaskRow(
        task=summary.name,
        title=str(memo.get("title", "")),
        phase=phase,
        progress=str(memo.get("progress", "0/0")),
        needs_approval=bool(memo.get("needs_approval", False)),
        waits_for=tuple(_waits_for(memo)) if taken_up else ("a worker takes it up: podctl up",),
        created_at=summary.started_at,
        closed_at=summary.closed_at,
    )


def _waits_for(memo: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the memo says that a task waits for: people first."""
    for item in memo.get("inbox", ()):
        if "command" in item:
            yield f"{item['preview']}: {item['command']}"
    yield from memo.get("waits_for", ())


def task_document(state: TaskState) -> dict[str, JsonValue]:
    """Return a task whole, without the ledger of its commands, and what it waits for."""
    document: dict[str, JsonValue] = state.model_dump(mode="json", exclude={"ledger"})
    return {**document, "waits_for": [*task_waits.waits_for(state)]}


def pod_row(state: GpuPodState, *, active: bool) -> PodRow:
    """Return a pod's row as its workflow says."""
    counts: dict[str, int] = {}
    for server in state.servers.values():
        if not server.finished:
            shown = shown_state(state, server)
            counts[shown] = counts.get(shown, 0) + 1
    return PodRow(
        name=state.name,
        active=active,
        ssh=state.ssh.command,
        state=pod_state(state),
        since=state.since.isoformat(timespec="seconds"),
        reason=state.unreachable_reason,
        gpus=describe_gpus(state.inventory) if state.inventory else "",
        servers=counts,
        vllm=vllm_version(state),
        setup=setup_word(state),
        cached=False,
        seen_at=None,
    )


def vllm_version(state: GpuPodState) -> str | None:
    """Return the version of vLLM that a pod's model servers are started with, where that is known."""
    if state.vllm:
        return state.vllm[-1].version
    return state.inventory.vllm.version if state.inventory else None


def setup_word(state: GpuPodState) -> str | None:
    """Return how far a pod's setup is, in a word or two."""
    setup = state.setup
    if setup is None:
        return None
    at = setup.current.name if setup.current else setup.failure.step if setup.failure else ""
    return f"{setup.state}: {at}" if at else setup.state


def pod_document(state: GpuPodState, beats: Mapping[str, Beat]) -> dict[str, Any]:
    """Return a pod whole, without the ledger of its commands; its model servers are rows."""
    document: dict[str, Any] = state.model_dump(mode="json", exclude={"ledger", "servers"})
    return {**document, "state": pod_state(state), "servers": server_rows(state, beats)}


def server_rows(state: GpuPodState, beats: Mapping[str, Beat]) -> list[ServerRow]:
    """Return the model servers of a pod, also those that have finished; ``beats`` are what its watch says of them."""
    return [server_row(state, server, beats.get(server.launch_id or "")) for server in state.servers.values()]


def server_row(state: GpuPodState, server: ModelServer, beat: Beat | None = None) -> ServerRow:
    """Return a model server's row; ``beat`` is what the pod's watch says of its launch."""
    waiting = [waits.name for waits in queue(state)]
    beat = beat if server.may_have_process else None
    metrics = (beat and beat.metrics) or Metrics()
    return ServerRow(
        name=server.name,
        pod=state.name,
        model=server.model,
        state=shown_state(state, server),
        since=server.since,
        gpus=held_gpus(state, server),
        port=server.plan.port if server.plan and server.holds_lease else None,
        launch_id=server.launch_id,
        pid=server.pid,
        holders=server.holders,
        kept=server.kept,
        created_at=server.created_at,
        ready_at=server.ready_at,
        queue_position=waiting.index(server.name) + 1 if server.name in waiting else None,
        waits_for=waits_for(state, server),
        stage=server.stage,
        failure=server.failure,
        detail=(beat and _loading(server, beat)) or detail(state, server),
        restart=server.request.restart,
        restarts=len(server.restarts),
        retry_at=server.retry_at,
        idle_ttl=server.request.idle_ttl,
        grace=server.request.grace,
        expose=server.request.expose,
        unhealthy_reason=server.unhealthy_reason,
        adopted=server.adopted is not None,
        requests_running=_whole(metrics.running),
        requests_waiting=_whole(metrics.waiting),
        tokens_per_second=metrics.tokens_per_second,
        kv_cache_usage=metrics.kv_cache_usage,
        idle_since=beat.idle_since if beat else None,
        last_line=beat.last_line if beat else None,
    )


def _loading(server: ModelServer, beat: Beat) -> str:
    """Return how far a server that loads is; empty for any other."""
    progress = later_progress(None, server.stage, beat.last_line or "") if server.state == "loading" else None
    return progress.words if progress else ""


def _whole(count: float | None) -> int | None:
    return None if count is None else round(count)


def held_gpus(state: GpuPodState, server: ModelServer) -> tuple[int, ...]:
    """Return the indexes of the GPUs that a server holds now."""
    if server.plan is None or not server.holds_lease or state.inventory is None:
        return ()
    return tuple(gpu.index for gpu in state.inventory.gpus if gpu.uuid in server.plan.gpus)


def orphan_rows(state: GpuPodState) -> list[OrphanRow]:
    """Return the launches on a pod's machine that none of its servers owns."""
    indexes = {gpu.uuid: gpu.index for gpu in (state.inventory.gpus if state.inventory else ())}
    return [
        OrphanRow(
            launch_id=orphan.launch_id,
            pod=state.name,
            owner=orphan.owner,
            ours=bool(state.owner) and orphan.owner == state.owner,
            gpus=tuple(sorted(indexes[gpu.uuid] for gpu in orphan.gpus if gpu.uuid in indexes)),
            ports=orphan.ports,
            started_at=orphan.started_at,
            reaping=orphan.reap is not None,
        )
        for orphan in state.orphans
    ]
