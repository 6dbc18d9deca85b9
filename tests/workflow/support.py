"""What the tests of whole workflows share: tasks and pods to talk to, and waiting for what they become."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

from pydantic import JsonValue
from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.client import Client, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from domain.entity import Event, Outcome
from domain.gpu.catalog import builtin_catalog
from domain.gpu.commands import PodInput, StartServer
from domain.gpu.models import GpuPodState, ModelServer
from domain.gpu.request import start_request
from domain.gpu.ssh_target import parse_ssh
from domain.ids import gpu_pod_workflow_id, task_workflow_id
from domain.task.models import TaskConfig, TaskInput, TaskState
from domain.task.plan_file import read_plan
from podctl.client import PodctlClient, is_dropped, new_command_id
from simulator.api import SimulatedMachine
from workflows import names

T = TypeVar("T")

#: Seconds until a condition that does not come is a failure; far above what any of them takes on a loaded machine.
PATIENCE = 60.0
MODEL = "tiny/pretend"


async def eventually(ask: Callable[[], Awaitable[T | None]], what: str, patience: float = PATIENCE) -> T:
    """Return the first true answer of ``ask``; fails after ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        answer = await ask()
        if answer:
            return answer
        await asyncio.sleep(0.05)
    raise AssertionError(f"it never came true: {what}")


async def asked(handle: WorkflowHandle[Any, Any], query: str, *arguments: object) -> Any:  # noqa: ANN401 - any JSON
    """Return a worker's answer; asks again where the server lost the question, as it now and then does."""

    async def answer() -> tuple[Any] | None:
        try:
            return (await handle.query(query, args=arguments, rpc_timeout=timedelta(seconds=20)),)
        except RPCError as error:
            if error.status not in {RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED}:
                raise
            return None

    return (await eventually(answer, f"{handle.id} answers {query}"))[0]


async def refusal(handle: WorkflowHandle[Any, Any], update: str, *arguments: object) -> ApplicationError | None:
    """Send an update, again where the server dropped it; return what it was refused with, None if it was accepted."""

    async def answer() -> tuple[ApplicationError | None] | None:
        try:
            await handle.execute_update(update, args=arguments)
        except (RPCError, WorkflowUpdateFailedError) as error:
            if is_dropped(error):
                return None
            if isinstance(error, RPCError) or not isinstance(error.cause, ApplicationError):
                raise
            return (error.cause,)
        return (None,)

    return (await eventually(answer, f"{handle.id} answers to {update}"))[0]


class Task:
    """One task on the test's server."""

    def __init__(self, podctl: PodctlClient, task_id: str) -> None:
        self.podctl = podctl
        self.id = task_id
        self.workflow_id = task_workflow_id(task_id)
        self.handle: WorkflowHandle[Any, Any] = podctl.temporal.get_workflow_handle(self.workflow_id)

    async def state(self) -> TaskState:
        return await self.podctl.task(self.id)

    async def until(self, condition: Callable[[TaskState], object], what: str) -> TaskState:
        """Return the first state that fulfils ``condition``."""
        last: list[TaskState] = []

        async def ask() -> TaskState | None:
            last[:] = [await self.state()]
            return last[0] if condition(last[0]) else None

        try:
            return await eventually(ask, what)
        except AssertionError as error:
            error.add_note(last[0].model_dump_json(indent=1))
            raise

    async def reaches(self, phase: str) -> TaskState:
        return await self.until(lambda state: state.phase == phase, f"task {self.id} reaches {phase}")

    async def signal(self, signal: str, **payload: JsonValue) -> Outcome:
        """Send a person's signal as podctl does and return its outcome."""
        outcome = await self.podctl.signal_task(self.id, signal, {"by": "ann", **payload})
        assert outcome is not None, "no worker processed the signal"
        return outcome

    async def ok(self, signal: str, **payload: JsonValue) -> None:
        outcome = await self.signal(signal, **payload)
        assert outcome.accepted, outcome

    async def work_begins(self) -> None:
        """Approve spec and plan."""
        await self.ok("approve-spec")
        await self.ok("approve-plan")

    async def events(self) -> list[Event]:
        """Return the events of the current run, as a live worker's query gives them."""
        return [Event.model_validate(event) for event in await asked(self.handle, names.EVENTS, 0)]

    async def event_types(self) -> list[str]:
        return [event.type for event in await self.events()]


class Tasks:
    """Makes tasks with ids of their own."""

    def __init__(self, podctl: PodctlClient, unique: Callable[[str], str]) -> None:
        self._podctl = podctl
        self._unique = unique

    async def create(
        self, plan: str | None = None, spec: str | None = "do it", config: TaskConfig | None = None
    ) -> Task:
        task_id = self._unique("task")
        given = TaskInput(
            task_id=task_id,
            title=f"Title of {task_id}",
            by="ann",
            command_id=new_command_id(),
            spec=spec,
            plan=None if plan is None else read_plan(plan, "plan.yaml"),
            config=config or TaskConfig(),
        )
        await self._podctl.create_task(given)
        return Task(self._podctl, task_id)


class Pod:
    """A machine as a GPU pod."""

    def __init__(self, podctl: PodctlClient, name: str) -> None:
        self.podctl = podctl
        self.name = name
        self.workflow_id = gpu_pod_workflow_id(name)
        self.handle: WorkflowHandle[Any, Any] = podctl.temporal.get_workflow_handle(self.workflow_id)

    async def state(self) -> GpuPodState:
        return await self.podctl.pod(self.name)

    async def until(self, condition: Callable[[GpuPodState], object], what: str) -> GpuPodState:
        last: list[GpuPodState] = []

        async def ask() -> GpuPodState | None:
            last[:] = [await self.state()]
            return last[0] if condition(last[0]) else None

        try:
            return await eventually(ask, what)
        except AssertionError as error:
            error.add_note(last[0].model_dump_json(indent=1, exclude={"ledger"}))
            raise

    async def server_is(self, server: str, state: str) -> ModelServer:
        pod = await self.until(
            lambda pod: server in pod.servers and pod.servers[server].state == state, f"{server} is {state}"
        )
        return pod.servers[server]

    async def start(self, server: str, **options: Any) -> None:  # noqa: ANN401 - start_request checks them
        request = start_request(builtin_catalog(), MODEL, server, **options)
        await self.podctl.execute_pod(self.name, StartServer(request=request), by="ann")

    async def event_types(self) -> list[str]:
        return [event.type for event in (await self.podctl.log(self.workflow_id)).events]

    async def story(self) -> str:
        return "\n".join(f"{e.type} {e.by} {e.payload}" for e in (await self.podctl.log(self.workflow_id)).events)


class SimulatedPod(Pod):
    """A simulated machine as a GPU pod."""

    def __init__(self, podctl: PodctlClient, name: str, machine: SimulatedMachine) -> None:
        super().__init__(podctl, name)
        self.machine = machine


def pod_input(name: str, ssh_command: str, host_key: str) -> PodInput:
    """Return what a pod of that name begins with; each has a folder of its own on its machine."""
    return PodInput(
        name=name,
        ssh=parse_ssh(ssh_command),
        host_key=" ".join(host_key.split()[:2]),
        root=f"~/.podctl-{name}",
        by="ann",
        command_id=new_command_id(),
    )


async def register(
    podctl: PodctlClient, machine: SimulatedMachine, name: str, task_queue: str | None = None
) -> SimulatedPod:
    given = pod_input(name, machine.ssh_command, machine.host_key)
    await podctl.register_pod(given.model_copy(update={"task_queue": task_queue}))
    return SimulatedPod(podctl, name, machine)


async def history_types(client: Client, workflow_id: str, run_id: str | None = None) -> Counter[str]:
    """Return how often each type of history event stands in a run."""
    history = await client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history()
    return Counter(EventType.Name(event.event_type).removeprefix("EVENT_TYPE_") for event in history.events)


#: Why the server itself gives a workflow task up that a worker is busy with: more than 2 MB, or 100 events, came in
#: meanwhile, or something came in that the end of a run would have passed over. It then gives it out anew.
_SERVERS_OWN = frozenset(
    {
        WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND,
        WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND,
    }
)


async def failed_workflow_tasks(client: Client, workflow_id: str) -> list[str]:
    """Return why workflow tasks of the newest run failed, but for what the server does of its own accord."""
    history = await client.get_workflow_handle(workflow_id).fetch_history()
    failed = [
        event.workflow_task_failed_event_attributes
        for event in history.events
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED
    ]
    return [
        f"{WorkflowTaskFailedCause.Name(one.cause)}: {one.failure.message}"
        for one in failed
        if one.cause not in _SERVERS_OWN
    ]


def raw(data: bytes, encoding: str = "json/plain", metadata: Mapping[str, bytes] | None = None) -> RawValue:
    """Return an argument that is sent exactly so, past every converter."""
    return RawValue(Payload(metadata={"encoding": encoding.encode(), **(metadata or {})}, data=data))
