"""Waiting for model servers: until one is ready, until one is gone, each change told on the way.

```
ServerFailed        the model server ended, or did not stop as it should; says why and what to try
```
"""

from collections.abc import AsyncIterator, Collection
from contextlib import aclosing
from dataclasses import dataclass

from domain.errors import Rejected
from domain.gpu.models import GpuPodState, ModelServer, Orphan
from domain.gpu.observation import StopStep
from domain.gpu.progress import Progress, later_progress
from domain.gpu.schedule import detail
from domain.ids import launch_id
from podctl.client import ClientError, PodctlClient
from podctl.listing import ServerRow, server_row
from podctl.live import and_every, follow_pod

#: Seconds between looks at what the watch says of a launch.
BEATS_INTERVAL = 1.0


class ServerFailed(ClientError):
    """A model server is not in the state that was asked for, and will not get there by itself."""


@dataclass(frozen=True)
class Starting:
    """How far a start is; while it loads also what its log tells."""

    row: ServerRow
    progress: Progress | None = None
    last_line: str = ""


async def until_ready(client: PodctlClient, pod: str, name: str) -> AsyncIterator[Starting]:
    """Give how far a start is, now and at each news, until the server is ready.

    What its log tells comes from the heartbeats of the pod's watch, which are read from the server: no way to the
    machine is needed for that, and it costs no history. They are a few seconds old; who wants each line reads the log.

    Raises ``ServerFailed`` with the reason and the end of its log, ``Rejected`` for an unknown server.
    """
    told: Starting | None = None
    progress: Progress | None = None
    async with aclosing(and_every(BEATS_INTERVAL, follow_pod(client, pod))) as states:
        async for state in states:
            server = state.server(name)
            loading = server.state == "loading"
            beat = (await client.pod_beats(pod)).get(server.launch_id or "") if loading else None
            line = (beat.last_line or "") if beat else ""
            progress = (
                later_progress(progress, (beat.stage if beat else None) or server.stage, line) if loading else None
            )
            news = Starting(server_row(state, server), progress, line)
            if news != told:
                told = news
                yield news
            if server.state == "ready":
                return
            _check_start(state, server)
    raise ServerFailed(f"pod {pod} was removed")


def _check_start(state: GpuPodState, server: ModelServer) -> None:
    """Raise ``ServerFailed`` for a server that will not become ready any more."""
    if server.retry_at is not None:
        return
    where = f"model server {server.name} on pod {state.name}"
    if server.failure is not None:
        tail = f"\nThe end of its log:\n{server.failure.log_tail}" if server.failure.log_tail else ""
        raise ServerFailed(
            f"{where} failed ({server.failure.type}): {server.failure.message}. {server.failure.advice}{tail}"
        )
    if server.finished or server.stop is not None:
        raise ServerFailed(f"{where} is {server.state.replace('_', ' ')}: somebody stopped it")


@dataclass(frozen=True)
class Stopping:
    """How far a stop is. ``step`` says what is done on the machine; empty where it does not tell."""

    row: ServerRow
    pod: GpuPodState
    step: str = ""


async def until_stopped(client: PodctlClient, pod: str, name: str) -> AsyncIterator[Stopping]:
    """Give how far a stop is, now and at each news, until it is verified.

    Raises ``ServerFailed`` if its GPU memory did not come back.
    """
    told: tuple[ServerRow, str] | None = None
    async with aclosing(and_every(BEATS_INTERVAL, follow_pod(client, pod))) as states:
        async for state in states:
            server = state.server(name)
            row = server_row(state, server)
            stopping = server.stop is not None and server.holds_lease
            step = (await client.pod_stops(pod)).get(server.launch_id or "") if stopping else None
            news = (row, _step_words(step))
            if news != told:
                told = news
                yield Stopping(row, state, news[1])
            if server.finished:
                return
            if server.state == "memory_unexplained":
                raise ServerFailed(_unexplained(state, server))
    raise ServerFailed(f"pod {pod} was removed")


#: What the podlet calls the steps of a stop.
_STEPS = {
    "term": "it was asked to end, {members} of its processes live",
    "kill": "it is killed, {members} of its processes live",
    "verify": "looking whether anything of it is left",
}


def _step_words(step: StopStep | None) -> str:
    return _STEPS[step.step].format(members=step.members) if step and step.step in _STEPS else ""


async def until_reaped(
    client: PodctlClient, pod: str, launches: Collection[str]
) -> AsyncIterator[tuple[GpuPodState, list[str]]]:
    """Give the pod, and how far the end of each of these orphans is, until none of them is left."""
    async with aclosing(and_every(BEATS_INTERVAL, follow_pod(client, pod))) as states:
        async for state in states:
            left = [orphan for orphan in state.orphans if orphan.launch_id in launches]
            if not left:
                return
            steps = await client.pod_stops(pod)
            yield state, [f"{one.launch_id}: {_reap_words(one, steps.get(one.launch_id))}" for one in left]


def _reap_words(orphan: Orphan, step: StopStep | None) -> str:
    if orphan.reap is not None and orphan.reap.retry_at is not None:
        return (
            f"could not be verified {orphan.reap.attempts} times, `podctl events --pod` says why; the next try is at "
            f"{orphan.reap.retry_at:%H:%M:%S} UTC"
        )
    return _step_words(step) or "is being ended"


def _unexplained(state: GpuPodState, server: ModelServer) -> str:
    """Return what is known of memory that did not come back, and what a person can do."""
    readings = server.stop_result.memory if server.stop_result else {}
    gpus = {gpu.uuid: f"GPU {gpu.index}" for gpu in (state.inventory.gpus if state.inventory else ())}
    memory = [
        f"{gpus.get(uuid, uuid)} {reading.before} MiB before its launch, {reading.now} MiB now"
        for uuid, reading in readings.items()
    ]
    return (
        f"model server {server.name} on pod {state.name} has stopped and none of its processes is left, but its GPU "
        f"memory did not come back ({'; '.join(memory) or 'nvidia-smi gives no figures'}): its GPUs stay leased. Look "
        f"who has it: podctl ssh {state.name} nvidia-smi. `podctl stop {server.name}` verifies it again; if the memory "
        f"is somebody else's: podctl stop {server.name} --accept-memory"
    )


async def until_launched(client: PodctlClient, pod: str, name: str, *, after: str | None) -> AsyncIterator[ServerRow]:
    """Give a model server's row now and at each change, until a launch of it that is not ``after`` is on the machine.

    The last row has that launch; it has ``after``, or none, if no other will come by itself. Raises ``Rejected`` for
    an unknown server.
    """
    told: ServerRow | None = None
    async with aclosing(follow_pod(client, pod)) as states:
        async for state in states:
            server = state.server(name)
            row = server_row(state, server)
            if row != told:
                told = row
                yield row
            is_there = server.launch_id not in {None, after} and server.state != "launching"
            if is_there or server.finished or server.state == "memory_unexplained":
                return


def launch_of(state: GpuPodState, name: str) -> str:
    """Return the launch id of a server's newest launch; one that waits for its next launch may have had one.

    Raises Rejected: ``server_not_found`` (says what there is), ``not_launched`` (says what it waits for).
    """
    server = state.server(name)
    if server.launch_id is not None:
        return server.launch_id
    if server.counter:
        return launch_id(state.name, name, server.counter)
    raise Rejected("not_launched", f"model server {name!r} has no log yet: {detail(state, server) or server.state}")
