"""Whole tasks against a real Temporal server: gates, executors, failures, cancelling, and every malformed message."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import JsonValue
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

from domain.task.commands import CancelTask, PostMessage, UpdatePlan, UpdateSpec
from domain.task.models import GateMode, Gates, PlanDraft, TaskConfig, TaskInput
from domain.task.plan_file import read_plan
from podctl.client import AlreadyExists, NotFound, PodctlClient, Refused, new_command_id
from tests.workflow.support import (
    MODEL,
    SimulatedPod,
    Task,
    Tasks,
    eventually,
    failed_workflow_tasks,
    history_types,
    raw,
    refusal,
)
from workflows import names

BY_SIGNAL = """
summary: two parts
workstreams:
  - {id: first, title: First, executor: signal}
  - {id: second, title: Second, depends_on: [first], executor: signal}
"""


def diamond(pod: str) -> str:
    return f"""
summary: a diamond
model_servers:
  - {{name: coder, model: {MODEL}, pod: {pod}, restart: on-failure, idle_ttl: 30m}}
workstreams:
  - id: ask
    title: Ask the model
    executor:
      type: command
      server: coder
      argv: [sh, -c, 'echo "$OPENAI_BASE_URL $OPENAI_MODEL ${{#OPENAI_API_KEY}} $PODCTL_TASK"']
  - {{id: left, title: Left, depends_on: [ask], executor: {{type: command, server: coder, argv: [echo, left]}}}}
  - {{id: right, title: Right, depends_on: [ask], executor: signal}}
  - {{id: join, title: Join, depends_on: [left, right], executor: {{type: command, argv: [pwd]}}}}
"""


def one_command(pod: str, argv: str, more: str = "") -> str:
    return f"""
workstreams:
  - {{id: work, title: Work, executor: {{type: command, pod: {pod}, argv: {argv}{more}}}}}
  - {{id: after, title: After, depends_on: [work], executor: signal}}
"""


async def settles(task: Task, workstream: str, status: str) -> None:
    await task.until(lambda s: s.workstreams[workstream].status == status, f"{workstream} is {status}")


async def no_workflow_task_failed(task: Task) -> None:
    assert not await failed_workflow_tasks(task.podctl.temporal, task.workflow_id)


# -- from wish to completed ---------------------------------------------------------------------------------------


async def test_a_task_goes_through_every_gate_with_a_person_at_each(tasks: Tasks) -> None:
    task = await tasks.create(BY_SIGNAL)
    assert (await task.state()).phase == "spec_clarification"
    await task.ok("approve-spec", revision=1)
    assert (await task.state()).phase == "planning"
    await task.ok("approve-plan", revision=1, comment="good")
    state = await task.state()
    assert state.phase == "workstream_execution"
    assert state.workstreams["first"].status == "in_progress"
    assert state.workstreams["second"].status == "pending"

    await task.ok("workstream-result", workstream="first", status="completed", result="done", artifacts=["a.md"])
    assert (await task.state()).workstreams["second"].status == "in_progress"
    await task.ok("workstream-result", workstream="second", status="completed")
    assert (await task.state()).phase == "review"
    await task.ok("approve-review")
    state = await task.reaches("completed")
    assert state.plan
    assert state.plan.approval
    assert (state.plan.approval.by, state.plan.approval.comment) == ("ann", "good")
    assert state.workstreams["first"].result
    assert state.workstreams["first"].result.artifacts == ("a.md",)
    assert (await task.handle.describe()).status is WorkflowExecutionStatus.COMPLETED


async def test_a_diamond_of_commands_runs_on_the_model_server_its_plan_names(tasks: Tasks, pod: SimulatedPod) -> None:
    task = await tasks.create(diamond(pod.name))
    await task.work_begins()
    await settles(task, "right", "in_progress")
    await task.ok("workstream-result", workstream="right", status="completed")
    state = await task.reaches("review")

    results = {name: ws.result.text for name, ws in state.workstreams.items() if ws.result}
    server = (await pod.state()).servers["coder"]
    assert server.plan
    assert (server.request.restart, server.request.idle_ttl) == ("on-failure", 1800.0)
    url, model, key_length, name = results["ask"].split()
    assert (url, model) == (f"http://{pod.machine.address}:{server.plan.port}/v1", MODEL)
    assert int(key_length) > 20
    assert name == task.id
    assert results["join"].endswith(f"/work/{task.id}/join\n")

    await task.ok("approve-review")
    await task.reaches("completed")
    stopped = await pod.server_is("coder", "stopped")
    assert stopped.stop_result
    assert stopped.stop_result.processes_left == 0
    assert stopped.counter == 1
    assert set((await pod.machine.gpu_memory()).values()) == {0}
    assert state.servers["coder"].launch_id == f"{pod.name}/coder/1"


async def test_a_command_is_told_of_the_task_and_of_what_it_depends_on(tasks: Tasks, pod: SimulatedPod) -> None:
    show = """[sh, -c, 'cat "$PODCTL_INPUT"']"""
    task = await tasks.create(
        f"""
workstreams:
  - {{id: first, title: First, executor: signal}}
  - id: work
    title: Work
    description: as described
    depends_on: [first]
    executor: {{type: command, pod: {pod.name}, argv: {show}}}
"""
    )
    await task.work_begins()
    await task.ok("workstream-result", workstream="first", status="completed", result="found it", artifacts=["a.md"])
    state = await task.reaches("review")
    result = state.workstreams["work"].result
    assert result
    told = json.loads(result.text)
    assert (told["task"], told["spec"]["content"]) == (task.id, "do it")
    assert told["workstream"]["description"] == "as described"
    first = {"id": "first", "title": "First", "status": "completed", "result": "found it", "artifacts": ["a.md"]}
    assert told["workstream"]["dependencies"] == [first]


async def test_automatic_gates_need_nobody(tasks: Tasks) -> None:
    gates = Gates(spec=GateMode.AUTO, plan=GateMode.AUTO, review=GateMode.AUTO)
    task = await tasks.create(BY_SIGNAL, config=TaskConfig(gates=gates))
    await task.reaches("workstream_execution")
    for name in ("first", "second"):
        await task.ok("workstream-result", workstream=name, status="completed")
    await task.reaches("completed")


async def test_what_is_written_after_the_start_is_approved_in_its_newest_revision(
    tasks: Tasks, podctl: PodctlClient
) -> None:
    task = await tasks.create(spec=None)
    for code, signal in (("spec_empty", "approve-spec"), ("invalid_phase", "approve-plan")):
        outcome = await task.signal(signal)
        assert (outcome.accepted, outcome.code) == (False, code), outcome
    for content in ("first thought", "second thought"):
        await podctl.execute_task(task.id, UpdateSpec(content=content), by="ann")
    with pytest.raises(Refused) as refused:
        await podctl.execute_task(task.id, UpdateSpec(content="late", base_revision=1), by="bob")
    assert refused.value.code == "stale_revision"

    outcome = await task.signal("approve-spec", revision=1)
    assert outcome.code == "stale_revision"
    await task.ok("approve-spec", revision=2)
    assert (await task.signal("approve-spec", revision=2)).code == "already_approved"
    assert (await task.signal("approve-review")).code == "invalid_phase"
    assert (await task.signal("approve-plan")).code == "plan_empty"
    await podctl.execute_task(task.id, UpdatePlan(plan=read_plan(BY_SIGNAL, "p")), by="ann")
    await task.ok("approve")
    assert (await task.state()).phase == "workstream_execution"
    assert (await task.signal("approve")).code == "nothing_to_approve"
    assert (await task.signal("reject", gate="plan")).code == "nothing_to_approve"
    await no_workflow_task_failed(task)


async def test_a_plan_is_sent_back_with_a_reason_and_approved_after_an_edit(tasks: Tasks, podctl: PodctlClient) -> None:
    task = await tasks.create(BY_SIGNAL)
    await task.ok("approve-spec")
    await task.ok("reject", gate="plan", comment="tests are missing")
    state = await task.state()
    assert state.phase == "planning"
    assert state.plan
    assert state.plan.rejection
    assert state.plan.rejection.comment == "tests are missing"
    await podctl.execute_task(task.id, UpdatePlan(plan=read_plan(BY_SIGNAL, "p")), by="ann")
    assert (await task.signal("approve-plan", revision=1)).code == "stale_revision"
    await task.ok("approve-plan", revision=2)


def work_item(name: str, *depends_on: str, **executor: JsonValue) -> dict[str, JsonValue]:
    return {"id": name, "title": name, "depends_on": [*depends_on], "executor": executor or {"type": "signal"}}


@pytest.mark.parametrize(
    ("workstreams", "code"),
    [
        ([work_item("a", "gone")], "unknown_dependency"),
        ([work_item("a", "a")], "self_dependency"),
        ([work_item("a", "b"), work_item("b", "a")], "dependency_cycle"),
        ([work_item("a"), work_item("a")], "duplicate_workstream"),
        ([work_item("a", type="command", argv=["ls"])], "no_pod"),
        ([work_item("a", type="command", argv=["ls"], server="gone")], "unknown_server"),
    ],
)
async def test_a_plan_that_cannot_work_is_refused_and_leaves_no_trace(
    tasks: Tasks, podctl: PodctlClient, workstreams: JsonValue, code: str
) -> None:
    task = await tasks.create()
    await task.state()
    before = await history_types(podctl.temporal, task.workflow_id)
    # Not from a plan file: reading one finds these, and says where they stand.
    plan = PlanDraft.model_validate({"workstreams": workstreams})
    with pytest.raises(Refused) as refused:
        await podctl.execute_task(task.id, UpdatePlan(plan=plan), by="ann")
    assert refused.value.code == code
    after = await history_types(podctl.temporal, task.workflow_id)
    assert after["WORKFLOW_EXECUTION_UPDATE_ACCEPTED"] == before["WORKFLOW_EXECUTION_UPDATE_ACCEPTED"] == 0


# -- failures and decisions ---------------------------------------------------------------------------------------


BREAKS = "[sh, -c, 'echo broken; exit 3']"


async def failed_task(
    tasks: Tasks, pod: SimulatedPod, argv: str = "[sh, -c, 'echo broken; exit 3']"
) -> tuple[Task, str]:
    """Return a task whose first workstream has failed, and the id of the question what is to become of it."""
    task = await tasks.create(one_command(pod.name, argv))
    await task.work_begins()
    state = await task.until(lambda s: list(s.open_approvals()), "the failure is asked about")
    assert state.workstreams["work"].status == "failed"
    assert state.workstreams["after"].status == "blocked"
    (question,) = state.open_approvals()
    assert question.approval
    assert question.approval.options == ("retry", "skip", "fix", "cancel")
    return task, question.message_id


async def test_a_failed_command_is_asked_about_with_its_exit_code_and_output(tasks: Tasks, pod: SimulatedPod) -> None:
    task, question = await failed_task(tasks, pod)
    work = (await task.state()).workstreams["work"]
    assert work.error == "exit code 3"
    assert work.result
    assert work.result.run
    assert (work.result.text, work.result.run.exit_code, work.result.run.size) == ("broken\n", 3, 7)
    assert (await task.signal("approve", message_id=question, choice="whatever")).code == "invalid_choice"
    assert (await task.signal("approve", message_id="m-99", choice="retry")).code == "message_not_found"


async def test_retry_runs_it_again_under_an_id_of_its_own(tasks: Tasks, pod: SimulatedPod) -> None:
    task, question = await failed_task(
        tasks, pod, "[sh, -c, 'if [ -e tried ]; then echo again; else touch tried; exit 1; fi']"
    )
    await task.ok("approve", message_id=question, choice="retry")
    await settles(task, "work", "completed")
    state = await task.state()
    assert state.workstreams["work"].attempt == 2
    assert state.workstreams["work"].result
    assert state.workstreams["work"].result.text == "again\n"
    assert state.workstreams["after"].status == "in_progress"
    assert (await task.signal("approve", message_id=question, choice="retry")).code == "already_approved"


async def test_skip_lets_the_dependents_go_on(tasks: Tasks, pod: SimulatedPod) -> None:
    task, question = await failed_task(tasks, pod)
    await task.ok("approve", message_id=question, choice="skip")
    state = await task.state()
    assert state.workstreams["work"].status == "skipped"
    assert state.workstreams["after"].status == "in_progress"


async def test_a_person_fixes_it_by_hand(tasks: Tasks, pod: SimulatedPod) -> None:
    task, question = await failed_task(tasks, pod)
    await task.ok("approve", message_id=question, choice="fix")
    assert (await task.state()).workstreams["work"].status == "awaiting_input"
    await task.ok("workstream-result", workstream="work", status="completed", result="mended")
    state = await task.state()
    assert state.workstreams["work"].completed_by == "ann"
    assert state.workstreams["after"].status == "in_progress"


async def test_cancel_is_an_answer_too(tasks: Tasks, pod: SimulatedPod) -> None:
    task, question = await failed_task(tasks, pod)
    await task.ok("approve", message_id=question, choice="cancel")
    await task.reaches("cancelled")
    await task.handle.result()


async def test_a_program_that_is_not_there_fails_with_its_name(tasks: Tasks, pod: SimulatedPod) -> None:
    task, _ = await failed_task(tasks, pod, "[no-such-program-anywhere]")
    work = (await task.state()).workstreams["work"]
    assert "no-such-program-anywhere" in (work.error or "")
    # Nothing ran, and saying so needs no run to be stopped for ever.
    await task.until(lambda s: not s.stopping_runs, "no run is left to stop")


async def test_a_program_that_takes_too_long_is_stopped(tasks: Tasks, pod: SimulatedPod) -> None:
    task = await tasks.create(one_command(pod.name, "[sleep, '1000']", more=", timeout_seconds: 0.5"))
    await task.work_begins()
    await settles(task, "work", "failed")
    assert "took longer than 0.5 s" in ((await task.state()).workstreams["work"].error or "")
    assert [p for p in await pod.machine.processes() if p.title == "sleep 1000"] == []


async def test_a_command_on_a_pod_that_nobody_added_fails_with_what_to_do(tasks: Tasks) -> None:
    task = await tasks.create(one_command("nowhere", "[ls]"))
    await task.work_begins()
    await settles(task, "work", "failed")
    state = await task.until(lambda s: not s.stopping_runs, "no run is left to stop")
    assert "nowhere" in (state.workstreams["work"].error or "")


async def test_a_model_server_on_a_pod_that_nobody_added_is_asked_about(tasks: Tasks) -> None:
    task = await tasks.create(diamond("nowhere"))
    await task.work_begins()
    state = await task.until(lambda s: list(s.open_approvals()), "the server is asked about")
    assert "podctl pods add nowhere" in state.servers["coder"].detail
    (question,) = state.open_approvals()
    await task.ok("approve", message_id=question.message_id, choice="cancel")
    await task.handle.result()


# -- cancelling ---------------------------------------------------------------------------------------------------


async def running_command(tasks: Tasks, pod: SimulatedPod) -> Task:
    task = await tasks.create(one_command(pod.name, "[sleep, '1000']"))
    await task.work_begins()

    async def runs() -> bool:
        return any(process.title == "sleep 1000" for process in await pod.machine.processes())

    await eventually(runs, "the command runs")
    return task


@pytest.mark.parametrize("way", ["command", "temporal"])
async def test_cancelling_stops_what_runs_and_is_final_after_that(
    tasks: Tasks, pod: SimulatedPod, podctl: PodctlClient, way: str
) -> None:
    task = await running_command(tasks, pod)
    if way == "command":
        await podctl.execute_task(task.id, CancelTask(reason="not needed"), by="ann")
    else:
        await task.handle.cancel(reason="not needed")
    await task.handle.result()
    assert [p for p in await pod.machine.processes() if p.title == "sleep 1000"] == []
    state = await task.state()
    assert (state.phase, state.cancel_reason) == ("cancelled", "not needed")
    assert state.cancelled_by == ("ann" if way == "command" else "temporal")
    assert (await task.event_types())[-1] == "run_stopped"
    with pytest.raises(Refused) as refused:
        await podctl.execute_task(task.id, UpdateSpec(content="more"), by="ann")
    assert refused.value.code == "already_terminal"


async def test_cancelling_releases_a_model_server_that_still_loads(tasks: Tasks, pod: SimulatedPod) -> None:
    await pod.machine.settings(load_seconds=1000)
    task = await tasks.create(diamond(pod.name))
    await task.work_begins()
    await task.until(lambda s: s.servers and s.servers["coder"].status == "loading", "the server loads")
    await task.handle.cancel()
    await task.handle.result()
    await pod.server_is("coder", "stopped")


# -- messages -----------------------------------------------------------------------------------------------------


async def test_a_command_counts_once_however_often_it_is_sent(tasks: Tasks, podctl: PodctlClient) -> None:
    task = await tasks.create()
    said = PostMessage(content="once")
    outcomes = [await podctl.execute_task(task.id, said, by="ann", command_id="say-it") for _ in range(2)]
    # A client that sends the same command under another update id, as after a continue-as-new.
    again = {"command_id": "say-it", "by": "ann", "command": said.model_dump(mode="json")}
    assert await refusal(task.handle, names.EXECUTE, again) is None
    assert [outcome.accepted for outcome in outcomes] == [True, True]
    assert len((await task.state()).messages) == 1
    await task.ok("message", content="twice", command_id="by-signal")
    await task.ok("message", content="twice", command_id="by-signal")
    assert len((await task.state()).messages) == 2


async def test_the_outcome_of_every_command_can_be_asked_for(tasks: Tasks) -> None:
    task = await tasks.create()
    assert await task.handle.query(names.OUTCOME, "never-sent") is None
    await task.ok("approve-spec", command_id="good")
    refused = await task.signal("approve-spec", command_id="bad")
    assert refused.code == "already_approved"
    assert "ann" in refused.message
    assert await task.podctl.temporal.get_workflow_handle(task.workflow_id).query(names.OUTCOME, "good") == {
        "command_id": "good", "accepted": True, "code": "", "message": "",
    }  # fmt: skip


MALFORMED: list[tuple[str, str, Sequence[RawValue], str]] = [
    ("no argument", "approve-spec", [], "wrong_argument_count"),
    ("two arguments", "approve-spec", [raw(b"{}"), raw(b"{}")], "wrong_argument_count"),
    ("bytes", "approve-spec", [raw(b"\x00\xff\x00", "binary/plain")], "wrong_payload"),
    ("null", "approve-spec", [raw(b"", "binary/null")], "wrong_payload"),
    ("broken JSON", "approve-spec", [raw(b'{"by": "ann"')], "wrong_payload"),
    ("bytes that are no text", "approve-spec", [raw(b"\xff\xfe\xfa")], "wrong_payload"),
    ("unknown encoding", "approve-spec", [raw(b"{}", "something/else")], "wrong_payload"),
    ("no encoding", "approve-spec", [RawValue(raw(b"{}").payload.__class__(data=b"{}"))], "wrong_payload"),
    ("encrypted by nobody", "approve-spec", [raw(b"secret", "binary/encrypted")], "wrong_payload"),
    ("nested too deeply", "approve-spec", [raw(b"[" * 5_000 + b"]" * 5_000)], "wrong_payload"),
    ("a text", "approve-spec", [raw(b'"yes"')], "wrong_payload"),
    ("a list", "approve-spec", [raw(b"[]")], "wrong_payload"),
    ("an unknown field", "approve-spec", [raw(b'{"who": "ann"}')], "wrong_payload"),
    ("a field of another type", "approve-spec", [raw(b'{"revision": "one"}')], "wrong_payload"),
    ("not a number", "approve-spec", [raw(b'{"revision": NaN}')], "wrong_payload"),
    ("half a character", "message", [raw(b'{"content": "\\ud800"}')], "wrong_payload"),
    ("a missing field", "workstream-result", [raw(b'{"workstream": "first"}')], "wrong_payload"),
    ("an unknown name", "aprove-spec", [raw(b"{}")], "unknown_signal"),
    ("the name of an update", names.EXECUTE, [raw(b"{}")], "unknown_signal"),
]


async def test_malformed_signals_are_refused_visibly_and_the_task_goes_on(tasks: Tasks) -> None:
    task = await tasks.create(BY_SIGNAL)
    for _, signal, arguments, _ in MALFORMED:
        await task.handle.signal(signal, args=arguments)
    state = await task.until(lambda s: len(s.refusals) == len(MALFORMED), "every one of them is refused")
    seen = [(what, refusal.code) for (what, *_), refusal in zip(MALFORMED, state.refusals, strict=True)]
    assert seen == [(what, code) for what, _, _, code in MALFORMED]
    assert (await task.event_types()).count("command_refused") == len(MALFORMED)
    memo = await (await task.handle.describe()).memo()
    assert memo["refused"] == len(MALFORMED)
    assert "aprove-spec" in await details(task)

    await task.work_begins()
    assert (await task.state()).phase == "workstream_execution"
    await no_workflow_task_failed(task)
    log = await task.podctl.log(task.workflow_id)
    refused = [event for event in log.events if event.type == "command_refused"]
    assert all(event.client for event in refused), "the reader names who sent them"


async def details(task: Task) -> str:
    metadata: WorkflowMetadata = await task.handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
    return metadata.current_details


async def test_a_flood_of_large_refused_signals_does_not_outgrow_the_state(tasks: Tasks) -> None:
    task = await tasks.create(BY_SIGNAL)
    await task.work_begins()
    large = "x" * 400_000
    for number in range(25):
        await task.handle.signal("workstream-result", {"workstream": f"{number}{large}", "status": "completed"})
    state = await task.until(
        lambda s: s.refusals and s.refusals[-1].message.startswith("there is no workstream '24x"), "all are refused"
    )
    assert len(state.model_dump_json()) < 200_000
    await task.ok("workstream-result", workstream="first", status="completed")
    await no_workflow_task_failed(task)


UPDATES: list[tuple[str, list[Any], str, str]] = [
    (names.EXECUTE, [], "wrong_argument_count", "0 arguments"),
    (names.EXECUTE, [1, 2], "wrong_argument_count", "2 arguments"),
    (names.EXECUTE, [raw(b"{")], "wrong_payload", "Invalid JSON"),
    (names.EXECUTE, [raw(b"\x00\xff", "binary/plain")], "wrong_payload", "something else than JSON"),
    (names.EXECUTE, [None], "wrong_payload", "expected is one JSON object"),
    (names.EXECUTE, [{"command_id": "x", "by": "ann"}], "wrong_payload", "command: Field required"),
    (names.EXECUTE, [{"command_id": "x", "by": "ann", "command": {"type": "nonsense"}}], "wrong_payload", "'nonsense'"),
    (names.EXECUTE, [{"command_id": "x", "by": "", "command": {"type": "evaluate"}}], "wrong_payload", "by: "),
    ("exekute", [{}], "unknown_update", "'exekute'"),
]


async def test_a_malformed_update_is_refused_with_words_and_the_task_goes_on(tasks: Tasks) -> None:
    task = await tasks.create(BY_SIGNAL)
    for name, arguments, code, words in UPDATES:
        refused = await refusal(task.handle, name, *arguments)
        assert refused is not None, (name, arguments)
        assert (refused.type, words in refused.message) == (code, True), (name, arguments, refused)
    await task.ok("approve-spec")
    await no_workflow_task_failed(task)
    assert (await history_types(task.podctl.temporal, task.workflow_id))["WORKFLOW_EXECUTION_UPDATE_ACCEPTED"] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [None],
        ["a wish"],
        [{"create": {"title": "no id"}}],
        [{"state": {"rules": 1}}],
        [raw(b"\x00", "binary/plain")],
        [{"create": None}, {"surplus": True}],
    ],
    ids=["none", "null", "text", "no-id", "half-a-state", "bytes", "two"],
)
@pytest.mark.parametrize("workflow", [names.TASK_POD, names.GPU_POD])
async def test_a_start_that_podctl_would_not_make_ends_with_the_reason(
    podctl: PodctlClient, task_queue: str, workflow: str, arguments: list[Any]
) -> None:
    handle = await podctl.temporal.start_workflow(
        workflow, args=arguments, id=f"bad/{new_command_id()}", task_queue=task_queue
    )
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "bad_start"
    assert not await failed_workflow_tasks(podctl.temporal, handle.id)


# -- the client ---------------------------------------------------------------------------------------------------


async def test_an_unknown_task_is_answered_with_those_there_are(tasks: Tasks, podctl: PodctlClient) -> None:
    task = await tasks.create()

    async def listed() -> bool:
        return task.id in {summary.name for summary in await podctl.tasks()}

    await eventually(listed, "the task is listed")
    with pytest.raises(NotFound, match="there is no task 'gone'"):
        await podctl.task("gone")
    with pytest.raises(NotFound):
        await podctl.signal_task("gone", "approve-spec", {})
    with pytest.raises(NotFound):
        await podctl.execute_task("gone", CancelTask(), by="ann")
    with pytest.raises(NotFound):
        await podctl.log("task-pod/gone")


async def test_an_id_is_given_once(tasks: Tasks, podctl: PodctlClient) -> None:
    task = await tasks.create()
    state = await task.state()
    twice = TaskInput(task_id=task.id, title="again", by="bob", command_id="c")
    with pytest.raises(AlreadyExists):
        await podctl.create_task(twice)
    await task.handle.cancel()
    await task.handle.result()
    with pytest.raises(AlreadyExists):
        await podctl.create_task(twice)
    assert (await task.state()).title == state.title


async def test_the_list_shows_who_waits_for_an_approval(tasks: Tasks, podctl: PodctlClient) -> None:
    waits, busy = await tasks.create(BY_SIGNAL), await tasks.create(BY_SIGNAL)
    await busy.work_begins()

    async def listed() -> bool:
        names_ = {summary.name for summary in await podctl.tasks(needs_approval=True)}
        return waits.id in names_ and busy.id not in names_

    await eventually(listed, "only the waiting one is listed")


async def test_a_plan_with_more_models_than_a_search_attribute_holds_goes_on(tasks: Tasks) -> None:
    servers = "\n".join(f"  - {{name: s{n}, model: org/{'m' * 80}-{n}, pod: {'p' * 50}-{n}}}" for n in range(45))
    task = await tasks.create(f"model_servers:\n{servers}\nworkstreams:\n  - {{id: a, title: A, executor: signal}}\n")
    await task.ok("approve-spec")
    await task.reaches("planning")
