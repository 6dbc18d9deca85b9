"""What has to be done now, as a pure function of the state. The workflow does it, the state does not change here."""

from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import Field

from domain.entity import Value
from domain.gpu.commands import ServerDue
from domain.gpu.inventory import foreign_processes
from domain.gpu.models import (
    Adoption,
    Belief,
    GpuPodState,
    ModelServer,
    ShownState,
    StartPlan,
    Told,
    shown_state,
)
from domain.gpu.queue import waits_for
from domain.gpu.restarts import describe, limit
from domain.gpu.setup import StepName, is_decided
from domain.ids import gpu_pod_workflow_id


class Launch(Value):
    """Launch a server under this id. Done again with the same id it finds the launch that is there."""

    type: Literal["launch"] = "launch"
    key: str
    launch_id: str
    plan: StartPlan
    #: Marks the launch on the machine.
    owner: str
    #: Not to be launched, but taken over.
    adopted: Adoption | None = None


class Stop(Value):
    """Stop a launch and verify it. ``grace`` is in seconds; another grace is another action, which ends this one."""

    type: Literal["stop"] = "stop"
    key: str
    launch_id: str
    grace: float


class Watch(Value):
    """Watch the machine; return as soon as it differs from these beliefs (``beliefs.differs``), or does not answer.

    Also when time alone has made something worth a report (``budgets.is_due``). With ``reachable`` None it returns at
    the first answer or failure; with False it already counts as unreachable, and it returns when the machine answers.
    ``boot`` (as ``known_boot``) and ``expected`` go back in the report. One whose key is no longer listed (the address
    changed, the pod was removed) is cancelled and its result dropped.
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
    #: Launches that are to make progress until they are ready.
    loading: tuple[str, ...]
    #: launch id -> seconds without a request after which it is to be stopped.
    idle_ttls: dict[str, float]
    #: Launches that are unhealthy, and are to be ended if they stay so.
    impatient: tuple[str, ...]


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
    #: What is due then, in words.
    reason: str = "the next decision"


class Command(Value):
    """A decision of the rules' own, to be applied at once."""

    type: Literal["command"] = "command"
    key: str
    command_id: str
    command: ServerDue


Action = Annotated[Launch | Stop | Watch | Inspect | SetUp | Notify | WakeAt | Command, Field(discriminator="type")]


def next_actions(state: GpuPodState, now: datetime) -> tuple[Action, ...]:
    """Return everything that should be under way. What is already under way under the same key is left alone.

    While the machine does not answer only the watch goes on: on return it is observed first, then acted on.
    """
    notices = tuple(_notices(state))
    if state.removed:
        return notices
    timed: list[tuple[datetime | None, Action]] = list(_restarts(state))
    if state.boot is not None or state.reachable is False:
        timed.append((None, _watch(state)))
    if state.reachable is not False:
        timed += [*_inspection(state, now), *_launches(state), *_stops(state), *_set_up(state)]
    actions = [action for at, action in timed if at is None or at <= now]
    # What the workers of one queue have begun goes on with those of the next when the pod gets another one.
    queue = state.task_queue
    actions = [action.model_copy(update={"key": f"{action.key}@{queue}"}) if queue else action for action in actions]
    later = [at for at, _ in timed if at is not None and at > now]
    wake = [WakeAt(key="wake", at=min(later))] if later else []
    return (*actions, *notices, *wake)


def is_settled(state: GpuPodState) -> bool:
    """Return whether nothing is left to do, ever: the pod was removed and every holder knows."""
    return state.removed and not any(True for _ in _notices(state))


def detail(state: GpuPodState, server: ModelServer) -> str:
    """Return what a person wants to know beside the state: what it waits for, why it failed, when it comes back."""
    match shown_state(state, server):
        case "unreachable":
            said = f"{state.unreachable_reason} (since {state.since:%Y-%m-%d %H:%M:%S}); it is left alone"
        case "pending":
            said = f"waits for {waits_for(state, server)}"
        case "memory_unexplained":
            said = "stopped, but its GPU memory did not come back; the GPUs stay leased"
        case "loading":
            said = server.stage or ""
        case "unhealthy":
            said = server.unhealthy_reason
        case _ if server.retry_at is not None:
            why = server.failure.message if server.failure else "it was stopped on the machine"
            said = f"{why}; {describe(server)}"
        case _:
            said = f"{server.failure.message}; {server.failure.advice}" if server.failure else ""
    return said


def _restarts(state: GpuPodState) -> list[tuple[datetime | None, Command]]:
    return [
        (
            server.retry_at,
            Command(
                key=f"due/{server.name}",
                command_id=f"{server.name}/due/{state.sequence}",
                command=ServerDue(name=server.name),
            ),
        )
        for server in state.servers.values()
        if server.state == "restarting"
    ]


def _launches(state: GpuPodState) -> list[tuple[None, Launch]]:
    return [
        (
            None,
            Launch(
                key=f"launch/{server.launch_id}",
                launch_id=server.launch_id,
                plan=server.plan,
                owner=state.owner,
                adopted=server.adopted,
            ),
        )
        for server in state.servers.values()
        if server.state == "launching" and server.launch_id is not None and server.plan is not None
    ]


def _stops(state: GpuPodState) -> list[tuple[datetime | None, Stop]]:
    """Return the ends that are wanted: of servers' launches, and of those that nobody here owns."""
    orders = [(s.launch_id, s.stop) for s in state.servers.values() if s.launch_id and s.holds_lease and s.stop]
    orders += [(orphan.launch_id, orphan.reap) for orphan in state.orphans if orphan.reap]
    return [
        (order.retry_at, Stop(key=f"stop/{launch_id}/{order.grace:g}", launch_id=launch_id, grace=order.grace))
        for launch_id, order in orders
    ]


def _set_up(state: GpuPodState) -> list[tuple[None, SetUp]]:
    setup = state.setup
    step = setup.current if setup is not None and setup.state == "running" else None
    if setup is None or step is None or is_decided(step):
        return []
    request = setup.request
    action = SetUp(
        key=f"setup/{setup.number}/{setup.round}/{step.name}",
        launch_id=setup.launch_id(state.name, step.name),
        step=step.name,
        mount=request.mount,
        models_path=request.models_path,
        spec=request.vllm,
        version=setup.version,
    )
    return [(None, action)]


def _watch(state: GpuPodState) -> Watch:
    beliefs = {orphan.launch_id: orphan.belief for orphan in state.orphans if orphan.belief.state != "absent"}
    held = {server.launch_id: server for server in state.servers.values() if server.holds_lease and server.launch_id}
    beliefs.update({launch_id: server.belief for launch_id, server in held.items() if server.belief is not None})
    idle_ttls = {
        launch_id: server.request.idle_ttl
        for launch_id, server in held.items()
        if server.state == "ready" and server.request.idle_ttl is not None and not server.holders
    }
    return Watch(
        # A task that comes or goes changes who may be idle, and nothing on the machine: that watch begins anew.
        key="/".join((f"watch/{state.address_revision}", *sorted(idle_ttls))),
        reachable=state.reachable,
        boot=state.boot,
        beliefs=beliefs,
        expected=_expected(state),
        # A launch that nobody has seen running counts as a newer one: it may have died by the time it is looked for.
        counters={
            s.name: s.counter - (s.holds_lease and (s.belief is None or s.state == "launching"))
            for s in state.servers.values()
        },
        counter_floor=state.counter_floor,
        loading=tuple(
            launch_id for launch_id, server in held.items() if server.state == "loading" and server.adopted is None
        ),
        idle_ttls=idle_ttls,
        impatient=tuple(
            launch_id
            for launch_id, server in held.items()
            if server.state == "unhealthy" and limit(server, "unresponsive")
        ),
    )


def _expected(state: GpuPodState) -> tuple[str, ...]:
    """Return the launches that must be on the machine; one that is being launched may not be there yet."""
    held = [server for server in state.servers.values() if server.holds_lease and server.state != "launching"]
    return tuple(server.launch_id for server in held if server.launch_id is not None)


def _inspection(state: GpuPodState, now: datetime) -> list[tuple[datetime, Inspect]]:
    """Return the next look at the machine, if there is to be one.

    A healthy machine is not looked at: only where a server waits for what no watch reports, memory of processes
    that are not ours.
    """
    at = now
    if state.inventory is not None and state.inventory_at is not None and not state.inventory_stale:
        states = {server.state for server in state.servers.values()}
        if "memory_unexplained" not in states and not ("pending" in states and foreign_processes(state.inventory)):
            return []
        at = state.inventory_at + timedelta(seconds=state.recheck_seconds)
    if state.inspect_not_before is not None:
        at = max(at, state.inspect_not_before)
    inspect = Inspect(
        key=f"inspect/{state.address_revision}",
        boot=state.boot,
        expected=_expected(state),
        vllm=state.vllm[-1].program if state.vllm else None,
    )
    return [(at, inspect)]


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
                    command_id=f"{gpu_pod_workflow_id(state.name)}/{server.name}/{state.sequence}",
                    task_id=task_id,
                    pod=state.name,
                    server=server.name,
                    status=status,
                    launch_id=server.launch_id,
                    detail=detail(state, server),
                )
            )
    return notices
