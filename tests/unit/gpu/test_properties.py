"""What holds for every sequence of commands, whatever order reports arrive in."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from domain.entity import ACCEPTED, Event
from domain.errors import Rejected
from domain.gpu.beliefs import differs, merge, newer
from domain.gpu.budgets import is_due
from domain.gpu.commands import (
    AcceptMemory,
    AttachServer,
    Command,
    DetachServer,
    Envelope,
    HolderGone,
    HolderTold,
    InspectionFailed,
    LaunchDone,
    LaunchFailed,
    PodObserved,
    PodUnreachable,
    ReapLaunch,
    Remove,
    ServerDue,
    SetupStepDone,
    StartServer,
    StartSetup,
    StopDone,
    StopFailed,
    StopServer,
)
from domain.gpu.leases import leases, used_shares
from domain.gpu.models import GpuPodState
from domain.gpu.observation import Exit, GpuShare, Inventory, MemoryReading, Observation, StopResult
from domain.gpu.queue import waits_for
from domain.gpu.restarts import MAXIMUM_RESTARTS
from domain.gpu.rules import apply
from domain.gpu.schedule import Action, Inspect, Launch, Notify, SetUp, Stop, WakeAt, Watch, next_actions
from domain.gpu.schedule import Command as Decision
from domain.gpu.summary import memo, summary_markdown
from tests.unit.gpu.pod import EPOCH, Pod, inventory, request

NAMES = ("a", "b", "c")
TASKS = ("t1", "t2")
BOOTS = ("boot-1", "boot-2", "boot-3")
POLICIES = ("never", "on-failure", "always")
OWNERS = ("register", "somebody", None)
NOT_LAUNCHED = {"port_taken", "gpu_share_taken", "gpu_missing", "program_not_found", "launch_stopped", "bad_request"}


def check_invariants(state: GpuPodState) -> None:
    for gpu, share in used_shares([lease for lease in leases(state) if lease.server in state.servers]).items():
        assert share <= 1 + 1e-6, f"{gpu} is leased to {share}"
    held = [server for server in state.servers.values() if server.holds_lease]
    ports = [port for server in held if server.plan for port in server.plan.ports]
    assert len(ports) == len(set(ports))
    identities = [server.launch_id for server in held]
    assert len(identities) == len(set(identities))
    for name, server in state.servers.items():
        assert server.name == name
        assert (server.launch_id is None) == (server.plan is None)
        if server.state in {"launching", "loading", "ready", "unhealthy", "stopping", "memory_unexplained"}:
            assert server.holds_lease
        if server.state in {"pending", "stopped", "restarting"}:
            assert not server.holds_lease
        if server.state == "restarting":
            assert server.wanted
            assert server.retry_at is not None
        if server.state == "stopping":
            assert server.stop is not None
        if server.state == "failed":
            assert server.failure is not None
            assert server.retry_at is None
            assert server.finished or server.stop is not None
        assert len(server.restarts) <= MAXIMUM_RESTARTS
        assert all(server.restarts[-1] - at < timedelta(hours=1) for at in server.restarts)
        assert set(server.told) <= set(server.holders)
        if server.state not in {"stopped", "failed", "lost"}:
            assert server.kept or server.holders or server.stop or server.state == "memory_unexplained"


def everybody_goes_on(state: GpuPodState, now: datetime) -> None:
    """Fail if a server that is not finished waits for nothing: no action, no time, no reason."""
    actions = {action.key: action for action in next_actions(state, now)}
    timed = isinstance(actions.get("wake"), WakeAt)
    for server in state.servers.values():
        stops = [action for action in actions.values() if isinstance(action, Stop)]
        match server.state:
            case _ if server.finished or state.removed:
                pass
            case "pending":
                assert waits_for(state, server) not in {"", "its turn"}
            case "restarting":
                assert timed or f"due/{server.name}" in actions
            case "launching" if state.reachable is not False and server.stop is None:
                assert f"launch/{server.launch_id}" in actions
            case "stopping" | "failed" if state.reachable is not False:
                assert timed or any(action.launch_id == server.launch_id for action in stops)
            case "memory_unexplained" if state.reachable is not False:
                assert timed or any(isinstance(action, Inspect) for action in actions.values())
            case _:
                assert any(isinstance(action, Watch) for action in actions.values())


def releases_a_lease_rightly(before: GpuPodState, after: GpuPodState, command: Command) -> None:
    """Fail if a lease ended without a verified stop, a reboot, a person's word, or a launch that never was."""
    for server in before.servers.values():
        now = after.servers.get(server.name)
        if not server.holds_lease or (now and now.holds_lease and now.launch_id == server.launch_id):
            continue
        match command:
            case StopDone(result=result):
                assert command.launch_id == server.launch_id
                assert result.state == "stopped"
            case PodObserved():
                looked = [o.stopped for o in command.launches if o.id == server.launch_id and o.stopped]
                verified = any(stopped.state == "stopped" for stopped in looked)
                memory_is_back = server.state == "memory_unexplained" and command.inventory is not None
                boots = {o.boot for o in command.launches if o.id == server.launch_id}
                rebooted = before.boot not in {None, command.boot} or boots - {None, command.boot}
                assert verified or memory_is_back or rebooted
            case LaunchDone():
                # Stopped already, or the launch of somebody else under this id: nothing was launched for us.
                assert command.observation.stopped or command.observation.owner not in {None, before.owner}
            case LaunchFailed():
                assert command.code in NOT_LAUNCHED
                assert server.state == "launching"
            case Remove():
                assert command.lost
            case AcceptMemory():
                assert server.state == "memory_unexplained"
            case _:
                pytest.fail(f"{command.type} released the lease of {server.name}")


# --- any commands at all, sensible or not


def _requests() -> st.SearchStrategy[object]:
    return st.builds(
        request,
        st.sampled_from(NAMES),
        st.sampled_from(("m/one", "m/two")),
        memory=st.sampled_from([None, 0.2, 0.5, 1.0]),
        restart=st.sampled_from(POLICIES),
        idle_ttl=st.sampled_from([None, 60.0]),
    ) | st.builds(request, st.sampled_from(NAMES), arguments=st.just(("--tensor-parallel-size", "2")))


def _launch_ids() -> st.SearchStrategy[str]:
    return st.builds(lambda name, counter: f"box/{name}/{counter}", st.sampled_from(NAMES), st.integers(1, 3))


def _stop_results(launch_id: str) -> st.SearchStrategy[StopResult]:
    return st.builds(
        StopResult,
        id=st.just(launch_id),
        state=st.sampled_from(["stopped", "memory_unexplained"]),
        memory=st.just({f"GPU-{index}": MemoryReading(before=4, now=9_000) for index in range(2)}),
    )


def _observations(launch_id: str) -> st.SearchStrategy[Observation]:
    return st.builds(
        Observation,
        id=st.just(launch_id),
        state=st.sampled_from(["absent", "starting", "running", "running", "exited"]),
        boot=st.sampled_from(BOOTS[:2]),
        pid=st.just(100),
        members=st.integers(0, 2),
        exit=st.none() | st.builds(Exit, code=st.sampled_from([None, 0, 1, 2])),
        readiness=st.sampled_from(["none", "process", "ready"]),
        healthy=st.sampled_from([None, True, False]),
        owner=st.sampled_from(OWNERS),
        idle_seconds=st.sampled_from([None, 1.0, 90.0]),
        silent_seconds=st.sampled_from([None, 1.0, 9_000.0]),
        stop_requested=st.booleans(),
        stopped=st.none() | _stop_results(launch_id),
        gpus=st.just((GpuShare(uuid="GPU-1", share=0.9),)),
        ports=st.just((8001,)),
    )


LAUNCHES = _launch_ids()
COMMANDS: st.SearchStrategy[Command] = st.one_of(
    st.builds(StartServer, request=_requests(), wait=st.booleans()),
    st.builds(AttachServer, task_id=st.sampled_from(TASKS), request=_requests()),
    st.builds(DetachServer, task_id=st.sampled_from(TASKS), name=st.sampled_from(NAMES)),
    st.builds(StopServer, name=st.sampled_from(NAMES), grace=st.just(1.0)),
    st.builds(AcceptMemory, name=st.sampled_from(NAMES)),
    st.builds(ReapLaunch, launch_id=LAUNCHES, owner=st.sampled_from(OWNERS)),
    st.builds(ServerDue, name=st.sampled_from(NAMES)),
    st.builds(HolderGone, task_id=st.sampled_from(TASKS)),
    st.builds(
        HolderTold,
        task_id=st.sampled_from(TASKS),
        name=st.sampled_from(NAMES),
        status=st.sampled_from(["ready", "failed"]),
    ),
    st.builds(PodUnreachable, reason=st.just("no route to host")),
    st.builds(InspectionFailed, reason=st.just("nvidia-smi hangs")),
    st.builds(
        PodObserved,
        boot=st.sampled_from(BOOTS),
        launches=st.lists(LAUNCHES.flatmap(_observations), max_size=3).map(tuple),
        inventory=st.none() | st.sampled_from([inventory(2), inventory(2, foreign=[0]), inventory(1)]),
        known_boot=st.sampled_from([None, *BOOTS]),
        expected=st.lists(LAUNCHES, max_size=3).map(tuple),
    ),
    LAUNCHES.flatmap(lambda i: st.builds(LaunchDone, launch_id=st.just(i), observation=_observations(i))),
    st.builds(
        LaunchFailed, launch_id=LAUNCHES, code=st.sampled_from([*sorted(NOT_LAUNCHED), "x"]), message=st.just("")
    ),
    LAUNCHES.flatmap(lambda i: st.builds(StopDone, launch_id=st.just(i), result=_stop_results(i))),
    st.builds(StopFailed, launch_id=LAUNCHES, code=st.just("x"), message=st.just("")),
    st.builds(Remove, lost=st.booleans()),
)


@given(st.lists(st.tuples(COMMANDS, st.integers(0, 90)), max_size=25))
@settings(max_examples=150)
def test_any_sequence_of_commands_keeps_the_invariants(script: list[tuple[Command, int]]) -> None:
    pod = Pod(inventory(2))
    again = Pod(inventory(2))
    for command, seconds in script:
        pod.later(seconds)
        again.later(seconds)
        before, encoded = pod.state, pod.state.model_dump_json()
        try:
            events = pod.do(command)
        except Rejected:
            assert pod.state is before
            assert before.model_dump_json() == encoded
            with pytest.raises(Rejected):
                again.do(command)
            continue
        assert events == again.do(command)
        check_invariants(pod.state)
        everybody_goes_on(pod.state, pod.now)
        releases_a_lease_rightly(before, pod.state, command)
        assert GpuPodState.model_validate_json(pod.state.model_dump_json()) == pod.state
        assert next_actions(pod.state, pod.now) == next_actions(again.state, again.now)
        summary_markdown(pod.state)
        memo(pod.state)
    assert pod.state == again.state
    assert [event.sequence for event in pod.events] == list(range(1, len(pod.events) + 1))


# --- a machine that does what it is told, and a workflow that carries actions out in any order


@dataclass
class Running:
    """One launch on the machine."""

    boot: int
    gpus: tuple[str, ...]
    share: float
    alive: bool = True
    ready: bool = False
    unhealthy_since: datetime | None = None
    orphaned: bool = False
    #: Seconds without progress while it loads, without a request when it is ready.
    still_for: float = 0.0


class Machine:
    """What a podlet would do on a machine with two GPUs: launches by id, verified stops, and what it shows."""

    def __init__(self) -> None:
        self.boot = 1
        self.launches: dict[str, Running] = {}
        self.tombstones: set[str] = set()
        self.launched: list[str] = []

    def launch(self, action: Launch) -> Command:
        if action.launch_id in self.tombstones and action.launch_id not in self.launches:
            return LaunchFailed(launch_id=action.launch_id, code="launch_stopped", message="")
        if action.launch_id not in self.launches:
            alive = {launch_id: other for launch_id, other in self.launches.items() if other.alive}
            name = action.launch_id.rpartition("/")[0]
            assert not any(other.startswith(name + "/") for other in alive), f"two launches of {name} would live"
            for gpu in action.plan.gpus:
                taken = sum(other.share for other in alive.values() if gpu in other.gpus)
                assert taken + action.plan.share <= 1.0001, f"the podlet would refuse {action.launch_id} on {gpu}"
            self.launches[action.launch_id] = Running(self.boot, action.plan.gpus, action.plan.share)
            self.launched.append(action.launch_id)
        return LaunchDone(launch_id=action.launch_id, observation=self.observe(action.launch_id))

    def stop(self, action: Stop) -> Command:
        self.tombstones.add(action.launch_id)
        if action.launch_id in self.launches:
            self.launches[action.launch_id].alive = False
        return StopDone(launch_id=action.launch_id, result=StopResult(id=action.launch_id, state="stopped"))

    def observe(self, launch_id: str) -> Observation:
        launch = self.launches[launch_id]
        stopped = StopResult(id=launch_id, state="stopped") if launch_id in self.tombstones else None
        return Observation(
            id=launch_id,
            state="running" if launch.alive else "exited",
            boot=f"boot-{launch.boot}",
            pid=100,
            members=2 if launch.alive else 0,
            exit=None if launch.alive and not launch.orphaned else Exit(code=0),
            readiness="ready" if launch.ready and launch.alive else "process" if launch.alive else "none",
            healthy=launch.unhealthy_since is None if launch.ready and launch.alive else None,
            idle_seconds=launch.still_for if launch.ready and launch.alive else None,
            silent_seconds=launch.still_for if launch.alive and not launch.ready else None,
            owner="register",
            stop_requested=launch_id in self.tombstones,
            stopped=stopped if not launch.alive else None,
            gpus=tuple(GpuShare(uuid=gpu, share=launch.share) for gpu in launch.gpus),
        )

    def look(self, action: Watch | Inspect, found: Inventory | None = None) -> PodObserved:
        seen = tuple(self.observe(launch_id) for launch_id in self.launches)
        return PodObserved(
            boot=f"boot-{self.boot}", launches=seen, inventory=found, known_boot=action.boot, expected=action.expected
        )

    def reboot(self) -> None:
        self.boot += 1
        for launch in self.launches.values():
            launch.alive = False


class PodAndMachine(RuleBasedStateMachine):
    """Commands of people, whims of the machine, and reports that arrive late and in any order."""

    @initialize()
    def begin(self) -> None:
        self.pod = Pod()
        self.machine = Machine()
        self.in_flight: dict[str, Command | Action] = {}
        self.restarted: dict[str, list[datetime]] = {}

    def send(self, command: Command) -> None:
        before = self.pod.state
        with suppress(Rejected):
            self.note_restarts(self.pod.do(command))
            releases_a_lease_rightly(before, self.pod.state, command)
        self.note_restarts(self.pod.pass_time(0))

    def note_restarts(self, events: list[Event]) -> None:
        """Fail if a server that nobody asked for anew is launched again too often."""
        for event in events:
            name = str(event.payload.get("server"))
            if event.type == "server_requested":
                self.restarted[name] = []
            elif event.type == "server_queued" and str(event.payload["reason"]).startswith("restart "):
                # From the decision on; its delay, of 80 s at the most, follows.
                lately = [at for at in self.restarted[name] if event.at - at < timedelta(hours=1, seconds=-80)]
                self.restarted[name] = [*lately, event.at]
                assert len(self.restarted[name]) <= MAXIMUM_RESTARTS

    def carry_out(self, *, at_once: bool) -> None:
        """Begin everything that is to be done and not under way; done now or when its report is delivered."""
        for action in next_actions(self.pod.state, self.pod.now):
            if action.key not in self.in_flight and self.has_something_to_report(action):
                self.in_flight[action.key] = self.perform(action) if at_once else action

    def has_something_to_report(self, action: Action) -> bool:
        if not isinstance(action, Watch):
            return not isinstance(action, WakeAt | Decision)
        look = self.machine.look(action)
        owned = newer(look.launches, self.pod.state.name, action.counters, action.counter_floor)
        news = differs(look.launches, action.beliefs, {*action.expected, *owned})
        due = any(self.is_due(action, launch) for launch in look.launches)
        return action.reachable is not True or look.boot != action.boot or news or due

    def is_due(self, action: Watch, launch: Observation) -> bool:
        since = self.machine.launches[launch.id].unhealthy_since
        return is_due(
            merge(action.beliefs.get(launch.id), launch),
            launch,
            unhealthy_seconds=(self.pod.now - since).total_seconds() if since is not None else 0.0,
            loading=action.loading,
            idle_ttls=action.idle_ttls,
            impatient=action.impatient,
        )

    def perform(self, action: Action) -> Command:
        match action:
            case Launch():
                return self.machine.launch(action)
            case Stop():
                return self.machine.stop(action)
            case Inspect():
                return self.machine.look(action, inventory(2, boot=f"boot-{self.machine.boot}"))
            case Watch():
                return self.machine.look(action)
            case Notify():
                return HolderTold(
                    task_id=action.task_id, name=action.server, status=action.status, launch_id=action.launch_id
                )
            case SetUp():
                told = {"version": "0.33.0", "program": "/p/vllm", "models_path": "/mnt"}
                return SetupStepDone(launch_id=action.launch_id, message="done", **told)
            case WakeAt() | Decision():
                raise AssertionError("a timer reports nothing, and a decision is not carried out")

    def finish(self, key: str) -> None:
        report = self.in_flight.pop(key)
        self.send(
            self.perform(report)
            if isinstance(report, Launch | Stop | Watch | Inspect | Notify | SetUp | WakeAt | Decision)
            else report
        )

    @rule(
        name=st.sampled_from(NAMES),
        memory=st.sampled_from([None, 0.4]),
        restart=st.sampled_from(POLICIES),
        idle_ttl=st.sampled_from([None, 60.0]),
    )
    def start(self, name: str, memory: float | None, restart: str, idle_ttl: float | None) -> None:
        self.send(StartServer(request=request(name, memory=memory, restart=restart, idle_ttl=idle_ttl)))

    @rule(name=st.sampled_from(NAMES), task=st.sampled_from(TASKS), restart=st.sampled_from(POLICIES))
    def attach(self, name: str, task: str, restart: str) -> None:
        self.send(AttachServer(task_id=task, request=request(name, restart=restart)))

    @rule(name=st.sampled_from(NAMES), task=st.sampled_from(TASKS))
    def detach(self, name: str, task: str) -> None:
        self.send(DetachServer(task_id=task, name=name))

    @rule(name=st.sampled_from(NAMES))
    def stop(self, name: str) -> None:
        self.send(StopServer(name=name))

    @rule(vllm=st.sampled_from([None, "release", "nightly"]))
    def set_up(self, vllm: str | None) -> None:
        self.send(StartSetup(vllm=vllm))

    @rule()
    def go_away(self) -> None:
        self.send(PodUnreachable(reason="no route to host"))

    @rule(seconds=st.integers(1, 100))
    def wait(self, seconds: int) -> None:
        self.note_restarts(self.pod.pass_time(seconds))

    @rule(at_once=st.booleans())
    def begin_actions(self, at_once: bool) -> None:
        self.carry_out(at_once=at_once)

    @rule(data=st.data())
    @precondition(lambda self: self.in_flight)
    def deliver(self, data: st.DataObject) -> None:
        self.finish(data.draw(st.sampled_from(sorted(self.in_flight))))

    @rule(data=st.data(), what=st.sampled_from(["ready", "unhealthy", "still", "crash", "crash", "root dies"]))
    @precondition(lambda self: any(launch.alive for launch in self.machine.launches.values()))
    def happen(self, data: st.DataObject, what: str) -> None:
        alive = sorted(name for name, launch in self.machine.launches.items() if launch.alive)
        launch = self.machine.launches[data.draw(st.sampled_from(alive))]
        match what:
            case "ready":
                launch.ready, launch.unhealthy_since = True, None
            case "unhealthy":
                launch.unhealthy_since = self.pod.now
            case "still":
                launch.still_for = 9_000.0
            case "crash":
                launch.alive = False
            case _:
                launch.orphaned = True

    @rule()
    def reboot(self) -> None:
        self.machine.reboot()

    @invariant()
    def the_state_is_sound(self) -> None:
        if hasattr(self, "pod"):
            check_invariants(self.pod.state)
            everybody_goes_on(self.pod.state, self.pod.now)

    @invariant()
    def nothing_lives_that_the_state_calls_finished(self) -> None:
        if not hasattr(self, "pod"):
            return
        for server in self.pod.state.servers.values():
            launch = self.machine.launches.get(server.launch_id or "")
            if server.finished and launch is not None:
                assert not launch.alive

    @invariant()
    def nothing_was_launched_twice(self) -> None:
        if hasattr(self, "machine"):
            assert len(self.machine.launched) == len(set(self.machine.launched))

    def teardown(self) -> None:
        """Left alone, everything settles: state and machine agree, and only the watch goes on."""
        if not hasattr(self, "pod"):
            return
        for _ in range(400):
            self.carry_out(at_once=True)
            if self.in_flight:
                self.finish(min(self.in_flight))
                self.wait(1)
            elif isinstance(wake := self.pod.actions().get("wake"), WakeAt):
                self.wait((wake.at - self.pod.now).total_seconds())
            else:
                break
        assert not self.in_flight
        state = self.pod.state
        assert not state.orphans
        for server in state.servers.values():
            launch = self.machine.launches.get(server.launch_id or "")
            assert server.holds_lease == bool(launch and launch.alive)
            if launch and launch.alive:
                ready = "ready" if launch.unhealthy_since is None else "unhealthy"
                assert server.state == (ready if launch.ready else "loading")
        alive = {name for name, launch in self.machine.launches.items() if launch.alive}
        assert alive == {server.launch_id for server in state.servers.values() if server.holds_lease}


TestPodAndMachine = PodAndMachine.TestCase
TestPodAndMachine.settings = settings(max_examples=100, stateful_step_count=40)


@given(st.lists(st.tuples(COMMANDS, st.sampled_from(["one", "two", "three"])), max_size=10))
def test_a_command_id_counts_once(script: list[tuple[Command, str]]) -> None:
    state = Pod(inventory(2)).state
    accepted: set[str] = set()
    for command, command_id in script:
        envelope = Envelope(command_id=command_id, by="ann", command=command)
        with suppress(Rejected):
            after, events = apply(state, envelope, EPOCH + timedelta(seconds=1))
            assert after.ledger[command_id] == ACCEPTED
            if command_id in accepted:
                assert after is state
                assert events == ()
            accepted.add(command_id)
            state = after
