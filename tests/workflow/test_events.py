"""The event log: the same from a live worker, from the history alone, and over runs that continued as new."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import (
    Client,
    FetchWorkflowHistoryEventsInput,
    Interceptor,
    OutboundInterceptor,
    WorkflowExecutionStatus,
    WorkflowHistoryEventAsyncIterator,
)
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import WorkflowEnvironment

import worker
from domain.entity import Event
from domain.task.commands import PostMessage
from domain.task.models import TaskConfig, TaskState
from podctl.client import NoWorker, PodctlClient
from podctl.deletion import deletable
from podctl.embedded import DYNAMIC_CONFIGURATION, temporal_program
from podctl.events import read_log
from podctl.export import ReplayDiffers, export_task, replay_export
from podctl.history import take_in
from remote.ssh import SshPool
from simulator.api import SimulatedMachine
from tests.workflow.support import PATIENCE, Pod, Task, Tasks, asked, eventually, register
from tests.workflow.test_task_pod import BY_SIGNAL, diamond
from workflows import names
from workflows.plugin import project_plugin
from workflows.search_attributes import SEARCH_ATTRIBUTES

#: Events in a run's history after which the server suggests to continue as new, as early as is useful.
SHORT_RUN = 60


def said(events: list[Event]) -> list[Event]:
    """Return events as the workflow knows them: without the client, which only history tells."""
    return [event.model_copy(update={"client": None}) for event in events]


async def live_events(task: Task | Pod) -> list[Event]:
    """Return the events of every run of the chain, oldest first, as a live worker's query gives them."""
    runs = task.podctl.temporal.list_workflows(f'WorkflowId = "{task.workflow_id}"')
    started = sorted([run async for run in runs], key=lambda run: run.start_time)
    events = []
    for run in started:
        handle = task.podctl.temporal.get_workflow_handle(task.workflow_id, run_id=run.run_id)
        events += [Event.model_validate(event) for event in await asked(handle, names.EVENTS, 0)]
    return events


async def finish(task: Task) -> None:
    """Have a person do everything that a diamond of commands leaves to people."""
    await task.work_begins()
    await task.until(lambda s: s.workstreams["right"].status == "in_progress", "it is a person's turn")
    await task.ok("workstream-result", workstream="right", status="completed")
    await task.reaches("review")
    await task.ok("approve-review")
    await task.handle.result()


async def test_a_finished_task_has_the_same_events_from_a_worker_and_without_one(
    client: Client, pool: SshPool, task_queue: str, machine: SimulatedMachine, unique: Callable[[str], str]
) -> None:
    podctl = PodctlClient(client, task_queue)
    async with worker.build_worker(client, pool, task_queue):
        pod = await register(podctl, machine, unique("pod"))
        task = await Tasks(podctl, unique).create(diamond(pod.name))
        await task.handle.signal("nonsense")
        await finish(task)
        await pod.server_is("coder", "stopped")
        live, live_pod = await task.events(), await live_events(pod)
        live_state = await task.state()
    log = await podctl.log(task.workflow_id)
    assert said([*log.events]) == live
    assert log.state.model_copy(update={"ledger": {}}) == live_state
    assert log.closed
    assert log.missing_through == 0
    assert [event.sequence for event in log.events] == list(range(1, len(log.events) + 1))
    assert said([*(await podctl.log(pod.workflow_id)).events]) == live_pod
    # Who sent it stands beside who says to have sent it, for everything that came from outside.
    assert all(event.client for event in log.events if event.by == "ann" or event.type == "command_refused")
    assert not any(event.client for event in log.events if event.by == "podctl")


async def test_state_and_events_can_be_read_and_signals_sent_while_no_worker_runs(
    client: Client, pool: SshPool, task_queue: str, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    podctl = PodctlClient(client, task_queue)
    task = await Tasks(podctl, unique).create(BY_SIGNAL)
    # Not even its first workflow task has been done: nothing has happened, but what it will begin with is known.
    log = await podctl.log(task.workflow_id)
    assert (log.events, log.missing_through) == ((), 0)
    assert (await podctl.task(task.id)).phase == "spec_clarification"
    async with worker.build_worker(client, pool, task_queue):
        await task.ok("approve-spec")
    assert (await podctl.task(task.id)).phase == "planning"
    before = len((await podctl.log(task.workflow_id)).events)
    # Recorded one after the other; each takes effect as if a worker had been there.
    with monkeypatch.context() as hasty:
        hasty.setattr("podctl.client.ANSWER_TIMEOUT", 0.5)
        assert await podctl.signal_task(task.id, "approve-plan", {"by": "ann"}) is None
        assert (
            await podctl.signal_task(
                task.id, "workstream-result", {"by": "ann", "workstream": "first", "status": "completed"}
            )
            is None
        )
        with pytest.raises(NoWorker):
            await podctl.execute_task(task.id, PostMessage(content="by update"), by="ann")
    assert len((await podctl.log(task.workflow_id)).events) == before
    async with worker.build_worker(client, pool, task_queue):
        state = await task.until(lambda s: s.phase == "workstream_execution", "the signals take effect")
    assert state.workstreams["first"].status == "completed"
    assert not state.refusals


async def test_following_gives_every_event_once_until_the_task_ends(tasks: Tasks, podctl: PodctlClient) -> None:
    task = await tasks.create(BY_SIGNAL)
    await task.ok("approve-spec")
    since = (await task.events())[2].sequence
    followed: list[Event] = []

    async def follow() -> None:
        async for event in podctl.follow(task.workflow_id, since):
            followed.append(event)  # noqa: PERF401 - one by one, as they come

    following = asyncio.create_task(follow())
    await task.ok("approve-plan")

    async def seen() -> bool:
        return any(event.type == "plan_approved" for event in followed)

    await eventually(seen, "the follower sees the approval while the task goes on")
    for name in ("first", "second"):
        await task.ok("workstream-result", workstream=name, status="completed")
    await task.ok("approve-review")
    await following
    assert followed == [*(await podctl.log(task.workflow_id)).events[since:]]


async def test_what_an_update_did_is_followed_at_once_though_nothing_else_happens(
    tasks: Tasks, podctl: PodctlClient
) -> None:
    task = await tasks.create(BY_SIGNAL)
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def follow() -> None:
        async for event in podctl.follow(task.workflow_id):
            seen.put_nowait(event.type)

    following = asyncio.create_task(follow())
    try:
        async with asyncio.timeout(PATIENCE):
            while await seen.get() != "plan_updated":
                pass
            for number in range(3):
                await podctl.execute_task(task.id, PostMessage(content=f"number {number}"), by="ann")
                assert await seen.get() == "message_posted"
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


# -- over runs ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def short_runs() -> AsyncIterator[Client]:
    """A client of a server that has workflows continue as new after a few dozen events."""
    settings = [*DYNAMIC_CONFIGURATION, f"limit.historyCount.suggestContinueAsNew={SHORT_RUN}"]
    async with await WorkflowEnvironment.start_local(
        plugins=[project_plugin()],
        search_attributes=SEARCH_ATTRIBUTES,
        dev_server_existing_path=str(temporal_program()),
        dev_server_extra_args=[word for setting in settings for word in ("--dynamic-config-value", setting)],
        dev_server_startup_timeout=timedelta(seconds=60),
    ) as environment:
        yield environment.client


@contextlib.asynccontextmanager
async def working(client: Client, pool: SshPool, task_queue: str) -> AsyncIterator[PodctlClient]:
    async with worker.build_worker(client, pool, task_queue):
        yield PodctlClient(client, task_queue)


async def run_ids(client: Client, workflow_id: str) -> list[str]:
    log_runs = client.list_workflows(f'WorkflowId = "{workflow_id}"')
    return [run.run_id for run in sorted([run async for run in log_runs], key=lambda run: run.start_time)]


async def test_a_task_over_several_runs_loses_nothing_and_doubles_nothing(
    short_runs: Client, pool: SshPool, task_queue: str, machine: SimulatedMachine, unique: Callable[[str], str],
    tmp_path: Path,
) -> None:  # fmt: skip
    runs, go_on = tmp_path / "runs", tmp_path / "go-on"
    plan = f"""
workstreams:
  - id: long
    title: A run that lasts over the change of runs
    executor:
      type: command
      pod: {{pod}}
      argv: [sh, -c, 'echo run >> {runs}; while [ ! -e {go_on} ]; do sleep 0.05; done; echo over']
  - {{{{id: talk, title: Talk, executor: signal}}}}
"""
    async with working(short_runs, pool, task_queue) as podctl:
        pod = await register(podctl, machine, unique("pod"))
        task = await Tasks(podctl, unique).create(plan.format(pod=pod.name))
        followed: list[Event] = []

        async def follow() -> None:
            followed.extend([event async for event in podctl.follow(task.workflow_id)])

        following = asyncio.create_task(follow())
        await task.work_begins()

        async def begun() -> bool:
            return runs.exists()

        await eventually(begun, "the command runs")
        first_run = (await task.handle.describe()).run_id

        async def continued() -> bool:
            await task.ok("message", content="still there?")
            return (await task.handle.describe()).run_id != first_run

        await eventually(continued, "the task has continued as new")
        # A command id of the run before still counts once.
        said_once = PostMessage(content="once")
        for _ in range(2):
            await podctl.execute_task(task.id, said_once, by="ann", command_id="over-the-runs")
        second_run = (await task.handle.describe()).run_id

        async def continued_again() -> bool:
            await task.ok("message", content="and now?")
            return (await task.handle.describe()).run_id != second_run

        await eventually(continued_again, "the task has continued as new once more")
        assert (await podctl.execute_task(task.id, said_once, by="ann", command_id="over-the-runs")).accepted
        go_on.touch()
        await task.until(lambda s: s.workstreams["long"].status == "completed", "the run's end is seen")
        await task.ok("workstream-result", workstream="talk", status="completed")
        await task.ok("approve-review")
        await task.handle.result()
        await following

        state = await task.state()
        log = await podctl.log(task.workflow_id)

        async def all_listed() -> list[Event]:
            events = await live_events(task)
            return events if len(events) >= len(log.events) else []

        live = await eventually(all_listed, "every run is listed")
    assert runs.read_text() == "run\n", "the activity in flight was given on, the command not run again"
    assert state.workstreams["long"].attempt == 1
    assert [event.sequence for event in log.events] == list(range(1, len(log.events) + 1))
    assert said([*log.events]) == live
    assert followed == [*log.events]
    assert Counter(message.content for message in state.messages.values())["once"] == 1
    export = await export_task(podctl, task.id)
    assert len(export.runs) == len(await run_ids(short_runs, task.workflow_id)) >= 3
    assert {*(await deletable(podctl, task.id)).runs} == {run.run_id for run in export.runs}
    assert (await replay_export(export)).events == len(log.events)
    # What a run began with is part of what is compared: it is where the run before it ended.
    other = export.model_copy(update={"runs": (export.runs[0], *export.runs[2:])})
    with pytest.raises(ReplayDiffers, match="the state at the end of run 1"):
        await replay_export(other)
    # Everything that the Web UI shows has come along, but for the static summary, which Temporal drops.
    described = await task.handle.describe()
    assert described.status is WorkflowExecutionStatus.COMPLETED
    assert (await described.memo())["phase"] == "completed"


async def test_a_pod_over_several_runs_keeps_its_server_and_goes_on_watching(
    short_runs: Client, pool: SshPool, task_queue: str, machine: SimulatedMachine, unique: Callable[[str], str]
) -> None:
    async with working(short_runs, pool, task_queue) as podctl:
        pod = await register(podctl, machine, unique("pod"))
        await pod.start("coder")
        before = await pod.server_is("coder", "ready")
        first_run = (await pod.handle.describe()).run_id

        async def continued() -> bool:
            await pod.handle.signal("hello")
            return (await pod.handle.describe()).run_id != first_run

        await eventually(continued, "the pod has continued as new")
        after = (await pod.state()).servers["coder"]
        assert (after.state, after.pid, after.counter) == ("ready", before.pid, 1)
        await machine.reboot()
        await pod.server_is("coder", "failed")
        types = await pod.event_types()
        assert types.count("server_launching") == 1
        assert types.count("pod_registered") == 1


class Retention(Interceptor):
    """Answers for one run as the server does when its retention is over."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:  # noqa: A002 - the SDK's name
        gone = self.run_id

        class Outbound(OutboundInterceptor):
            def fetch_workflow_history_events(
                self,
                input: FetchWorkflowHistoryEventsInput,  # noqa: A002 - the SDK's name
            ) -> WorkflowHistoryEventAsyncIterator:
                if input.run_id == gone:
                    raise RPCError(f"workflow not found for ID: {input.id}", RPCStatusCode.NOT_FOUND, b"")
                return super().fetch_workflow_history_events(input)

        return Outbound(next)


async def test_what_is_past_retention_is_said(
    short_runs: Client, pool: SshPool, task_queue: str, unique: Callable[[str], str]
) -> None:
    async with working(short_runs, pool, task_queue) as podctl:
        task = await Tasks(podctl, unique).create(BY_SIGNAL)
        await task.work_begins()
        first_run = (await task.handle.describe()).run_id

        async def continued() -> bool:
            await task.ok("message", content="still there?")
            return (await task.handle.describe()).run_id != first_run

        await eventually(continued, "the task has continued as new")
        await task.ok("message", content="the newest")
        whole = await podctl.log(task.workflow_id)
        forgetful = Client(short_runs.service_client, interceptors=[Retention(first_run)])
        log = await read_log(forgetful, task.workflow_id)
        export = await export_task(PodctlClient(forgetful), task.id)
        assert (await replay_export(export)).missing_through == log.missing_through
    kept = len(whole.events) - log.missing_through
    assert 0 < kept < len(whole.events)
    assert list(log.events) == list(whole.events[log.missing_through :])
    assert log.state == whole.state
    assert isinstance(log.state, TaskState)
    assert log.state.plan
    assert log.state.plan.approval, "approvals stay in the state"


async def test_a_run_that_no_worker_has_taken_up_yet_hides_nothing(
    short_runs: Client, pool: SshPool, task_queue: str, unique: Callable[[str], str]
) -> None:
    async with working(short_runs, pool, task_queue) as podctl:
        task = await Tasks(podctl, unique).create(BY_SIGNAL)
        await task.work_begins()
    first_run = (await task.handle.describe()).run_id
    for number in range(SHORT_RUN):
        await task.handle.signal("message", {"by": "ann", "content": f"message {number}"})
    # One workflow task takes them all in and continues as new; its worker ends before the new run begins.
    async with working(short_runs, pool, task_queue):

        async def continued() -> bool:
            return (await task.handle.describe()).run_id != first_run

        await eventually(continued, "the task has continued as new")
    log = await read_log(short_runs, task.workflow_id)
    assert sum(event.type == "message_posted" for event in log.events) == SHORT_RUN


async def test_what_the_long_poll_showed_too_early_is_replaced_by_what_was_written_down() -> None:
    # As Temporal 1.32 gives them: a workflow task that an update made, shown, dropped, and its ids used again.
    shown = [
        (1, EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED),
        (2, EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED),
        (3, EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED),
        (2, EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED),
        (3, EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED),
    ]
    history: list[HistoryEvent] = []
    for event_id, kind in shown:
        take_in(history, HistoryEvent(event_id=event_id, event_type=kind))
    assert [(event.event_id, event.event_type) for event in history] == [shown[0], *shown[3:]]


async def test_a_notify_hook_that_runs_when_a_run_begins_anew_is_not_called_again(
    short_runs: Client, pool: SshPool, task_queue: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    hook = ("/bin/sh", "-c", 'cat >> "$1/told"; echo >> "$1/told"; while [ ! -e "$1/go" ]; do sleep 0.05; done')
    async with working(short_runs, pool, task_queue) as podctl:
        config = TaskConfig(notify=(*hook, "hook", str(tmp_path)))
        task = await Tasks(podctl, unique).create(BY_SIGNAL, config=config)

        async def called() -> bool:
            return (tmp_path / "told").exists()

        await eventually(called, "the hook is called")
        for number in range(SHORT_RUN // 3):
            await podctl.execute_task(task.id, PostMessage(content=f"m {number}"), by="ann")
        (tmp_path / "go").touch()

        async def began_anew() -> bool:
            return len(await run_ids(short_runs, task.workflow_id)) > 1

        await eventually(began_anew, "the next run has begun")
        await task.until(lambda state: state.inbox["approve/spec/1/0"].notified_at, "the call is known of")
        await task.ok("approve-spec")
        # Approved sooner, the plan would not wait for anybody any more, and nobody would be told of it.
        await task.until(lambda state: state.inbox["approve/plan/1/1"].notified_at, "the next call is known of")
        await task.ok("approve-plan")
        told = [json.loads(line)["item"] for line in (tmp_path / "told").read_text().splitlines()]
        assert told == ["approve/spec/1/0", "approve/plan/1/1"]


async def test_the_query_gives_events_by_the_page(podctl: PodctlClient, tasks: Tasks) -> None:
    task = await tasks.create(BY_SIGNAL)
    for _ in range(210):
        await task.handle.signal("message", {"by": "ann", "content": "x" * 10_000})
    pages: list[list[dict[str, Any]]] = []
    since = 0
    while page := await asked(task.handle, names.EVENTS, since):
        pages.append(page)
        since = page[-1]["sequence"]
    assert max(len(json.dumps(page)) for page in pages) < 300_000
    assert len(pages) > 5
    events = (await podctl.log(task.workflow_id)).events
    assert [event["sequence"] for page in pages for event in page] == [event.sequence for event in events]
