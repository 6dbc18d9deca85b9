"""From wish to completed and back: the phase table, its gates and their guards."""

import pytest

from domain.errors import Rejected
from domain.task.commands import (
    Approve,
    ApprovePlan,
    ApproveReview,
    ApproveSpec,
    ApproveTransition,
    CancelTask,
    ChangeConfig,
    CompleteWorkstream,
    CreateWorkstream,
    Evaluate,
    GiveApproval,
    PostMessage,
    Reject,
    RejectTransition,
    RequestTransition,
    RetryWorkstream,
    RunStopped,
    ServerReleased,
    StartWorkstream,
    UpdatePlan,
    UpdateSpec,
)
from domain.task.models import Gates, Phase, Result, RunResult, TaskConfig, TaskInput, TaskState
from domain.task.rules import create_task
from domain.task.schedule import is_settled
from domain.task.waits import waits_for
from tests.unit.task.support import AUTOMATIC, START, Driver, command, executing, plan, serving


def reviewing() -> Driver:
    driver = executing("a")
    driver.complete("a")
    assert driver.phase() is Phase.REVIEW
    return driver


def test_a_task_goes_from_wish_to_completed_through_every_gate() -> None:
    driver = Driver(spec=None)
    driver.do(UpdateSpec(content="build it", base_revision=0))
    driver.do(ApproveSpec(revision=1, comment="good"), by="bob")
    driver.do(UpdatePlan(plan=plan("a", "b: a"), base_revision=0))
    driver.do(ApprovePlan(revision=1), by="bob")
    assert driver.statuses() == {"a": "in_progress", "b": "pending"}
    driver.complete("a", "b")
    driver.do(ApproveReview(revision=1), by="bob")
    assert driver.phase() is Phase.COMPLETED
    assert is_settled(driver.state)
    assert not waits_for(driver.state)
    moves = [(e.payload["from"], e.payload["to"]) for e in driver.events if e.type == "phase_changed"]
    assert moves == [
        ("spec_clarification", "planning"),
        ("planning", "workstream_execution"),
        ("workstream_execution", "review"),
        ("review", "completed"),
    ]
    approval = driver.state.spec.approval
    assert approval is not None
    assert (approval.by, approval.comment, approval.revision_named, approval.at) == ("bob", "good", True, START)
    assert [e.sequence for e in driver.events] == list(range(1, len(driver.events) + 1))


def test_automatic_gates_need_nobody() -> None:
    driver = Driver(plan("a"), gates=AUTOMATIC)
    assert driver.statuses() == {"a": "in_progress"}
    driver.complete("a")
    assert driver.phase() is Phase.COMPLETED


def test_an_empty_spec_or_plan_cannot_be_approved() -> None:
    driver = Driver(spec=None)
    driver.refused("spec_empty", ApproveSpec())
    driver.do(UpdateSpec(content=" \n "))
    driver.refused("spec_empty", ApproveSpec())
    assert waits_for(driver.state)[0].startswith("the task has no spec yet")
    driver.do(UpdateSpec(content="build it"))
    driver.do(ApproveSpec())
    driver.refused("plan_empty", ApprovePlan())
    driver.do(UpdatePlan(plan=plan()))
    driver.refused("plan_empty", ApprovePlan())
    assert waits_for(driver.state)[0].startswith("the task has no plan yet")


def test_an_approval_too_early_or_twice_is_refused() -> None:
    driver = Driver(plan("a"))
    driver.refused("invalid_phase", ApprovePlan())
    driver.refused("invalid_phase", ApproveReview())
    driver.do(ApproveSpec(), by="bob")
    assert "approved by bob" in driver.refused("already_approved", ApproveSpec())
    driver.do(ApprovePlan())
    driver.refused("already_approved", ApprovePlan())
    driver.complete("a")
    driver.do(ApproveReview())
    driver.refused("already_terminal", ApproveReview())


def test_an_approval_is_of_the_revision_that_was_read() -> None:
    driver = Driver()
    driver.do(UpdateSpec(content="build something else", base_revision=1))
    assert "revision 2" in driver.refused("stale_revision", ApproveSpec(revision=1))
    driver.refused("stale_revision", ApproveSpec(revision=3))
    (event,) = driver.apply(ApproveSpec())
    assert event.payload["revision_named"] is False
    assert event.payload["digest"] == driver.state.spec.digest
    assert len(driver.state.spec.digest) == 12


def test_a_stale_edit_is_refused() -> None:
    driver = Driver(plan("a"))
    driver.do(UpdateSpec(content="more", base_revision=1))
    driver.refused("stale_revision", UpdateSpec(content="other", base_revision=1))
    driver.refused("stale_revision", UpdatePlan(plan=plan("b"), base_revision=0))
    driver.do(UpdatePlan(plan=plan("b"), base_revision=1))


def test_an_edit_takes_an_approval_back() -> None:
    driver = Driver(plan("a"))
    driver.apply(ApproveSpec())
    driver.apply(UpdateSpec(content="else"))
    driver.settle()
    assert driver.phase() is Phase.SPEC_CLARIFICATION
    assert driver.state.spec.approval is None


def test_editing_belongs_to_its_phase() -> None:
    driver = executing("a")
    assert "spec_clarification" in driver.refused("invalid_phase", UpdateSpec(content="late"))
    assert "planning" in driver.refused("invalid_phase", UpdatePlan(plan=plan("b")))


def test_guards_say_what_is_missing() -> None:
    driver = Driver(spec=None)
    driver.refused("spec_empty", RequestTransition(to=Phase.PLANNING))
    driver.do(UpdateSpec(content="x"))
    driver.refused("spec_not_approved", RequestTransition(to=Phase.PLANNING))
    assert "planning" in driver.refused("invalid_phase", RequestTransition(to=Phase.REVIEW))
    driver.refused("invalid_phase", RequestTransition(to=Phase.CANCELLED))
    driver.do(ApproveSpec())
    driver.refused("plan_empty", RequestTransition(to=Phase.WORKSTREAM_EXECUTION))
    driver.do(UpdatePlan(plan=plan("a")))
    driver.refused("plan_not_approved", RequestTransition(to=Phase.WORKSTREAM_EXECUTION))
    driver.do(ApprovePlan())
    assert "a" in driver.refused("workstreams_not_settled", RequestTransition(to=Phase.REVIEW))
    driver.complete("a")
    driver.refused("review_not_approved", RequestTransition(to=Phase.COMPLETED))


def test_going_back_waits_for_a_person_and_clears_what_it_undoes() -> None:
    driver = Driver(plan("a"))
    driver.do(ApproveSpec())
    driver.do(RequestTransition(to=Phase.SPEC_CLARIFICATION, reason="unclear"))
    assert driver.phase() is Phase.PLANNING
    assert any(
        "podctl signal approve t1 --message m-1 --choice approve" in reason for reason in waits_for(driver.state)
    )
    driver.refused("transition_pending", RequestTransition(to=Phase.SPEC_CLARIFICATION))
    driver.do(ApproveTransition())
    assert driver.phase() is Phase.SPEC_CLARIFICATION
    assert driver.state.spec.approval is None
    driver.refused("no_pending_transition", ApproveTransition())
    driver.refused("no_pending_transition", RejectTransition())


def test_a_rejected_move_does_not_happen() -> None:
    driver = Driver(plan("a"))
    driver.do(ApproveSpec())
    driver.do(RequestTransition(to=Phase.SPEC_CLARIFICATION))
    driver.do(RejectTransition(reason="no"))
    assert driver.phase() is Phase.PLANNING
    assert driver.state.pending_transition is None


def test_a_guard_is_checked_again_when_the_approval_arrives() -> None:
    driver = executing("a", command("b", "a"))
    driver.do(RequestTransition(to=Phase.PLANNING))
    driver.complete("a")
    driver.do(StartWorkstream(ws_id="b"))
    driver.refused("workstreams_running", ApproveTransition())


def test_a_waiting_move_to_review_is_withdrawn_when_work_is_taken_up_again() -> None:
    driver = executing("a", gates=Gates.model_validate({"execution": "human"}))
    driver.complete("a")
    driver.do(RetryWorkstream(ws_id="a"))
    driver.refused("no_pending_transition", ApproveTransition())
    assert driver.statuses() == {"a": "in_progress"}
    driver.complete("a")
    assert driver.state.pending_transition is not None


@pytest.mark.parametrize("gates", [Gates(), AUTOMATIC])
def test_a_task_that_was_moved_back_does_not_bounce_forward(gates: Gates) -> None:
    gates = gates.model_copy(update={"review": Gates().review})
    driver = Driver(plan("a", "b"), gates=gates)
    if driver.phase() is Phase.SPEC_CLARIFICATION:
        driver.do(ApproveSpec())
        driver.do(ApprovePlan())
    driver.complete("a", "b")
    driver.do(RequestTransition(to=Phase.WORKSTREAM_EXECUTION, reason="b is wrong"))
    driver.refused("ambiguous", Approve())
    driver.do(GiveApproval(message_id="m-1", choice="approve"))
    driver.later(3600)
    assert driver.phase() is Phase.WORKSTREAM_EXECUTION
    assert any("b is wrong" in reason for reason in waits_for(driver.state))
    driver.do(RetryWorkstream(ws_id="b"))
    driver.complete("b")
    assert driver.phase() is Phase.REVIEW
    assert driver.state.review.revision == 2


def test_evaluate_ends_a_hold() -> None:
    driver = reviewing()
    driver.do(RequestTransition(to=Phase.WORKSTREAM_EXECUTION))
    driver.do(ApproveTransition())
    assert driver.phase() is Phase.WORKSTREAM_EXECUTION
    assert any(item.command == "podctl task evaluate t1" for item in driver.state.inbox.values())
    driver.do(Evaluate())
    assert driver.phase() is Phase.REVIEW


def test_an_automatic_gate_holds_after_a_move_back_until_something_changes() -> None:
    driver = Driver(plan("a"), gates=AUTOMATIC)
    driver.do(RequestTransition(to=Phase.PLANNING, reason="rethink"))
    driver.do(ApproveTransition())
    driver.later(3600)
    assert driver.phase() is Phase.PLANNING
    assert driver.statuses() == {"a": "pending"}
    assert "rethink" in waits_for(driver.state)[0]
    driver.do(UpdatePlan(plan=plan("a", "b")))
    assert driver.phase() is Phase.WORKSTREAM_EXECUTION


def test_the_plan_is_not_changed_under_a_running_command() -> None:
    driver = executing(command("a"), "b")
    assert "a" in driver.refused("workstreams_running", RequestTransition(to=Phase.PLANNING))


def test_a_human_execution_gate_waits_and_can_be_refused_without_bouncing() -> None:
    driver = executing("a", gates=Gates.model_validate({"execution": "human"}))
    driver.complete("a")
    assert driver.phase() is Phase.WORKSTREAM_EXECUTION
    driver.do(Reject(comment="look again"))
    driver.later(60)
    assert driver.state.pending_transition is None
    driver.do(RetryWorkstream(ws_id="a"))
    driver.complete("a")
    assert driver.state.pending_transition is not None
    driver.do(Approve())
    assert driver.phase() is Phase.REVIEW


def test_a_gate_that_becomes_automatic_lets_the_waiting_task_through() -> None:
    driver = executing("a", gates=Gates.model_validate({"execution": "human"}))
    driver.complete("a")
    driver.do(ChangeConfig(config=TaskConfig()))
    assert driver.phase() is Phase.REVIEW


def test_settings_that_somebody_else_has_changed_are_not_overwritten() -> None:
    driver = Driver()
    read = driver.state.config_revision
    driver.do(ChangeConfig(config=TaskConfig(max_concurrent=5), base_revision=read))
    assert "revision 2" in driver.refused("stale_revision", ChangeConfig(config=TaskConfig(), base_revision=read))
    driver.do(ChangeConfig(config=TaskConfig()))
    assert driver.state.config_revision == 3


def test_approve_takes_the_one_thing_that_waits() -> None:
    driver = Driver(plan("a"))
    driver.do(Approve(revision=1))
    driver.do(Approve())
    assert driver.phase() is Phase.WORKSTREAM_EXECUTION
    message = driver.refused("nothing_to_approve", Approve())
    assert "podctl signal workstream-result t1 a" in message
    driver.complete("a")
    driver.do(Approve())
    assert driver.phase() is Phase.COMPLETED


def test_approve_with_two_things_waiting_is_ambiguous() -> None:
    driver = Driver(plan("a"))
    driver.do(ApproveSpec())
    driver.do(RequestTransition(to=Phase.SPEC_CLARIFICATION))
    message = driver.refused("ambiguous", Approve())
    assert "podctl signal approve-plan t1" in message
    assert "podctl signal approve t1 --message m-1 --choice approve" in message
    message = driver.refused("ambiguous", Reject())
    assert "podctl signal reject t1 --gate plan" in message
    assert "podctl signal reject t1 --message m-1" in message


def test_a_rejection_of_what_nobody_has_read_is_refused() -> None:
    driver = Driver(plan("a"))
    driver.do(ApproveSpec())
    driver.do(UpdatePlan(plan=plan("a", "tests")))
    driver.refused("stale_revision", Reject(revision=1))
    driver.refused("stale_revision", Reject(gate="plan", revision=1))
    driver.do(Reject(revision=2))
    assert driver.state.plan is not None
    assert driver.state.plan.rejection is not None


def test_a_rejected_gate_stays_and_says_why() -> None:
    driver = Driver(plan("a"))
    driver.do(ApproveSpec())
    driver.do(Reject(gate="plan", comment="tests are missing"), by="bob")
    assert driver.phase() is Phase.PLANNING
    assert "tests are missing" in waits_for(driver.state)[0]
    assert any("tests are missing" in item.preview for item in driver.state.inbox.values())
    assert driver.state.messages["m-1"].type == "review_comment"
    driver.refused("nothing_to_approve", Reject(gate="spec"))
    driver.do(UpdatePlan(plan=plan("a", "tests")))
    assert driver.state.plan is not None
    assert driver.state.plan.rejection is None
    driver.do(ApprovePlan(revision=2))
    assert driver.phase() is Phase.WORKSTREAM_EXECUTION


def test_cancelling_stops_what_runs_releases_what_is_held_and_is_final() -> None:
    driver = serving(command("a", server="coder"), "b")
    driver.do(CancelTask(reason="no longer needed"), by="bob")
    assert driver.phase() is Phase.CANCELLED
    assert (driver.state.cancelled_by, driver.state.cancel_reason) == ("bob", "no longer needed")
    assert driver.wanted() == ["stop-run/t1/a/1", "detach/coder"]
    assert not is_settled(driver.state)
    assert len(waits_for(driver.state)) == 2
    driver.do(ServerReleased(name="coder"))
    driver.do(RunStopped(run_id="t1/a/1"))
    assert is_settled(driver.state)
    assert not driver.state.inbox
    assert not [ws for ws in driver.state.workstreams.values() if ws.status.value == "in_progress"]


@pytest.mark.parametrize("final", [Phase.CANCELLED, Phase.COMPLETED])
def test_a_final_task_refuses_everything(final: Phase) -> None:
    driver = Driver(plan("a"), gates=AUTOMATIC)
    if final is Phase.CANCELLED:
        driver.do(CancelTask())
    else:
        driver.complete("a")
    for refused in (
        CancelTask(),
        UpdateSpec(content="x"),
        PostMessage(content="x"),
        RetryWorkstream(ws_id="a"),
        ApproveSpec(),
        Approve(),
    ):
        driver.refused("already_terminal", refused)
    assert driver.actions() == ()


def test_a_command_id_counts_once() -> None:
    driver = Driver(plan("a"))
    driver.do(ApproveSpec(), command_id="once")
    before = driver.state
    assert driver.do(ApproveSpec(), command_id="once") == ()
    assert driver.state is before


def test_a_spec_or_plan_that_is_too_long_is_refused() -> None:
    driver = Driver()
    assert "262,144" in driver.refused("content_too_long", UpdateSpec(content="ä" * 140_000))
    long = {"id": "a", "description": "x" * 300_000}
    driver.refused("content_too_long", UpdatePlan(plan=plan(long)))


def test_a_task_is_not_created_with_a_plan_that_cannot_work() -> None:
    task = TaskInput(task_id="t", title="T", by="ann", command_id="c", plan=plan("a: b", "b: a"))
    with pytest.raises(Rejected) as caught:
        create_task(task, START)
    assert caught.value.code == "dependency_cycle"


def test_a_changed_plan_keeps_results_and_never_repeats_a_run_id() -> None:
    driver = executing(command("a"), command("b"), "c")
    for name in ("a", "b", "c"):
        driver.do(CompleteWorkstream(ws_id=name, result=Result(run=RunResult(exit_code=0))))
    driver.do(RequestTransition(to=Phase.WORKSTREAM_EXECUTION))
    driver.do(ApproveTransition())
    driver.do(RequestTransition(to=Phase.PLANNING))
    driver.do(ApproveTransition())
    changed = {**command("b"), "description": "differently"}
    driver.do(UpdatePlan(plan=plan(changed, "c")))
    assert driver.statuses() == {"c": "completed"}
    driver.do(UpdatePlan(plan=plan(command("a"), changed, "c")))
    driver.do(ApprovePlan())
    assert driver.statuses() == {"a": "in_progress", "b": "in_progress", "c": "completed"}
    assert driver.wanted() == ["run/t1/a/2", "run/t1/b/2"]


def test_a_workstream_can_be_added_while_others_run() -> None:
    driver = executing("a")
    (added,) = plan({"id": "b"}).workstreams
    driver.do(CreateWorkstream(workstream=added))
    assert driver.statuses() == {"a": "in_progress", "b": "in_progress"}
    assert driver.state.plan is not None
    assert (driver.state.plan.revision, driver.state.plan.approval is not None) == (2, True)
    driver.refused("duplicate_workstream", CreateWorkstream(workstream=added))
    (lost,) = plan({"id": "c", "depends_on": ["nowhere"]}).workstreams
    driver.refused("unknown_dependency", CreateWorkstream(workstream=lost))


def test_the_state_survives_json() -> None:
    driver = serving(command("a", server="coder"), "b: a")
    assert TaskState.model_validate_json(driver.state.model_dump_json()) == driver.state
