"""The Temporal server is killed with SIGKILL while twenty tasks are under way: what it acknowledged is kept."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from domain.gpu.commands import PodInput
from domain.gpu.ssh_target import parse_ssh
from domain.ids import task_workflow_id
from domain.task.commands import PostMessage
from domain.task.models import TaskInput, TaskState
from domain.task.plan_file import read_plan
from podctl import embedded
from podctl.client import AlreadyExists, NoWorker, PodctlClient, new_command_id
from podctl.connection import connect
from podctl.paths import PodctlPaths
from podctl.processes import free_ports
from simulator.api import MachineConfig, SimulatedMachine, simulate
from tests.chaos.support import eventually, kill

TASKS = 20
#: Messages of each task, every other one a signal, the others updates.
MESSAGES = 6
#: The server dies when this many commands were acknowledged: in the middle of all these messages.
KILLED_AFTER = (2 * TASKS, 5 * TASKS)
MACHINE = "machine"
PROGRAM = 'echo "$PODCTL_TASK" >> "$HOME/starts"; sleep 0.2'
PLAN = f"""
workstreams:
  - {{id: docs, title: Docs, executor: signal}}
  - id: work
    title: Work
    executor: {{type: command, argv: [sh, -c, '{PROGRAM}'], pod: {MACHINE}}}
"""


class Sender:
    """Carries one task from wish to completed, and keeps which of its commands the server acknowledged."""

    def __init__(self, temporal: Client, task_id: str, acknowledged: list[tuple[str, str]]) -> None:
        self._podctl = PodctlClient(temporal)
        self._task_id = task_id
        self._acknowledged = acknowledged

    async def carry(self) -> None:
        command_id = new_command_id()
        task = TaskInput(
            task_id=self._task_id,
            title=self._task_id,
            by="ann",
            command_id=command_id,
            spec="Do it.",
            plan=read_plan(PLAN, "plan of the test"),
        )
        await self._until_acknowledged(command_id, lambda: self._podctl.create_task(task))
        await self._signal("approve-spec")
        await self._signal("approve-plan")
        for number in range(MESSAGES):
            if number % 2:
                await self._signal("message", content=f"message {number}")
            else:
                await self._update(PostMessage(content=f"message {number}"))
        await self._signal("workstream-result", workstream="docs", status="completed", result="written")
        await self._in_phase("review")
        await self._signal("approve-review")
        await self._in_phase("completed")

    async def _signal(self, name: str, **payload: str) -> None:
        command_id = new_command_id()
        handle = self._podctl.temporal.get_workflow_handle(task_workflow_id(self._task_id))
        given = {"by": "ann", "command_id": command_id, **payload}
        await self._until_acknowledged(command_id, lambda: handle.signal(name, given))

    async def _update(self, command: PostMessage) -> None:
        command_id = new_command_id()
        await self._until_acknowledged(
            command_id, lambda: self._podctl.execute_task(self._task_id, command, by="ann", command_id=command_id)
        )

    async def _until_acknowledged(self, command_id: str, send: Callable[[], Awaitable[object]]) -> None:
        """Send again with the same command id for as long as the server's answer does not come."""

        async def sent() -> bool:
            try:
                await send()
            except RPCError as error:
                # After an answer that was lost: the task has ended with this very command. Its log says whether so.
                return error.status is RPCStatusCode.NOT_FOUND and "already completed" in error.message
            except NoWorker:
                return False
            except AlreadyExists:
                return True  # an answer that was lost
            return True

        await eventually(sent, f"a command of {self._task_id} is acknowledged")
        self._acknowledged.append((self._task_id, command_id))

    async def _in_phase(self, phase: str) -> None:
        async def there() -> TaskState | None:
            try:
                state = await self._podctl.task(self._task_id)
            except RPCError:
                return None
            return state if state.phase == phase else None

        await eventually(there, f"task {self._task_id} is in phase {phase}")


async def test_nothing_acknowledged_is_lost_when_the_server_is_killed(paths: PodctlPaths, tmp_path: Path) -> None:
    port, ui_port = free_ports(2)
    names = [f"task-{number}" for number in range(TASKS)]
    acknowledged: list[tuple[str, str]] = []
    async with simulate(tmp_path, [MachineConfig(name=MACHINE)]) as [machine]:
        try:
            running = await embedded.up(paths, lambda _: None, port=port, ui_port=ui_port)
            temporal = await connect(paths)
            await _register(temporal, machine)
            async with asyncio.TaskGroup() as senders:
                for name in names:
                    senders.create_task(Sender(temporal, name, acknowledged).carry())
                for enough in KILLED_AFTER:
                    await _acknowledged_enough(acknowledged, enough)
                    kill(running.server.process)
                    running = await embedded.up(paths, lambda _: None)
                    assert running.started == ("server",), "the worker lives on"
            await _assert_kept(PodctlClient(temporal), names, acknowledged)
            starts = (machine.folder / "home" / "starts").read_text().split()
            assert Counter(starts) == dict.fromkeys(names, 1)
        finally:
            await embedded.down(paths, lambda _: None)


async def _acknowledged_enough(acknowledged: list[tuple[str, str]], enough: int) -> None:
    async def in_the_middle() -> bool:
        return len(acknowledged) >= enough

    await eventually(in_the_middle, f"{enough} commands are acknowledged")
    assert len(acknowledged) < TASKS * (5 + MESSAGES), "some are still to come"


async def _register(temporal: Client, machine: SimulatedMachine) -> None:
    await PodctlClient(temporal).register_pod(
        PodInput(
            name=machine.name,
            ssh=parse_ssh(machine.ssh_command),
            host_key=machine.host_key,
            by="ann",
            command_id=new_command_id(),
        )
    )


async def _assert_kept(podctl: PodctlClient, names: list[str], acknowledged: list[tuple[str, str]]) -> None:
    """Check that the logs have every acknowledged command, each with its one event, and that each task completed."""
    logged: Counter[tuple[str, str]] = Counter()
    for name in names:
        log = await podctl.log(task_workflow_id(name))
        assert (await podctl.task(name)).phase == "completed"
        own = {"task_created", "spec_approved", "plan_approved", "review_approved", "message_posted"}
        own |= {"workstream_completed"}
        logged.update((name, event.command_id) for event in log.events if event.type in own and event.by == "ann")
    assert len(acknowledged) == TASKS * (5 + MESSAGES)
    assert logged == dict.fromkeys(acknowledged, 1)
