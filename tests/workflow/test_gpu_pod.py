"""A whole GPU pod on a real Temporal server and a simulated machine: servers, outages, crashes, what costs history."""

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import pytest
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.client import WorkflowExecutionStatus

from domain.gpu.commands import Remove, SetAddress, StopServer
from domain.gpu.observation import Inventory, Observation
from domain.gpu.ssh_target import parse_ssh
from podctl.client import AlreadyExists, NotFound, PodctlClient, Refused
from podctl.model_logs import LogReader
from remote.podlet import Podlet
from remote.ssh import SshPool
from simulator.api import SimulatedMachine
from tests.workflow.support import (
    MODEL,
    Pod,
    SimulatedPod,
    Task,
    Tasks,
    eventually,
    failed_workflow_tasks,
    pod_input,
    raw,
    register,
)
from workflows import names

PLAN = """
model_servers:
  - {{name: coder, model: {model}, pod: {pod}}}
workstreams:
  - {{id: work, title: Work, executor: {{type: command, server: coder, argv: [{argv}]}}}}
"""


async def attached_task(tasks: Tasks, pod: SimulatedPod, argv: str = "sleep, '1000'") -> Task:
    task = await tasks.create(PLAN.format(model=MODEL, pod=pod.name, argv=argv))
    await task.work_begins()
    return task


async def command_runs(pod: SimulatedPod) -> None:
    async def runs() -> bool:
        return any(process.title == "sleep 1000" for process in await pod.machine.processes())

    await eventually(runs, "the command runs")


async def servers_running(machine: SimulatedMachine) -> int:
    return sum(process.role == "api_server" for process in await machine.processes())


# -- the life of a model server -----------------------------------------------------------------------------------


async def test_a_server_is_started_watched_and_stopped(pod: SimulatedPod) -> None:
    await pod.start("coder")
    server = await pod.server_is("coder", "ready")
    assert server.launch_id == f"{pod.name}/coder/1"
    assert await servers_running(pod.machine) == 1
    state = await pod.state()
    assert state.inventory
    assert [gpu.uuid for gpu in state.inventory.gpus] == [gpu.uuid for gpu in pod.machine.gpus]

    await pod.podctl.execute_pod(pod.name, StopServer(name="coder"), by="ann")
    stopped = await pod.server_is("coder", "stopped")
    assert stopped.stop_result
    assert (stopped.stop_result.processes_left, stopped.stop_result.gpu_processes_left) == (0, 0)
    assert await servers_running(pod.machine) == 0
    types = await pod.event_types()
    assert types.index("lease_granted") < types.index("server_ready") < types.index("lease_released")
    assert types.count("server_launching") == 1
    # The first look at a machine finds no podlet on it and brings one: nothing was unreachable.
    assert "pod_unreachable" not in types


async def test_its_log_is_followed_to_the_end(pod: SimulatedPod, pool: SshPool) -> None:
    await pod.start("coder")
    ready = await pod.server_is("coder", "ready")
    assert ready.launch_id == f"{pod.name}/coder/1"
    podlet, address = Podlet(pool), await pod.podctl.pod_address(pod.name)
    reader = LogReader(podlet, address, ready.launch_id)
    log = b"".join([piece async for piece in reader.read()])
    assert b"Application startup complete" in log
    followed = bytearray()

    async def follow() -> None:
        async for piece in reader.read(follow=True):
            followed.extend(piece)

    following = asyncio.create_task(follow())

    async def caught_up() -> bool:
        return len(followed) >= len(log)

    await eventually(caught_up, "the follower has all that there is")
    await pod.podctl.execute_pod(pod.name, StopServer(name="coder"), by="ann")
    stopped = await pod.server_is("coder", "stopped")
    await following  # ends by itself: the launch has ended and all is read
    assert followed.startswith(log)
    assert len(followed) > len(log), "what it said while it was being stopped"
    # Only now: while it runs, each look at its health adds a line.
    tail = b"".join([piece async for piece in reader.read(tail=1)])
    assert tail.splitlines() == followed.splitlines()[-1:]

    result = stopped.stop_result
    assert result
    assert (result.state, result.processes_left, result.gpu_processes_left) == ("stopped", 0, 0)
    assert result.ports_closed
    seen = await podlet.call(address, "observe", {"ids": [ready.launch_id]})
    [launch] = [Observation.model_validate(launch) for launch in seen["launches"]]
    assert (launch.state, launch.members) == ("exited", 0)
    inventory = Inventory.model_validate(await podlet.call(address, "inventory", {}))
    assert inventory.compute_apps == ()
    assert {gpu.memory_used_mib for gpu in inventory.gpus} == {0}


async def test_what_is_asked_for_wrongly_is_refused(pod: SimulatedPod) -> None:
    await pod.start("coder")
    with pytest.raises(Refused, match=r"is \w+ on pod") as refused:
        await pod.start("coder")
    assert refused.value.code == "already_running"
    with pytest.raises(Refused) as refused:
        await pod.podctl.execute_pod(pod.name, StopServer(name="other"), by="ann")
    assert refused.value.code == "server_not_found"
    assert "coder" in str(refused.value)
    await pod.server_is("coder", "ready")
    with pytest.raises(Refused) as refused:
        await pod.podctl.execute_pod(pod.name, Remove(), by="ann")
    assert refused.value.code == "servers_running"


async def test_a_third_server_waits_for_a_gpu_and_gets_the_one_that_is_given_back(pod: SimulatedPod) -> None:
    for name in ("one", "two", "three"):
        await pod.start(name)
    await pod.server_is("one", "ready")
    await pod.server_is("two", "ready")
    assert (await pod.state()).servers["three"].state == "pending"
    await pod.podctl.execute_pod(pod.name, StopServer(name="one"), by="ann")
    await pod.server_is("three", "ready")
    servers = (await pod.state()).servers
    assert servers["three"].plan
    assert servers["one"].plan
    assert servers["three"].plan.gpus == servers["one"].plan.gpus


async def test_two_tasks_share_a_server_and_it_stops_when_both_have_let_go(tasks: Tasks, pod: SimulatedPod) -> None:
    first, second = await attached_task(tasks, pod), await attached_task(tasks, pod)
    for task in (first, second):
        await task.until(lambda s: s.workstreams["work"].status == "in_progress", "the command runs")
    assert set((await pod.state()).servers["coder"].holders) == {first.id, second.id}
    assert await servers_running(pod.machine) == 1
    await first.handle.cancel()
    await first.handle.result()
    assert (await pod.state()).servers["coder"].state == "ready"
    await second.handle.cancel()
    await second.handle.result()
    await pod.server_is("coder", "stopped")


async def test_a_server_that_cannot_start_is_asked_about_with_the_reason(tasks: Tasks, pod: SimulatedPod) -> None:
    await pod.machine.settings(start_failure="out_of_memory")
    task = await attached_task(tasks, pod, "echo, done")
    state = await task.until(lambda s: list(s.open_approvals()), "the server is asked about")
    assert state.servers["coder"].status == "failed"
    assert "memory" in state.servers["coder"].detail
    await pod.machine.settings(start_failure=None)
    (question,) = state.open_approvals()
    await task.ok("approve", message_id=question.message_id, choice="retry")
    await task.reaches("review")
    assert (await pod.state()).servers["coder"].counter == 2


# -- what happens to machines -------------------------------------------------------------------------------------


async def test_a_crash_is_seen_and_exit_code_zero_does_not_hide_it(pod: SimulatedPod) -> None:
    await pod.machine.settings(seconds_from_engine_death_to_exit=0.1)
    await pod.start("coder")
    await pod.server_is("coder", "ready")
    await pod.machine.signal_servers("engine", signal.SIGKILL)
    server = await pod.server_is("coder", "failed")
    assert server.failure
    assert server.exit
    assert server.exit.code == 0
    await pod.until(lambda s: s.servers["coder"].ended, "its GPU is given back")


async def test_an_engine_that_outlives_its_root_is_ended_before_its_gpu_goes_to_the_next(pod: SimulatedPod) -> None:
    for name in ("one", "two", "next"):
        await pod.start(name)
    for name in ("one", "two"):
        await pod.server_is(name, "ready")
    victim = (await pod.state()).servers["one"]
    await pod.machine.signal_servers("api_server", signal.SIGKILL)
    await pod.server_is("next", "ready")
    types = [(e.type, e.payload.get("server")) for e in (await pod.podctl.log(pod.workflow_id)).events]
    assert victim.plan
    granted = types.index(("lease_granted", "next"))
    assert ("lease_released", "one") in types[:granted] or ("lease_released", "two") in types[:granted]


async def test_a_dropped_connection_is_no_event(pod: SimulatedPod) -> None:
    await pod.start("coder")
    before = await pod.server_is("coder", "ready")
    await pod.machine.drop_connections()
    await pod.machine.signal_servers("engine", signal.SIGKILL)
    # Seen by the watch that has come back by itself.
    failed = await pod.server_is("coder", "failed")
    assert failed.launch_id == before.launch_id
    assert "pod_unreachable" not in await pod.event_types()


async def test_an_unreachable_machine_keeps_its_server_and_a_stop_asked_meanwhile_is_done_on_return(
    pod: SimulatedPod,
) -> None:
    await pod.start("coder")
    before = await pod.server_is("coder", "ready")
    await pod.machine.unreachable(outage="refuse")
    await pod.machine.drop_connections()
    state = await pod.until(lambda s: s.reachable is False, "the pod is unreachable")
    assert state.servers["coder"].state == "ready"
    await pod.podctl.execute_pod(pod.name, StopServer(name="coder"), by="ann")
    assert await servers_running(pod.machine) == 1
    await pod.machine.reachable()
    stopped = await pod.server_is("coder", "stopped")
    assert stopped.pid == before.pid
    assert stopped.counter == 1
    assert await servers_running(pod.machine) == 0


async def test_a_reboot_fails_the_server_and_interrupts_the_run(tasks: Tasks, pod: SimulatedPod) -> None:
    await pod.start("coder")  # a person's: the task may let go of it before anybody has seen the reboot
    task = await attached_task(tasks, pod, "sleep, '1000'")
    await command_runs(pod)
    await pod.machine.reboot()
    server = await pod.server_is("coder", "failed")
    assert server.failure
    assert server.failure.type == "machine_rebooted"
    state = await task.until(lambda s: s.workstreams["work"].status == "failed", "the run is interrupted")
    assert "may have taken effect" in (state.workstreams["work"].error or "")
    assert state.workstreams["work"].attempt == 1, "an attempt whose end nobody saw is never just repeated"


async def test_a_changed_host_key_stops_everything_until_a_person_pins_the_new_one(pod: SimulatedPod) -> None:
    await pod.until(lambda s: s.reachable, "the pod is reachable")
    old = pod.machine.fingerprint
    new = await pod.machine.change_host_key()
    await pod.machine.drop_connections()
    state = await pod.until(lambda s: s.reachable is False, "the pod is not trusted")
    assert old in state.unreachable_reason
    assert new in state.unreachable_reason
    key = " ".join(pod.machine.host_key.split()[:2])
    command = SetAddress(ssh=parse_ssh(pod.machine.ssh_command), host_key=key)
    await pod.podctl.execute_pod(pod.name, command, by="ann")
    await pod.until(lambda s: s.reachable, "the pod is reachable again")


async def test_a_worker_without_the_key_says_so_and_another_address_helps(
    podctl: PodctlClient, machine: SimulatedMachine, unique: Callable[[str], str]
) -> None:
    name = unique("pod")
    right = pod_input(name, machine.ssh_command, machine.host_key)
    missing = parse_ssh(machine.ssh_command.replace(str(machine.client_key), "/nowhere/key"))
    await podctl.register_pod(right.model_copy(update={"ssh": missing}))
    pod = Pod(podctl, name)
    state = await pod.until(lambda s: s.reachable is False, "the pod cannot be reached")
    assert "/nowhere/key" in state.unreachable_reason
    await podctl.execute_pod(name, SetAddress(ssh=right.ssh), by="ann")
    await pod.until(lambda s: s.reachable, "the pod is reachable")


# -- what it costs, and what a stranger can do --------------------------------------------------------------------


async def test_a_healthy_server_adds_no_history(pod: SimulatedPod) -> None:
    await pod.start("coder")
    await pod.server_is("coder", "ready")
    beats: list[Any] = []
    lengths: set[int] = set()

    async def settled_and_beaten() -> bool:
        """Count heartbeats of the watch that carry something new, and the lengths of the history at them."""
        described = await pod.handle.describe()
        watches = [a for a in described.raw_description.pending_activities if a.activity_type.name == names.WATCH_POD]
        running = [a for a in watches if a.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED]
        if not running:
            beats.clear()
            lengths.clear()
            return False
        beat = running[0].last_heartbeat_time.ToNanoseconds()
        length = described.raw_description.workflow_execution_info.history_length
        if length not in lengths:
            # Not settled yet: what the launch itself leads to is still being taken in.
            beats.clear()
            lengths.clear()
            lengths.add(length)
        if beat and beat not in beats:
            beats.append(beat)
        return len(beats) >= 4

    await eventually(settled_and_beaten, "four heartbeats while the history stays as it is")
    assert "pause" not in str(await pod.handle.fetch_history())


async def test_strangers_signals_and_cancellations_change_nothing(pod: SimulatedPod) -> None:
    await pod.handle.signal("hello", args=[raw(b"{"), raw(b"\xff")])
    await pod.handle.cancel(reason="by mistake")
    await pod.handle.signal("hello")
    state = await pod.until(lambda s: len(s.refusals) == 2, "both signals are refused")
    assert {refusal.code for refusal in state.refusals} == {"unknown_signal", "wrong_payload"}
    await pod.until(lambda s: s.reachable, "it goes on")
    assert not await failed_workflow_tasks(pod.podctl.temporal, pod.workflow_id)


async def test_a_removed_pod_ends_and_its_name_is_free_again(pod: SimulatedPod, podctl: PodctlClient) -> None:
    with pytest.raises(AlreadyExists):
        await podctl.register_pod(pod_input(pod.name, pod.machine.ssh_command, pod.machine.host_key))
    await pod.until(lambda s: s.reachable, "the pod is reachable")
    await podctl.execute_pod(pod.name, Remove(), by="ann")
    await pod.handle.result()
    assert (await pod.handle.describe()).status is WorkflowExecutionStatus.COMPLETED
    again = await register(podctl, pod.machine, pod.name)
    await again.until(lambda s: s.reachable and not s.removed, "it is added anew")
    with pytest.raises(NotFound, match="there is no GPU pod 'gone'"):
        await podctl.pod("gone")


async def test_a_lost_machine_is_given_up_on_a_persons_word(pod: SimulatedPod, tasks: Tasks) -> None:
    task = await attached_task(tasks, pod)
    await task.until(lambda s: s.workstreams["work"].status == "in_progress", "the command runs")
    await pod.machine.unreachable(outage="refuse")
    await pod.podctl.execute_pod(pod.name, Remove(lost=True), by="ann")
    await pod.handle.result()
    state = await task.until(lambda s: s.servers["coder"].status == "lost", "the task is told")
    assert state.phase == "workstream_execution"


async def test_a_stop_that_meets_a_stubborn_server_kills_it_after_its_grace(pod: SimulatedPod) -> None:

    await pod.machine.settings(hang_on_term="always")
    await pod.start("coder")
    await pod.server_is("coder", "ready")
    await pod.podctl.execute_pod(pod.name, StopServer(name="coder", grace=0.5), by="ann")
    stopped = await pod.server_is("coder", "stopped")
    assert stopped.stop_result
    assert stopped.stop_result.killed > 0

    assert await servers_running(pod.machine) == 0
