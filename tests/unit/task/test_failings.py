"""Fourteen ways in which earlier systems of this kind failed their users. None of them may come back."""

import json
import re
from datetime import datetime, timedelta
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from domain import ids
from domain.entity import Event, Sender
from domain.errors import Rejected
from domain.task.actions import OPTIONS
from domain.task.commands import (
    ActionEnded,
    AgentDone,
    AgentFailed,
    ApprovePlan,
    ApproveReview,
    ApproveSpec,
    ApproveTransition,
    CancelTask,
    ChangeConfig,
    CompleteWorkstream,
    CreateTracker,
    Envelope,
    FailWorkstream,
    GiveApproval,
    GrantAction,
    InterruptAgent,
    PostMessage,
    RegisterAgent,
    RequestAction,
    RequestApproval,
    RequestTransition,
    RetryWorkstream,
    RunStopped,
    SetItemStatus,
    SkipWorkstream,
    StartWorkstream,
    UpdatePlan,
    UpdateSpec,
    WorkstreamInterrupted,
)
from domain.task.models import (
    SCHEDULER,
    AgentStatus,
    AgentType,
    Phase,
    PlanDraft,
    Result,
    RunAction,
    RunResult,
    TaskConfig,
    TaskInput,
    TrackerPhase,
    WorkstreamDraft,
)
from domain.task.rules import check_sender, create_task
from domain.task.runs import ActionRun
from domain.task.schedule import RunCommand, StopRun, WakeAt
from domain.task.signals import command_from_signal
from tests.unit.task.support import START, Driver, command, executing, plan

PROGRAM = {"type": "command", "argv": ["write"], "pod": "gpu1"}
ENDED = Result(text="the end of its output", run=RunResult(exit_code=0))


def runs(driver: Driver) -> list[RunCommand]:
    return [action for action in driver.actions() if isinstance(action, RunCommand)]


def planning(**config: object) -> Driver:
    """Return a task whose planner, a program, runs."""
    driver = Driver(None, "build it", agents={"planner": PROGRAM}, **config)
    driver.do(ApproveSpec(revision=1))
    return driver


# 1. An empty spec or an empty plan could be approved and led to a dead end.


@pytest.mark.parametrize("spec", [None, "", " \n\t"])
def test_1_an_empty_spec_is_not_approved(spec: str | None) -> None:
    driver = Driver(spec=spec)
    assert "write it" in driver.refused("spec_empty", ApproveSpec())
    driver.do(UpdateSpec(content="build it"))
    driver.do(ApproveSpec())
    assert driver.phase() is Phase.PLANNING


def test_1_an_empty_plan_is_not_approved_either() -> None:
    driver = Driver()
    driver.do(ApproveSpec())
    driver.refused("plan_empty", ApprovePlan())
    driver.do(UpdatePlan(plan=PlanDraft(summary="nothing to do")))
    driver.refused("plan_empty", ApprovePlan())
    driver.do(UpdatePlan(plan=plan("a")))
    driver.do(ApprovePlan())
    assert driver.phase() is Phase.WORKSTREAM_EXECUTION


def test_1_automatic_gates_wait_for_content_as_well() -> None:
    gates = {"spec": "auto", "plan": "auto"}
    driver = Driver(spec="", gates=gates)
    assert driver.phase() is Phase.SPEC_CLARIFICATION
    assert driver.state.inbox, "somebody is told what is missing"
    driver.do(UpdateSpec(content="build it"))
    driver.do(UpdatePlan(plan=PlanDraft()))
    assert driver.phase() is Phase.PLANNING
    assert driver.state.inbox


# 2. Forward, unknown, self and cyclic dependencies counted as satisfied.


@pytest.mark.parametrize(
    ("workstreams", "code"),
    [
        (["a: gone"], "unknown_dependency"),
        (["a: a"], "self_dependency"),
        (["a: b", "b: a"], "dependency_cycle"),
        (["a: c", "b: a", "c: b"], "dependency_cycle"),
    ],
)
def test_2_a_dependency_that_cannot_be_met_is_refused(workstreams: list[str], code: str) -> None:
    Driver().refused(code, UpdatePlan(plan=plan(*workstreams)))
    with pytest.raises(Rejected) as caught:
        create_task(TaskInput(task_id="t", title="T", by="ann", command_id="c", plan=plan(*workstreams)), START)
    assert caught.value.code == code


def test_2_a_dependency_on_what_comes_later_is_waited_for() -> None:
    driver = executing("a: b", "b")
    assert driver.statuses() == {"a": "pending", "b": "in_progress"}
    driver.complete("b")
    assert driver.statuses() == {"a": "in_progress", "b": "completed"}


# 3. A failed dependency blocked its dependents for ever; review was unreachable.


@pytest.mark.parametrize("choice", ["retry", "skip", "fix"])
def test_3_a_failed_dependency_is_asked_about_and_every_answer_leads_to_review(choice: str) -> None:
    driver = executing("a", "b: a", "c: b")
    driver.do(FailWorkstream(ws_id="a", error="it broke"))
    assert driver.statuses() == {"a": "failed", "b": "blocked", "c": "blocked"}
    [question] = driver.state.open_approvals()
    assert question.approval is not None
    assert question.approval.options == ("retry", "skip", "fix", "cancel")
    driver.do(GiveApproval(message_id=question.message_id, choice=choice))
    driver.complete(*(("b", "c") if choice == "skip" else ("a", "b", "c")))
    assert driver.phase() is Phase.REVIEW


def test_3_leaving_out_what_depends_on_it_leads_to_review_too() -> None:
    driver = executing("a", "b: a", "c: b")
    driver.do(FailWorkstream(ws_id="a", error="it broke"))
    driver.do(SkipWorkstream(ws_id="a", with_dependents=True))
    assert driver.phase() is Phase.REVIEW


# 4. A planner that failed, or wrote nothing valid, left the task stuck.


@pytest.mark.parametrize("report", ["failed", "invalid plan", "no plan"])
def test_4_a_planner_that_fails_is_tried_again_and_then_asked_about(report: str) -> None:
    driver = planning(agent_attempts=2, failure_cooldown_seconds=[5])
    for _ in range(2):
        [run] = runs(driver)
        agent_id = run.run_id.split("/_")[1].split("/")[0]
        draft = plan("a: nowhere") if report == "invalid plan" else None
        said = (
            AgentFailed(agent_id=agent_id, error="it broke", result=ENDED)
            if report == "failed"
            else AgentDone(agent_id=agent_id, plan=draft, result=ENDED)
        )
        driver.do(said, by=SCHEDULER)
        assert runs(driver) == []
        driver.later(5)
    assert runs(driver) == [], "two attempts were all"
    assert driver.state.inbox, "a person is told"
    [question] = driver.state.open_approvals()
    driver.do(GiveApproval(message_id=question.message_id, choice="retry"))
    assert len(runs(driver)) == 1
    driver.do(UpdatePlan(plan=plan("a")))
    driver.do(ApprovePlan())
    assert driver.phase() is Phase.WORKSTREAM_EXECUTION


# 5. Approvals did not re-check guards; moving back at once asked to move forward again.


def test_5_a_guard_is_checked_again_when_the_approval_arrives() -> None:
    driver = executing("a", gates={"execution": "human"})
    driver.complete("a")
    assert driver.state.pending_transition is not None
    driver.do(RetryWorkstream(ws_id="a"))
    driver.refused("no_pending_transition", ApproveTransition())
    assert driver.phase() is Phase.WORKSTREAM_EXECUTION

    # What was possible when it was asked for need not be possible any more.
    driver = executing("a", command("b"), max_concurrent=1)
    driver.do(RequestTransition(to=Phase.PLANNING, reason="another plan"))
    driver.do(ChangeConfig(config=TaskConfig(max_concurrent=2)))
    driver.do(StartWorkstream(ws_id="b"))
    assert runs(driver)
    driver.refused("workstreams_running", ApproveTransition())
    assert driver.phase() is Phase.WORKSTREAM_EXECUTION
    driver.do(CompleteWorkstream(ws_id="b"))
    driver.stopped()
    driver.do(ApproveTransition())
    assert driver.phase() is Phase.PLANNING


def test_5_an_approval_of_what_nobody_has_read_is_refused() -> None:
    driver = Driver()
    driver.do(UpdateSpec(content="something else"))
    driver.refused("stale_revision", ApproveSpec(revision=1))


def test_5_a_task_that_was_moved_back_stays_there() -> None:
    driver = executing("a")
    driver.complete("a")
    assert driver.phase() is Phase.REVIEW
    driver.do(RequestTransition(to=Phase.WORKSTREAM_EXECUTION, reason="not good enough"))
    if driver.state.pending_transition is not None:
        driver.do(ApproveTransition())
    driver.later(3_600)
    assert driver.phase() is Phase.WORKSTREAM_EXECUTION
    assert driver.state.pending_transition is None
    assert driver.state.hold is not None


# 6. An approval's executor crashed after 'granted' was stored; a second grant ran it twice.


def test_6_a_granted_action_runs_once_whoever_grants_it_again() -> None:
    driver = executing("a")
    action = RunAction.model_validate({"executor": {"type": "command", "argv": ["deploy"], "pod": "gpu1"}})
    driver.do(RequestAction(action=action))
    assert runs(driver) == [], "nothing runs before the grant is recorded"
    driver.do(GrantAction(action_id="action-1"))
    [run] = runs(driver)
    assert run.subject == ActionRun(action_id="action-1")
    # After a crash the same state wants the same run, under the id by which the machine finds it again.
    assert "ann" in driver.refused("already_approved", GrantAction(action_id="action-1"), by="bob")
    [question] = [m for m in driver.state.messages.values() if m.approval and m.approval.subject == "action"]
    driver.refused("already_approved", GiveApproval(message_id=question.message_id, choice=OPTIONS[0]), by="bob")
    assert runs(driver) == [run]
    driver.do(ActionEnded(action_id="action-1", interrupted=True), by=SCHEDULER)
    assert runs(driver) == [], "nobody saw how it ended: it is not repeated"
    driver.refused("already_approved", GrantAction(action_id="action-1"))


# 7. A started process was recorded after it started: a crash between the two orphaned or doubled it.


def test_7_a_run_is_written_down_before_anything_starts_it() -> None:
    driver = Driver(plan(command("a")))
    driver.do(ApproveSpec())
    seen: set[str] = set()
    driver.apply(ApprovePlan())
    while True:
        # Whatever is asked of the world stands in the state already, under its own id.
        for run in runs(driver):
            assert driver.state.workstreams["a"].run is not None
            assert driver.state.workstreams["a"].run.run_id == run.run_id
            seen.add(run.run_id)
        decision = next((a for a in driver.actions() if a.type == "command"), None)
        if decision is None:
            break
        assert not runs(driver)
        driver.apply(decision.command, SCHEDULER, decision.command_id)
    assert seen == {"t1/a/1"}
    # And the same again after a crash: not another run, the same.
    again = type(driver.state).model_validate_json(driver.state.model_dump_json())
    assert again == driver.state
    driver.do(WorkstreamInterrupted(ws_id="a", attempt=1, reason="the machine rebooted"), by=SCHEDULER)
    assert runs(driver) == [], "it may have taken effect: a person decides"
    driver.do(RetryWorkstream(ws_id="a"))
    assert runs(driver) == [], "the first may still be there"
    driver.stopped()
    assert [run.run_id for run in runs(driver)] == ["t1/a/2"]


# 8. Interrupting an agent left its workstream in progress; cancelling did not stop agents.


def test_8_interrupting_an_agent_ends_the_attempt_of_its_workstream() -> None:
    driver = executing("a")
    driver.do(RegisterAgent(agent_id="bot", agent_type=AgentType.WORKSTREAM, workstream_id="a"), by="bot")
    driver.do(InterruptAgent(agent_id="bot", reason="it goes astray"))
    assert driver.statuses() == {"a": "failed"}
    assert list(driver.state.open_approvals()), "a person decides how it goes on"


def test_8_cancelling_stops_agents_and_their_programs() -> None:
    driver = planning()
    [run] = runs(driver)
    driver.do(CancelTask(reason="not needed"))
    assert [agent.status for agent in driver.state.agents.values()] == [AgentStatus.INTERRUPTED]
    assert [action.run_id for action in driver.actions() if isinstance(action, StopRun)] == [run.run_id]
    driver.do(RunStopped(run_id=run.run_id), by=SCHEDULER)
    assert list(driver.actions()) == []


# 9. Commands that bypassed the owner and its validation; events of unknown type that poisoned replay.


@pytest.mark.parametrize(
    "command",
    [
        {"type": "make_coffee"},
        {"type": "update_spec", "content": "x", "colour": "red"},
        {"type": "approve_spec", "revision": "the newest"},
        {"content": "x"},
        "update_spec",
    ],
)
def test_9_what_is_no_command_never_becomes_one(command: object) -> None:
    with pytest.raises(ValidationError):
        Envelope.model_validate_json(json.dumps({"command_id": "c", "by": "ann", "command": command}))
    with pytest.raises(Rejected):
        command_from_signal("make-coffee", [command])


def test_9_nobody_speaks_in_podctls_place() -> None:
    for said in (WorkstreamInterrupted(ws_id="a", attempt=1, reason="?"), RunStopped(run_id="t1/a/1")):
        with pytest.raises(Rejected, match="not_allowed"):
            check_sender(Envelope(command_id="c", by="mallory", command=said), Sender.PERSON)


def test_9_a_reader_takes_events_of_types_it_does_not_know() -> None:
    event = {"sequence": 1, "type": "coffee_made", "at": START.isoformat(), "by": "ann", "command_id": "c"}
    assert TypeAdapter(Event).validate_python(event).type == "coffee_made"


# 10. Cut-off ids collided as directory names; a model's raw id could climb out of the workspace.


@pytest.mark.parametrize(
    "name", ["..", "../x", "a/../b", "/etc", "a/b", "a\0b", "", ".hidden", "-rf", "a..b", "x" * 64]
)
def test_10_an_id_that_could_leave_its_folder_is_refused(name: str) -> None:
    for kind, fields in (
        (WorkstreamDraft, {"id": name, "title": "T", "executor": {"type": "signal"}}),
        (TaskInput, {"task_id": name, "title": "T", "by": "ann", "command_id": "c"}),
        (RegisterAgent, {"agent_id": name, "agent_type": "planner"}),
    ):
        with pytest.raises(ValidationError):
            TypeAdapter(kind).validate_python(fields)


@given(
    first=st.tuples(st.from_regex(ids.NAME_PATTERN, fullmatch=True), st.from_regex(ids.NAME_PATTERN, fullmatch=True)),
    other=st.tuples(st.from_regex(ids.NAME_PATTERN, fullmatch=True), st.from_regex(ids.NAME_PATTERN, fullmatch=True)),
    attempts=st.tuples(st.integers(1, 30), st.integers(1, 30)),
)
def test_10_different_attempts_never_share_a_folder(
    first: tuple[str, str], other: tuple[str, str], attempts: tuple[int, int]
) -> None:
    one, two = ids.run_id(*first, attempts[0]), ids.run_id(*other, attempts[1])
    assert (one == two) == ((first, attempts[0]) == (other, attempts[1]))
    assert PurePosixPath(one).parts == (*first, str(attempts[0])), "nothing is cut off"
    assert ".." not in PurePosixPath(one).parts or ".." in first


# 11. Agents could not post messages, ask for approval or update the tracker while they ran.


def test_11_an_agent_at_work_talks_asks_and_reports_progress() -> None:
    driver = executing("a")
    item = {"item_id": "handbook", "summary": "The handbook", "workstream_id": "a"}
    phase = TrackerPhase.model_validate({"phase_id": "first", "name": "First", "items": [item]})
    driver.do(CreateTracker(phases=(phase,)))
    driver.do(RegisterAgent(agent_id="bot", agent_type=AgentType.WORKSTREAM, workstream_id="a"), by="bot")
    driver.do(PostMessage(content="half of it is done", workstream_id="a"), by="bot")
    driver.do(SetItemStatus(item_id="handbook", status="wip", workstream_id="a"), by="bot")
    driver.do(RequestApproval(content="which one?", options=("x", "y"), blocking=True, agent_id="bot"), by="bot")
    assert driver.state.agents["bot"].status == "awaiting_input"
    [question] = driver.state.open_approvals()
    driver.do(GiveApproval(message_id=question.message_id, choice="x"))
    assert driver.state.agents["bot"].status == "running"
    assert driver.state.agents["bot"].turns == 1
    assert driver.state.tracker is not None
    assert [one.status for one in driver.state.tracker.items()] == ["wip"]
    assert [m.author for m in driver.state.messages.values()] == ["bot", "bot"]
    driver.do(CompleteWorkstream(ws_id="a"), by="bot")
    driver.do(ApproveReview())
    assert driver.phase() is Phase.COMPLETED


# 12. Wall-clock time inside the state made replays differ.


def test_12_every_time_in_the_state_is_the_workflows() -> None:
    def play() -> tuple[str, list[Event]]:
        driver = executing(command("a"), "b", escalate_after_seconds=60.0)
        driver.later(30)
        driver.do(PostMessage(content="how is it going?", message_type="question"))
        driver.do(FailWorkstream(ws_id="b", error="it broke", recoverable=True))
        assert [action.at for action in driver.actions() if isinstance(action, WakeAt)]
        driver.later(60)
        return driver.state.model_dump_json(), driver.events

    state, events = play()
    assert play() == (state, events)
    given = {START + timedelta(seconds=seconds) for seconds in (0, 30, 35, 60, 90)}
    assert {event.at for event in events} <= given
    # The state knows no later time than what it was told, but for what is due.
    told = {datetime.fromisoformat(text) for text in re.findall(r'"(\d{4}-\d\d-\d\dT[^"]+)"', state)}
    assert told <= given


# 13. A completion by a person was overwritten by a late failure from the agent.


def test_13_a_late_report_changes_nothing_that_a_person_has_completed() -> None:
    driver = executing(command("a"), "b")
    driver.do(CompleteWorkstream(ws_id="a", result=Result(text="done by hand")))
    late = FailWorkstream(ws_id="a", attempt=1, error="exit code 1", result=ENDED)
    assert "ann" in driver.refused("workstream_not_in_progress", late, by=SCHEDULER)
    driver.refused("workstream_not_in_progress", CompleteWorkstream(ws_id="a", attempt=1), by=SCHEDULER)
    assert driver.statuses()["a"] == "completed"
    driver.stopped()
    driver.do(RetryWorkstream(ws_id="a"))
    driver.refused("stale_attempt", late, by=SCHEDULER)
    assert driver.statuses()["a"] == "in_progress"


def test_13_a_plan_that_a_person_wrote_stays_when_the_planner_fails_late() -> None:
    driver = planning()
    [agent] = driver.state.agents.values()
    driver.do(UpdatePlan(plan=plan("a")))
    with pytest.raises(Rejected):
        driver.apply(AgentFailed(agent_id=agent.agent_id, error="it broke", result=ENDED), by=SCHEDULER)
    with pytest.raises(Rejected):
        driver.apply(AgentDone(agent_id=agent.agent_id, plan=plan("z"), result=ENDED), by=SCHEDULER)
    assert driver.state.plan is not None
    assert list(driver.state.plan.workstreams) == ["a"]
    driver.do(ApprovePlan(revision=1))
    assert driver.phase() is Phase.WORKSTREAM_EXECUTION


# 14. The whole conversation was stored again on every turn.


def test_14_a_turn_stores_its_own_words_and_nothing_else() -> None:
    driver = Driver()
    sizes = []
    for number in range(600):
        events = driver.do(PostMessage(content=f"turn {number:03} " + "x" * 300))
        [event] = events
        sizes.append(len(event.model_dump_json()))
        assert "turn" in str(event.payload["content"])
    assert max(sizes) - min(sizes) < 20, "the last turn is no larger than the first"
    assert len(driver.state.messages) <= 500, "older ones stand in the history only"
