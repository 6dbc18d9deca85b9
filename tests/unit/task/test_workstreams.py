"""Workstreams by dependency: slots, failures and what they block, retries, results by machines and by people."""

import pytest

from domain.task.commands import (
    Approve,
    ApproveTransition,
    ChangeConfig,
    CompleteWorkstream,
    Evaluate,
    FailWorkstream,
    GiveApproval,
    InterruptWorkstream,
    ReassignExecutor,
    RequestTransition,
    RetryWorkstream,
    RunStopped,
    SetPriority,
    SkipWorkstream,
    StartWorkstream,
    WorkstreamInterrupted,
)
from domain.task.models import CommandExecutor, Phase, Priority, Result, RunResult, TaskConfig
from domain.task.runs import WorkstreamRun
from domain.task.schedule import RunCommand, WakeAt
from domain.task.waits import waits_for
from tests.unit.task.support import Driver, command, executing, serving

DIAMOND = ("a", "b: a", "c: a", "d: b c")
EXITED = Result(text="bad", run=RunResult(exit_code=2, log="/x/output.log", size=3, sha256="0"))


def failed(driver: Driver, name: str) -> None:
    driver.do(FailWorkstream(ws_id=name, error="it broke"))


def test_a_diamond_runs_by_dependency() -> None:
    driver = executing(*DIAMOND)
    assert driver.statuses() == {"a": "in_progress", "b": "pending", "c": "pending", "d": "pending"}
    driver.complete("a")
    assert driver.statuses() == {"a": "completed", "b": "in_progress", "c": "in_progress", "d": "pending"}
    driver.complete("c")
    assert driver.statuses()["d"] == "pending"
    driver.complete("b")
    assert driver.statuses()["d"] == "in_progress"


def test_slots_bound_what_is_in_progress_and_can_be_changed_meanwhile() -> None:
    driver = executing("a", "b", "c", "d", max_concurrent=2)
    assert list(driver.statuses().values()).count("in_progress") == 2
    driver.refused("no_free_slot", StartWorkstream(ws_id="c"))
    assert any("free slot" in reason for reason in waits_for(driver.state))
    driver.do(ChangeConfig(config=TaskConfig(max_concurrent=3)))
    assert list(driver.statuses().values()).count("in_progress") == 3
    driver.do(ChangeConfig(config=TaskConfig(max_concurrent=1)))
    driver.complete("a", "b")
    assert driver.statuses()["d"] == "pending"
    driver.complete("c")
    assert driver.statuses()["d"] == "in_progress"


def test_high_priority_starts_first_then_plan_order() -> None:
    driver = executing("x", {"id": "a", "priority": "low"}, "b", {"id": "c", "priority": "high"}, max_concurrent=1)
    assert driver.statuses()["c"] == "in_progress"
    driver.complete("c")
    assert driver.statuses()["x"] == "in_progress"
    driver.do(SetPriority(ws_id="a", priority=Priority.HIGH))
    driver.complete("x")
    assert driver.statuses()["a"] == "in_progress"


def test_starting_checks_status_and_dependencies() -> None:
    driver = executing("a", "b: a")
    driver.refused("workstream_not_pending", StartWorkstream(ws_id="a"))
    assert "a" in driver.refused("dependencies_not_satisfied", StartWorkstream(ws_id="b"))
    assert "there are a, b" in driver.refused("workstream_not_found", StartWorkstream(ws_id="z"))


def test_a_failure_blocks_all_that_depends_on_it_and_asks_what_to_do() -> None:
    driver = executing(*DIAMOND, "other")
    failed(driver, "a")
    assert driver.statuses() == {
        "a": "failed",
        "b": "blocked",
        "c": "blocked",
        "d": "blocked",
        "other": "in_progress",
    }
    assert driver.state.workstreams["d"].blocking_on == ("b", "c")
    message = driver.state.messages["m-1"]
    assert message.approval is not None
    assert message.approval.options == ("retry", "skip", "fix", "cancel")
    assert "podctl signal approve t1 --message m-1 --choice retry" in waits_for(driver.state)[0]
    driver.refused("dependencies_not_satisfied", StartWorkstream(ws_id="b"))
    driver.complete("other")
    assert driver.phase() is Phase.WORKSTREAM_EXECUTION


def test_retry_unblocks() -> None:
    driver = executing(*DIAMOND)
    failed(driver, "a")
    driver.do(Approve(choice="retry"))
    assert driver.statuses() == {"a": "in_progress", "b": "pending", "c": "pending", "d": "pending"}
    assert driver.state.workstreams["a"].attempt == 2


def test_skip_lets_dependents_go_on() -> None:
    driver = executing(*DIAMOND)
    failed(driver, "a")
    driver.do(GiveApproval(message_id="m-1", choice="skip"))
    assert driver.statuses() == {"a": "skipped", "b": "in_progress", "c": "in_progress", "d": "pending"}


def test_skip_with_dependents_leaves_them_out_too() -> None:
    driver = executing(*DIAMOND, "other")
    driver.do(SkipWorkstream(ws_id="a", with_dependents=True))
    assert driver.statuses() == {
        "a": "skipped",
        "b": "skipped",
        "c": "skipped",
        "d": "skipped",
        "other": "in_progress",
    }


def test_a_blocked_workstream_that_is_skipped_frees_what_only_waited_for_it() -> None:
    driver = executing("a", "b: a", "c: b", "d: a")
    failed(driver, "a")
    driver.do(SkipWorkstream(ws_id="b"))
    assert driver.statuses() == {"a": "failed", "b": "skipped", "c": "in_progress", "d": "blocked"}


def test_fix_by_hand_waits_for_a_persons_result() -> None:
    driver = executing(*DIAMOND)
    failed(driver, "a")
    driver.do(Approve(choice="fix"))
    assert driver.statuses()["a"] == "awaiting_input"
    assert driver.statuses()["b"] == "blocked"
    assert any("podctl signal workstream-result t1 a --status completed" in w for w in waits_for(driver.state))
    driver.do(CompleteWorkstream(ws_id="a", result=Result(text="did it myself")))
    assert driver.statuses() == {"a": "completed", "b": "in_progress", "c": "in_progress", "d": "pending"}


def test_a_failed_workstream_can_be_reported_fixed_without_more_words() -> None:
    driver = executing("a", "b: a")
    failed(driver, "a")
    driver.complete("a")
    assert driver.statuses() == {"a": "completed", "b": "in_progress"}
    driver.refused("already_closed", GiveApproval(message_id="m-1", choice="retry"))


def test_cancel_as_the_answer_to_a_failure_ends_the_task() -> None:
    driver = executing("a")
    failed(driver, "a")
    driver.do(Approve(choice="cancel"), by="bob")
    assert driver.phase() is Phase.CANCELLED
    assert driver.state.cancelled_by == "bob"


def test_an_answer_counts_once_and_the_second_hears_who_was_first() -> None:
    driver = executing("a")
    failed(driver, "a")
    driver.do(GiveApproval(message_id="m-1", choice="retry"), by="ann")
    message = driver.refused("already_approved", GiveApproval(message_id="m-1", choice="skip"), by="bob")
    assert "'retry' by ann" in message
    assert driver.state.workstreams["a"].attempt == 2


def test_recoverable_failures_are_tried_again_after_growing_delays_then_asked_about() -> None:
    driver = executing(command("a"), failure_cooldown_seconds=(5, 30))
    for attempt, delay in ((1, 5), (2, 30)):
        driver.do(FailWorkstream(ws_id="a", attempt=attempt, error="pod away", recoverable=True))
        driver.stopped()
        assert driver.statuses()["a"] == "pending"
        (wake,) = (action for action in driver.actions() if isinstance(action, WakeAt))
        assert (wake.at - driver.now).total_seconds() == delay
        driver.later(delay - 1)
        assert driver.statuses()["a"] == "pending"
        driver.later(1)
        assert driver.state.workstreams["a"].attempt == attempt + 1
    driver.do(FailWorkstream(ws_id="a", attempt=3, error="pod away", recoverable=True))
    assert driver.statuses()["a"] == "failed"
    assert len(driver.state.messages) == 1


def test_a_recoverable_failure_ends_in_a_stop_of_what_may_have_been_launched() -> None:
    driver = executing(command("a"))
    driver.do(FailWorkstream(ws_id="a", attempt=1, error="pod away", recoverable=True))
    assert "stop-run/t1/a/1" in driver.wanted()
    driver.do(RunStopped(run_id="t1/a/1"))
    assert "stop-run/t1/a/1" not in driver.wanted()
    assert driver.do(RunStopped(run_id="t1/a/1")) == ()


def test_evaluate_ends_a_cooldown() -> None:
    driver = executing(command("a"))
    driver.do(FailWorkstream(ws_id="a", attempt=1, error="pod away", recoverable=True))
    driver.stopped()
    driver.do(Evaluate())
    assert driver.state.workstreams["a"].attempt == 2


def test_a_commands_exit_is_final_and_leaves_nothing_to_stop() -> None:
    driver = executing(command("a"))
    driver.do(FailWorkstream(ws_id="a", attempt=1, error="exit code 2", result=EXITED))
    assert driver.statuses()["a"] == "failed"
    assert driver.state.workstreams["a"].result == EXITED
    assert driver.wanted() == []


def test_an_attempt_whose_end_nobody_saw_is_not_repeated() -> None:
    driver = executing(command("a"))
    driver.do(WorkstreamInterrupted(ws_id="a", attempt=1, reason="the machine was rebooted"))
    driver.later(3600)
    assert driver.statuses()["a"] == "failed"
    assert "may have taken effect" in (driver.state.workstreams["a"].error or "")
    assert driver.state.workstreams["a"].attempt == 1
    assert "workstream_interrupted" in driver.event_types()


def test_interrupting_ends_the_run_and_the_workstream_is_not_in_progress() -> None:
    driver = executing(command("a"))
    driver.do(InterruptWorkstream(ws_id="a", reason="wrong branch"))
    assert driver.statuses()["a"] == "failed"
    assert driver.wanted() == ["stop-run/t1/a/1"]


def test_the_next_attempt_waits_until_the_run_of_the_last_one_is_verified_gone() -> None:
    driver = executing(command("a"))
    driver.do(InterruptWorkstream(ws_id="a", reason="wrong branch"))
    driver.do(RetryWorkstream(ws_id="a"))
    assert driver.wanted() == ["stop-run/t1/a/1"]
    assert "pods remove gpu1 --lost" in driver.refused("run_stopping", StartWorkstream(ws_id="a"))
    assert any("a starts when run t1/a/1 has ended" in reason for reason in waits_for(driver.state))
    assert not any("free slot" in reason for reason in waits_for(driver.state))
    driver.do(RunStopped(run_id="t1/a/1"))
    assert driver.wanted() == ["run/t1/a/2"]


def test_another_pod_does_not_start_what_still_has_to_end_on_the_first() -> None:
    driver = executing(command("a", pod="gpu1"))
    driver.do(InterruptWorkstream(ws_id="a"))
    executor = CommandExecutor(argv=("make", "a"), pod="gpu2")
    driver.do(ReassignExecutor(ws_id="a", executor=executor))
    driver.do(RetryWorkstream(ws_id="a"))
    assert driver.wanted() == ["stop-run/t1/a/1"]
    driver.do(RunStopped(run_id="t1/a/1"))
    (run,) = (action for action in driver.actions() if isinstance(action, RunCommand))
    assert (run.run_id, run.pod) == ("t1/a/2", "gpu2")


def test_a_run_that_is_being_stopped_keeps_no_other_workstream_waiting() -> None:
    driver = executing(command("a"), command("ab"), max_concurrent=1)
    driver.do(InterruptWorkstream(ws_id="a"))
    assert driver.wanted() == ["stop-run/t1/a/1", "run/t1/ab/1"]


def test_the_plan_is_not_changed_while_a_run_is_being_stopped() -> None:
    driver = executing(command("a"), "b")
    driver.do(InterruptWorkstream(ws_id="a"))
    message = driver.refused("workstreams_running", RequestTransition(to=Phase.PLANNING))
    assert "run t1/a/1" in message
    driver.do(RunStopped(run_id="t1/a/1"))
    driver.do(RequestTransition(to=Phase.PLANNING))
    driver.do(ApproveTransition())
    assert driver.phase() is Phase.PLANNING


def test_a_persons_completion_is_not_overwritten_by_a_late_failure() -> None:
    driver = executing(command("a"), "b")
    driver.do(CompleteWorkstream(ws_id="a", result=Result(text="done by hand")), by="bob")
    assert driver.wanted() == ["stop-run/t1/a/1"]
    late = FailWorkstream(ws_id="a", attempt=1, error="killed", result=EXITED)
    assert "completed (by bob)" in driver.refused("workstream_not_in_progress", late)
    assert driver.statuses()["a"] == "completed"


def test_a_report_about_an_older_attempt_is_refused() -> None:
    driver = executing(command("a"))
    driver.do(FailWorkstream(ws_id="a", attempt=1, error="exit code 2", result=EXITED))
    driver.do(RetryWorkstream(ws_id="a"))
    driver.refused("stale_attempt", CompleteWorkstream(ws_id="a", attempt=1))
    driver.refused("stale_attempt", WorkstreamInterrupted(ws_id="a", attempt=3, reason="?"))


def test_reports_and_decisions_need_a_fitting_status() -> None:
    driver = executing("a", "b: a")
    driver.refused("workstream_not_in_progress", CompleteWorkstream(ws_id="b"))
    driver.refused("workstream_not_finished", RetryWorkstream(ws_id="a"))
    driver.complete("a")
    driver.refused("workstream_already_finished", SkipWorkstream(ws_id="a"))
    driver.refused("workstream_not_in_progress", CompleteWorkstream(ws_id="a"))


@pytest.mark.parametrize(
    "report",
    [
        CompleteWorkstream(ws_id="a", result=Result(text="x" * 4097)),
        CompleteWorkstream(ws_id="a", result=Result(artifacts=("x",) * 101)),
        CompleteWorkstream(ws_id="a", result=Result(artifacts=("x" * 1001,))),
        FailWorkstream(ws_id="a", error="x", result=Result(text="x" * 4097)),
    ],
)
def test_a_result_is_small(report: CompleteWorkstream | FailWorkstream) -> None:
    executing("a").refused("content_too_long", report)


def test_what_a_machine_reports_is_cut_not_refused() -> None:
    driver = executing(command("a"))
    garbled = Result(text="\N{REPLACEMENT CHARACTER}" * 4096 + "the end", run=RunResult(exit_code=1))
    driver.do(FailWorkstream(ws_id="a", attempt=1, error="x" * 10_000, result=garbled))
    kept = driver.state.workstreams["a"]
    assert kept.result is not None
    assert kept.result.text.endswith("the end")
    assert len(kept.result.text.encode()) <= 4096
    assert kept.error == "x" * 4096


def test_a_command_run_is_fully_described_before_it_starts() -> None:
    driver = serving(command("a", server="coder"))
    (run,) = (action for action in driver.actions() if isinstance(action, RunCommand))
    assert run.subject == WorkstreamRun(ws_id="a", attempt=1)
    assert (run.run_id, run.pod, run.server_launch, run.makes) == ("t1/a/1", "gpu1", "gpu1/coder/1", None)
    assert run.executor.argv == ("make", "a")
    assert driver.event_types()[-1] == "workstream_started"


def test_nothing_starts_while_going_back_to_planning_is_being_decided() -> None:
    driver = executing("a", "b: a")
    driver.do(RequestTransition(to=Phase.PLANNING))
    driver.complete("a")
    assert driver.statuses()["b"] == "pending"
    driver.do(ApproveTransition())
    assert driver.phase() is Phase.PLANNING


def test_what_outsiders_work_on_is_handed_back_when_the_plan_changes() -> None:
    driver = executing("a")
    driver.do(RequestTransition(to=Phase.PLANNING))
    driver.do(ApproveTransition())
    assert driver.statuses() == {"a": "pending"}
    assert driver.state.plan is not None
    assert driver.state.plan.approval is None


def test_an_attempt_that_is_tried_again_is_blocked_where_what_it_depends_on_has_failed_meanwhile() -> None:
    driver = executing("e", "c: e")
    driver.complete("e")
    driver.do(RetryWorkstream(ws_id="e"))
    driver.do(InterruptWorkstream(ws_id="e"))
    driver.do(FailWorkstream(ws_id="c", error="no room", recoverable=True))
    assert driver.statuses() == {"e": "failed", "c": "blocked"}
