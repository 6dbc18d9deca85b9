"""What has to be done now, as a pure function of the state. The workflow does it, the state does not change here."""

from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import Field

from domain.entity import Value
from domain.gpu.inventory import foreign_processes
from domain.gpu.models import Belief, GpuPodState, ModelServer, ShownState, StartPlan, Told, shown_state
from domain.gpu.queue import waits_for
from domain.gpu.setup import StepName, is_decided
from domain.ids import gpu_pod_workflow_id


class Launch(Value):
    """Launch a server under this id. Done again with the same id it finds the launch that is there."""

    type: Literal["launch"] = "launch"
    key: str
    server: str
    launch_id: str
    plan: StartPlan


class Stop(Value):
    """Stop a launch and verify it. ``grace`` is in seconds."""

    type: Literal["stop"] = "stop"
    key: str
    server: str
    launch_id: str
    grace: float


class Watch(Value):
    """Watch the machine; return as soon as it differs from these beliefs (``beliefs.differs``), or does not answer.

    With ``reachable`` None it returns at the first answer or failure; with False it already counts as unreachable,
    and it returns when the machine answers. ``boot`` (as ``known_boot``) and ``expected`` go back in the report.
    One whose key is no longer listed (the address changed, the pod was removed) is cancelled and its result dropped.
    """

    type: Literal["watch"] = "watch"
    key: str
    reachable: bool | None
    boot: str | None
    #: launch id -> what was last seen of it.
    beliefs: dict[str, Belief]
    #: Launches of this pod's servers that must be there.
    expected: tuple[str, ...]
    #: server -> its newest launch that was seen, and what stands for servers that are not listed: a newer one is news.
    counters: dict[str, int]
    counter_floor: int


class Inspect(Value):
    """Read the inventory and observe every launch. ``boot`` (as ``known_boot``) and ``expected`` go back in the report.

    That it cannot be done is ``InspectionFailed``.
    """

    type: Literal["inspect"] = "inspect"
    key: str
    boot: str | None
    expected: tuple[str, ...]
    #: The vLLM program to look at; None: the one on PATH.
    vllm: str | None = None


class SetUp(Value):
    """Do one step of a setup on the machine, as a launch of this id. Done again it finds the launch that is there."""

    type: Literal["set_up"] = "set_up"
    key: str
    launch_id: str
    step: StepName
    mount: tuple[str, ...]
    models_path: str
    spec: str
    version: str | None


class Notify(Value):
    """Tell a task about a server that it holds. Sent again with the same ``command_id`` it changes nothing."""

    type: Literal["notify"] = "notify"
    key: str
    command_id: str
    task_id: str
    pod: str
    server: str
    status: ShownState
    launch_id: str | None
    detail: str


class WakeAt(Value):
    """Look again at this time, whatever happens before."""

    type: Literal["wake_at"] = "wake_at"
    key: str
    at: datetime


Action = Annotated[Launch | Stop | Watch | Inspect | SetUp | Notify | WakeAt, Field(discriminator="type")]


def next_actions(state: GpuPodState, now: datetime) -> tuple[Action, ...]:
    """Return everything that should be under way. What is already under way under the same key is left alone.

    While the machine does not answer only the watch goes on: on return it is observed first, then acted on.
    """
    notices = tuple(_notices(state))
    if state.removed:
        return notices
    actions: list[Action] = []
    times: list[datetime] = []
    if state.boot is not None or state.reachable is False:
        actions.append(_watch(state))
    if state.reachable is not False:
        inspect_at = _inspect_at(state, now)
        if inspect_at is not None and state.inspect_not_before is not None:
            inspect_at = max(inspect_at, state.inspect_not_before)
        if inspect_at is not None and inspect_at <= now:
            actions.append(
                Inspect(
                    key=f"inspect/{state.address_revision}",
                    boot=state.boot,
                    expected=_expected(state),
                    vllm=state.vllm[-1].program if state.vllm else None,
                )
            )
        elif inspect_at is not None:
            times.append(inspect_at)
        for server in state.servers.values():
            action = _launch_or_stop(server)
            if server.stop is not None and server.stop.retry_at is not None and server.stop.retry_at > now:
                times.append(server.stop.retry_at)
            elif action is not None:
                actions.append(action)
        actions.extend(_set_up(state))
    # What the workers of one queue have begun goes on with those of the next when the pod gets another one.
    queue = state.task_queue
    actions = [action.model_copy(update={"key": f"{action.key}@{queue}"}) if queue else action for action in actions]
    actions.extend(notices)
    if times:
        actions.append(WakeAt(key="wake", at=min(times)))
    return tuple(actions)


def is_settled(state: GpuPodState) -> bool:
    """Return whether nothing is left to do, ever: the pod was removed and every holder knows."""
    return state.removed and not any(True for _ in _notices(state))


def detail(state: GpuPodState, server: ModelServer) -> str:
    """Return what a person wants to know beside the state: what it waits for, why it failed."""
    if shown_state(state, server) == "unreachable":
        return f"{state.unreachable_reason} (since {state.since:%Y-%m-%d %H:%M:%S}); it is left alone"
    if server.state == "pending":
        return f"waits for {waits_for(state, server)}"
    if server.failure is not None:
        return f"{server.failure.message}; {server.failure.advice}"
    if server.state == "memory_unexplained":
        return "stopped, but its GPU memory did not come back; the GPUs stay leased"
    return server.stage or "" if server.state == "loading" else ""


def _launch_or_stop(server: ModelServer) -> Launch | Stop | None:
    if server.launch_id is None or not server.holds_lease:
        return None
    if server.stop is not None:
        return Stop(
            key=f"stop/{server.launch_id}", server=server.name, launch_id=server.launch_id, grace=server.stop.grace
        )
    if server.state == "launching" and server.plan is not None:
        return Launch(
            key=f"launch/{server.launch_id}", server=server.name, launch_id=server.launch_id, plan=server.plan
        )
    return None


def _set_up(state: GpuPodState) -> list[SetUp]:
    setup = state.setup
    step = setup.current if setup is not None and setup.state == "running" else None
    if setup is None or step is None or is_decided(step):
        return []
    request = setup.request
    return [
        SetUp(
            key=f"setup/{setup.number}/{setup.round}/{step.name}",
            launch_id=setup.launch_id(state.name, step.name),
            step=step.name,
            mount=request.mount,
            models_path=request.models_path,
            spec=request.vllm,
            version=setup.version,
        )
    ]


def _watch(state: GpuPodState) -> Watch:
    beliefs = {orphan.launch_id: orphan.belief for orphan in state.orphans}
    for server in state.servers.values():
        if server.holds_lease and server.launch_id is not None and server.belief is not None:
            beliefs[server.launch_id] = server.belief
    return Watch(
        key=f"watch/{state.address_revision}",
        reachable=state.reachable,
        boot=state.boot,
        beliefs=beliefs,
        expected=_expected(state),
        # A launch that nobody has seen yet counts as a newer one: it may have died by the time it is first looked for.
        counters={s.name: s.counter - (s.holds_lease and s.belief is None) for s in state.servers.values()},
        counter_floor=state.counter_floor,
    )


def _expected(state: GpuPodState) -> tuple[str, ...]:
    """Return the launches that must be on the machine; one that is being launched may not be there yet."""
    held = [server for server in state.servers.values() if server.holds_lease and server.state != "launching"]
    return tuple(server.launch_id for server in held if server.launch_id is not None)


def _inspect_at(state: GpuPodState, now: datetime) -> datetime | None:
    """Return when the machine has to be looked at again; None: not at all.

    A healthy machine is not looked at: only where a server waits for what no watch reports, memory of processes
    that are not ours.
    """
    if state.inventory is None or state.inventory_at is None or state.inventory_stale:
        return now
    states = {server.state for server in state.servers.values()}
    if "memory_unexplained" in states or ("pending" in states and foreign_processes(state.inventory)):
        return state.inventory_at + timedelta(seconds=state.recheck_seconds)
    return None


def _notices(state: GpuPodState) -> list[Notify]:
    notices = []
    for server in state.servers.values():
        status = shown_state(state, server)
        for task_id in server.holders:
            if server.told.get(task_id) == Told(status=status, launch_id=server.launch_id):
                continue
            notices.append(
                Notify(
                    # Without the status: one notice per task and server at a time, so that they arrive in order.
                    key=f"notify/{task_id}/{server.name}",
                    command_id=f"{gpu_pod_workflow_id(state.name)}/{server.name}/{task_id}/{state.sequence}",
                    task_id=task_id,
                    pod=state.name,
                    server=server.name,
                    status=status,
                    launch_id=server.launch_id,
                    detail=detail(state, server),
                )
            )
    return notices
