"""What happens to machines: connections lost, an outage, a reboot, another host key. Nothing is lost or done twice."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from temporalio.client import Client

from domain.gpu.commands import SetAddress
from domain.gpu.ssh_target import parse_ssh
from domain.ids import task_workflow_id
from simulator.api import Gpu, MachineConfig, simulate
from tests.chaos.support import MODEL, WAITING_PROGRAM, Site, count, eventually, site

#: Seconds that the machine is cut off.
OUTAGE = 60.0
PROGRAM = f'{WAITING_PROGRAM}; echo "$OPENAI_MODEL"'
SERVED_PLAN = """
model_servers: [{{name: coder, model: {model}, pod: {pod}}}]
workstreams:
  - id: work
    title: Work
    executor: {{type: command, argv: [sh, -c, '{program}'], server: coder}}
"""
PLAIN_PLAN = """
workstreams:
  - id: work
    title: Work
    executor: {{type: command, argv: [sh, -c, '{program}'], pod: {pod}}}
"""


async def identities(made: Site) -> set[tuple[int, int]]:
    """Return pid and start time of every process of a model server."""
    return {(process.pid, process.start_time) for process in await made.roles("api_server", "engine", "worker")}


async def everything(made: Site) -> set[tuple[int, int]]:
    """Return pid and start time of every process on the machine."""
    return {(process.pid, process.start_time) for process in await made.machine.processes()}


async def run_task(made: Site, task_id: str, plan: str) -> None:
    """Create a task and approve its way to the work."""
    await made.create_task(task_id, plan.format(model=MODEL, pod=made.pod_name, program=PROGRAM))
    await made.signal(task_id, "approve-spec")
    await made.signal(task_id, "approve-plan")


async def test_outage_leaves_servers_and_runs_alone_and_a_stop_is_carried_out_on_return(
    client: Client, unique: Callable[[str], str], tmp_path: Path
) -> None:
    task_id = unique("outlasts")
    async with (
        simulate(tmp_path, [MachineConfig(name=unique("cut"), gpus=(Gpu(), Gpu()))]) as [machine],
        site(client, machine, tmp_path) as made,
    ):
        await machine.settings(load_seconds=0.2)
        await made.start_server("leaving")
        await made.server("leaving", "ready")
        await made.start_server("coder")
        coder = await made.server("coder", "ready")
        await run_task(made, task_id, SERVED_PLAN)
        await made.program_started()
        before = await identities(made)

        clock = asyncio.get_running_loop()
        cut_at = clock.time()
        await machine.unreachable(OUTAGE)
        await made.server("coder", "unreachable")
        await made.stop_server("leaving")
        made.let_program_go()
        assert await identities(made) == before
        leaving = await made.server("leaving", "unreachable")
        assert leaving.stop is not None
        assert leaving.state == "stopping"

        back = await made.server("coder", "ready")
        assert clock.time() - cut_at >= OUTAGE
        assert (back.launch_id, back.pid, back.since) == (coder.launch_id, coder.pid, coder.since)
        await made.server("leaving", "stopped")
        after = await identities(made)
        assert after < before
        assert back.belief is not None
        assert (back.pid, back.belief.start_time) in after

        await made.task(task_id, lambda task: task.phase == "review", "is in review")
        await made.signal(task_id, "approve-review")
        await made.task(task_id, lambda task: task.phase == "completed", "is completed")
        await made.stop_and_leave_nothing()
        happened = await made.events(made.pod_workflow)
        assert (count(happened)["pod_unreachable"], count(happened)["pod_reachable"]) == (1, 2)
        order = [
            event.type for event in happened if event.type in {"pod_unreachable", "pod_reachable", "server_stopped"}
        ]
        assert order == ["pod_reachable", "pod_unreachable", "pod_reachable", "server_stopped", "server_stopped"]
        coders = count(happened, server="coder")
        assert (coders["server_launching"], coders["server_ready"], coders["server_failed"]) == (1, 1, 0)
        work = count(await made.events(task_workflow_id(task_id)))
        assert (made.program_starts, work["workstream_started"], work["workstream_completed"]) == (1, 1, 1)


async def test_dropped_connections_are_no_event(client: Client, unique: Callable[[str], str], tmp_path: Path) -> None:
    async with (
        simulate(tmp_path, [MachineConfig(name=unique("dropped"))]) as [machine],
        site(client, machine, tmp_path) as made,
    ):
        await machine.settings(load_seconds=0.2)
        await made.start_server("coder")
        await made.server("coder", "ready")
        await healthy(made)
        before, history = await identities(made), await history_length(made)
        for _ in range(3):
            await made.lose_connections()
        assert await history_length(made) == history
        assert await identities(made) == before
        await made.stop_and_leave_nothing()
        happened = count(await made.events(made.pod_workflow))
        assert (happened["pod_unreachable"], happened["pod_reachable"], happened["server_ready"]) == (0, 1, 1)


async def healthy(made: Site) -> None:
    """Wait until nothing more is to be learned about the server, and the watch is the only thing under way."""

    async def settled() -> bool:
        belief = (await made.pod()).servers["coder"].belief
        described = await made.temporal.get_workflow_handle(made.pod_workflow).describe()
        pending = [activity.activity_type.name for activity in described.raw_description.pending_activities]
        told = belief is not None and belief.healthy is True and belief.stage == "serve"
        return told and pending == ["watch_pod"]

    await eventually(settled, "the watch has nothing more to say")


async def history_length(made: Site) -> int:
    """Return the number of events in the history of the pod's workflow."""
    return len((await made.temporal.get_workflow_handle(made.pod_workflow).fetch_history()).events)


async def test_reboot_ends_servers_and_interrupts_runs_and_nothing_is_repeated_unasked(
    client: Client, unique: Callable[[str], str], tmp_path: Path
) -> None:
    task_id = unique("rebooted")
    async with (
        simulate(tmp_path, [MachineConfig(name=unique("reboot"))]) as [machine],
        site(client, machine, tmp_path) as made,
    ):
        await machine.settings(load_seconds=0.2)
        await made.start_server("coder")
        first = await made.server("coder", "ready")
        await run_task(made, task_id, PLAIN_PLAN)
        await made.program_started()
        await machine.reboot()

        failed = await made.server("coder", "failed")
        assert failed.failure is not None
        assert failed.failure.type == "machine_rebooted"
        assert failed.ended is not None
        assert failed.ended.how == "rebooted"
        asking = await made.task(
            task_id, lambda task: task.workstreams["work"].status == "failed", "the run is interrupted"
        )
        assert made.program_starts == 1
        assert made.launches(made.pod_name, "coder") == ["1"]
        assert count(await made.events(task_workflow_id(task_id)))["workstream_interrupted"] == 1

        made.let_program_go()
        [question] = asking.open_approvals()
        await made.signal(task_id, "approve", message_id=question.message_id, choice="retry")
        await made.task(task_id, lambda task: task.phase == "review", "is in review")
        assert made.program_starts == 2
        await made.start_server("coder")
        again = await made.server("coder", "ready")
        assert (first.launch_id, again.launch_id) == (f"{made.pod_name}/coder/1", f"{made.pod_name}/coder/2")
        await made.stop_and_leave_nothing()


async def test_changed_host_key_touches_nothing_until_a_person_pins_the_new_one(
    client: Client, unique: Callable[[str], str], tmp_path: Path
) -> None:
    async with (
        simulate(tmp_path, [MachineConfig(name=unique("key"))]) as [machine],
        site(client, machine, tmp_path) as made,
    ):
        await machine.settings(load_seconds=0.2)
        await made.start_server("coder")
        before = await made.server("coder", "ready")
        living, known = await identities(made), await everything(made)
        old = machine.fingerprint
        new = await machine.change_host_key()
        await machine.drop_connections()

        await made.server("coder", "unreachable")
        pod = await made.pod()
        assert old in pod.unreachable_reason
        assert new in pod.unreachable_reason
        assert living <= await everything(made) <= known, "nothing was ended and nothing was started"
        await made.client.execute_pod(
            made.pod_name, SetAddress(ssh=parse_ssh(machine.ssh_command), host_key=machine.host_key), by="ann"
        )
        after = await made.server("coder", "ready")
        assert (after.launch_id, after.pid, after.since) == (before.launch_id, before.pid, before.since)
        assert await identities(made) == living
        await made.stop_and_leave_nothing()
        happened = count(await made.events(made.pod_workflow), server="coder")
        assert (happened["server_launching"], happened["server_ready"], happened["server_failed"]) == (1, 1, 0)
