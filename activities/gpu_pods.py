"""What is done on a GPU pod: look at it, watch it, launch a model server, stop a launch. All by the podlet."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any

from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from activities.secrets import SERVER_SECRETS, find_secrets
from activities.support import (
    DEFINITE_REFUSALS,
    MACHINE_ERRORS,
    heartbeating,
    pod_address,
    pod_address_for,
    pod_memo,
    remote_errors,
)
from domain.gpu.beliefs import differs, merge, newer
from domain.gpu.budgets import is_due, is_stalled
from domain.gpu.commands import (
    HolderGone,
    InspectionFailed,
    LaunchDone,
    LaunchFailed,
    PodObserved,
    PodUnreachable,
    StopDone,
    StopFailed,
)
from domain.gpu.models import Adoption, PodAddress, StartPlan
from domain.gpu.observation import Beat, Inventory, Observation, PodObservation, StopResult
from domain.ids import parse_launch_id, task_workflow_id
from remote.errors import PodletError, PodletUnusable, RemoteError, Unreachable
from remote.podlet import Line, Podlet
from workflows import names
from workflows.messages import (
    InspectInput,
    LaunchInput,
    LaunchOutput,
    LookOutput,
    StopInput,
    StopOutput,
    WatchInput,
)

#: Seconds between the podlet's signs of life.
WATCH_BEAT = 4.0
#: How often the podlet does what, in seconds; it knows for itself how often to ask a server for a completion.
WATCH_PACE = {"interval": 0.5, "beat": WATCH_BEAT}
#: A watch that was silent for this long is taken for a lost connection, in seconds.
WATCH_SILENCE = 3 * WATCH_BEAT
#: A lost connection is made again for this long before the machine counts as unreachable, in seconds: a flap is no
#: event.
UNREACHABLE_AFTER = 5.0
#: Seconds between looks at whether the tasks that hold servers still exist.
HOLDERS_INTERVAL = 60.0
#: What a beat tells anew of a launch.
_MOVES_ON = {"last_line", "log_size", "idle_seconds", "silent_seconds"}


class GpuPodActivities:
    """The activities of ``GpuPodWorkflow``, and ``stop_launch`` for runs of tasks too."""

    def __init__(self, client: Client, podlet: Podlet) -> None:
        self._client = client
        self._podlet = podlet

    @activity.defn(name=names.INSPECT_POD)
    async def inspect_pod(self, look: InspectInput) -> LookOutput:
        """Return the machine's inventory and every launch on it, or why it could not be looked at."""
        address = await pod_address(self._client, look.pod)
        try:
            async with heartbeating():
                inventory = Inventory.model_validate(await self._podlet.call(address, "inventory", {"vllm": look.vllm}))
                seen = PodObservation.model_validate(await self._podlet.call(address, "observe", {"ids": None}))
                return LookOutput(report=await self._report(address, seen, look, inventory))
        except RemoteError as error:
            return LookOutput(report=InspectionFailed(reason=_short(error)))

    @activity.defn(name=names.WATCH_POD)
    async def watch_pod(self, watch: WatchInput) -> LookOutput:
        """Return as soon as the machine differs from what is believed of it; heartbeats carry what only moves on."""
        progress: dict[str, Any] = {}
        async with heartbeating(lambda: progress):
            looks = [
                asyncio.create_task(self._watch_machine(watch, progress)),
                asyncio.create_task(self._watch_holders(watch.pod)),
            ]
            try:
                done, _ = await asyncio.wait(looks, return_when=asyncio.FIRST_COMPLETED)
                return done.pop().result()
            finally:
                for look in looks:
                    look.cancel()
                await asyncio.gather(*looks, return_exceptions=True)

    @activity.defn(name=names.LAUNCH_SERVER)
    async def launch_server(self, launch: LaunchInput) -> LaunchOutput:
        """Launch a model server or adopt one, or find the launch of this id; return what the podlet says of it."""
        verb, request = _launch_request(launch) if launch.adopted is None else _adopt_request(launch, launch.adopted)
        async with remote_errors(), heartbeating():
            address = await pod_address(self._client, launch.pod)
            try:
                result = await self._podlet.call(address, verb, request)
            except PodletError as error:
                if error.code not in DEFINITE_REFUSALS | MACHINE_ERRORS:
                    raise
                return LaunchOutput(
                    report=LaunchFailed(launch_id=launch.launch_id, code=error.code, message=_short(error))
                )
            seen = Observation.model_validate(result)
            log_tail = await self._log_tail(address, launch.launch_id) if seen.exit is not None else ""
        return LaunchOutput(report=LaunchDone(launch_id=launch.launch_id, observation=seen, log_tail=log_tail))

    @activity.defn(name=names.STOP_LAUNCH)
    async def stop_launch(self, stop: StopInput) -> StopOutput:
        """Stop a launch and verify that nothing of it is left; repeating it is safe."""
        progress: dict[str, Any] = {"launch": stop.launch_id}
        async with remote_errors(), heartbeating(lambda: progress):
            address = await pod_address_for(self._client, stop.pod, stop.task_queue)
            try:
                async with self._podlet.stream(address, "stop", {"id": stop.launch_id, "grace": stop.grace}) as lines:
                    async for line in lines:
                        if line["type"] == "result":
                            result = StopResult.model_validate(line["result"])
                            return StopOutput(report=StopDone(launch_id=stop.launch_id, result=result))
                        progress.update(step=line.get("step"), members=line.get("members"))
            except PodletUnusable:
                raise
            except PodletError as error:
                return StopOutput(report=StopFailed(launch_id=stop.launch_id, code=error.code, message=_short(error)))
        raise AssertionError("a stream without a result raises")

    async def _watch_machine(self, watch: WatchInput, progress: dict[str, Any]) -> LookOutput:
        loop = asyncio.get_running_loop()
        lost_at: float | None = None
        while True:
            address = await pod_address(self._client, watch.pod)
            sight = _Sight(watch)
            try:
                async with self._podlet.stream(address, "watch", WATCH_PACE) as lines:
                    async for line in _unless_silent(lines, watch.pod):
                        lost_at = None
                        progress.pop("unreachable", None)
                        if line["type"] == "beat":
                            progress["launches"] = line["launches"]
                            sight.move_on([Beat.model_validate(beat) for beat in line["launches"]])
                        elif line["type"] == "change":
                            sight.change(PodObservation.model_validate(line))
                        if sight.seen is not None and sight.is_worth_a_report(loop.time()):
                            return LookOutput(report=await self._report(address, sight.seen, watch))
            except Unreachable as error:
                lost_at = loop.time() if lost_at is None else lost_at
                progress["unreachable"] = error.reason
                patience = UNREACHABLE_AFTER if watch.reachable else 0.0
                if watch.reachable is not False and loop.time() - lost_at >= patience:
                    return LookOutput(report=PodUnreachable(reason=error.reason))
                await asyncio.sleep(max(0.5, error.retry_after))
            except RemoteError as error:
                if watch.reachable is not False:
                    return LookOutput(report=PodUnreachable(reason=_short(error)))
                async with remote_errors():
                    # Tried again later by whichever worker is free: another one may have the key.
                    raise

    async def _watch_holders(self, pod: str) -> LookOutput:
        # Whoever holds a server now, not those of when the watch began: a healthy machine is watched for weeks.
        while True:
            await asyncio.sleep(HOLDERS_INTERVAL)
            memo = await pod_memo(self._client, pod)
            for task_id in memo.get("holders", ()):  # Temporal drops an empty list
                if not await self._is_open(task_id):
                    return LookOutput(report=HolderGone(task_id=task_id))

    async def _is_open(self, task_id: str) -> bool:
        try:
            described = await self._client.get_workflow_handle(task_workflow_id(task_id)).describe()
        except RPCError as error:
            if error.status == RPCStatusCode.NOT_FOUND:
                return False
            raise
        return described.status == WorkflowExecutionStatus.RUNNING

    async def _report(
        self,
        address: PodAddress,
        seen: PodObservation,
        look: InspectInput | WatchInput,
        inventory: Inventory | None = None,
    ) -> PodObserved:
        owned = _owned(look, seen)
        explained = [launch for launch in seen.launches if launch.id in owned and _needs_explanation(look, launch)]
        return PodObserved(
            boot=seen.boot,
            launches=_relevant(seen.launches, look.expected),
            inventory=inventory,
            known_boot=look.boot,
            expected=look.expected,
            log_tails={launch.id: await self._log_tail(address, launch.id) for launch in explained},
        )

    async def _log_tail(self, address: PodAddress, launch_id: str) -> str:
        return str((await self._podlet.call(address, "log_tail", {"id": launch_id}))["text"])


def _launch_request(launch: LaunchInput) -> tuple[str, dict[str, Any]]:
    plan = launch.plan
    return "launch", {
        "id": launch.launch_id,
        "kind": "server",
        "owner": launch.owner or None,
        "argv": list(plan.argv),
        "environment": plan.environment,
        "secrets": find_secrets(SERVER_SECRETS),
        "gpus": _gpu_shares(plan),
        "ports": [plan.port],
        "internal_ports": list(plan.internal_ports),
        "api_key": True,
        "served_name": plan.served_name,
    }


def _adopt_request(launch: LaunchInput, adopted: Adoption) -> tuple[str, dict[str, Any]]:
    return "adopt", {
        "id": launch.launch_id,
        "owner": launch.owner or None,
        "pid": adopted.pid,
        "port": launch.plan.port,
        "gpus": _gpu_shares(launch.plan),
        "log": adopted.log,
    }


def _gpu_shares(plan: StartPlan) -> list[dict[str, Any]]:
    return [{"uuid": uuid, "share": plan.share} for uuid in plan.gpus]


class _Sight:
    """What one unbroken watch has seen, and whether its pod's workflow should know.

    Begun anew with each connection: how long a server has been unhealthy counts from the first look that shows it,
    for nobody was there to see it recover before.
    """

    def __init__(self, watch: WatchInput) -> None:
        self.seen: PodObservation | None = None
        self._watch = watch
        self._unhealthy_since: dict[str, float] = {}

    def change(self, seen: PodObservation) -> None:
        """Take in a complete look."""
        self.seen = seen

    def move_on(self, beats: Sequence[Beat]) -> None:
        """Take in what only moves on."""
        if self.seen is None:
            return
        moved = {beat.id: beat.model_dump(include=_MOVES_ON) for beat in beats}
        launches = tuple(launch.model_copy(update=moved.get(launch.id, {})) for launch in self.seen.launches)
        self.seen = self.seen.model_copy(update={"launches": launches})

    def is_worth_a_report(self, now: float) -> bool:
        """Return whether it differs from what is believed, or time has come for one of the launches."""
        seen, watch = self.seen, self._watch
        if seen is None:
            return False
        return (
            watch.reachable is not True
            or seen.boot != watch.boot
            or differs(seen.launches, watch.beliefs, _owned(watch, seen))
            or any(self._is_due(launch, now) for launch in seen.launches)
        )

    def _is_due(self, launch: Observation, now: float) -> bool:
        if launch.healthy is not False:
            self._unhealthy_since.pop(launch.id, None)
        return is_due(
            merge(self._watch.beliefs.get(launch.id), launch),
            launch,
            unhealthy_seconds=now - self._unhealthy_since.setdefault(launch.id, now) if launch.healthy is False else 0,
            loading=self._watch.loading,
            idle_ttls=self._watch.idle_ttls,
            impatient=self._watch.impatient,
        )


def _needs_explanation(look: InspectInput | WatchInput, launch: Observation) -> bool:
    """Return whether the end of a launch's log belongs into the report."""
    if launch.exit is not None or not isinstance(look, WatchInput):
        return launch.exit is not None
    return launch.id in look.impatient or is_stalled(merge(look.beliefs.get(launch.id), launch), launch)


def _owned(look: InspectInput | WatchInput, seen: PodObservation) -> frozenset[str]:
    """Return the launches whose end matters to the pod's workflow."""
    if isinstance(look, InspectInput):
        # One that is being launched is not expected yet, and may have died in its first moments.
        unsettled = [launch.id for launch in seen.launches if launch.stopped is None]
        return frozenset(look.expected) | {one for one in unsettled if one.startswith(f"{look.pod}/")}
    return frozenset(look.expected) | newer(seen.launches, look.pod, look.counters, look.counter_floor)


def _relevant(launches: Sequence[Observation], expected: Collection[str]) -> tuple[Observation, ...]:
    """Return the launches of servers that live or are expected, and the newest of each server, for its counter.

    A machine keeps a record of every launch and every run; a report stays in history for ever.
    """
    servers = [launch for launch in launches if launch.kind == "server"]
    newest = {launch.id.rpartition("/")[0]: launch.id for launch in sorted(servers, key=_counter)}
    return tuple(
        launch
        for launch in servers
        if launch.alive or launch.id in expected or newest[launch.id.rpartition("/")[0]] == launch.id
    )


def _counter(launch: Observation) -> int:
    parts = parse_launch_id(launch.id)
    return parts[2] if parts is not None else 0


async def _unless_silent(lines: AsyncIterator[Line], pod: str) -> AsyncIterator[Line]:
    while True:
        try:
            async with asyncio.timeout(WATCH_SILENCE):
                line = await anext(lines)
        except StopAsyncIteration:
            raise Unreachable(pod, "the watch ended") from None
        except TimeoutError:
            raise Unreachable(pod, f"no sign of life for {WATCH_SILENCE:.0f} s") from None
        yield line


def _short(error: RemoteError) -> str:
    return str(error)[:2000]
