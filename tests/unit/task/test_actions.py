"""Action approvals: proposed, decided once by a person, carried out once, after the grant is recorded."""

from typing import Any

import pytest

from domain.task.actions import FINISHED_KEPT, OPEN_LIMIT
from domain.task.commands import (
    ActionEnded,
    Approve,
    ApproveReview,
    CancelTask,
    CreateTracker,
    GiveApproval,
    GrantAction,
    InterruptAction,
    Reject,
    RejectAction,
    RequestAction,
    RequestTransition,
    TaskCommand,
)
from domain.task.models import SCHEDULER, ActionApproval, Phase, Result, RunResult
from domain.task.waits import waits_for
from tests.unit.task.support import Driver, executing, plan, serving
from tests.unit.task.test_tracker import board, phase, propose, tracked

REMOVE = {"type": "remove_item", "item_id": "party"}


def run(*argv: str, **executor: Any) -> dict[str, Any]:  # noqa: ANN401 - any field of an executor
    """Return the action that runs a program."""
    fields: dict[str, Any] = {"type": "command", "argv": argv or ["make", "deploy"], "pod": "gpu1", **executor}
    return {"type": "run", "executor": fields}


def action(driver: Driver) -> ActionApproval:
    """Return the newest action."""
    return list(driver.state.actions.values())[-1]


def granted() -> Driver:
    """Return a task with a granted run."""
    driver = executing("a")
    driver.do(GrantAction(action_id=propose(driver, run())), by="carol")
    return driver


def ended(driver: Driver, **fields: Any) -> None:  # noqa: ANN401 - any field of the report
    driver.do(ActionEnded(action_id=action(driver).action_id, **fields), by=SCHEDULER)


def test_a_proposal_asks_a_person() -> None:
    driver = tracked()
    driver.do(RequestAction.model_validate({"action": REMOVE, "reason": "no time"}), by="bob")
    proposed = action(driver)
    assert (proposed.action_id, proposed.status, proposed.requested_by) == ("action-1", "requested", "bob")
    message = driver.state.messages[proposed.message_id]
    assert message.content == "bob asks to remove item party (action-1): no time"
    assert message.approval is not None
    assert (message.approval.options, message.approval.action_id) == (("grant", "reject"), "action-1")
    item = driver.state.inbox[f"message/{proposed.message_id}"]
    assert item.kind == "needs_approval"
    assert item.waits
    assert any("remove item party" in reason for reason in waits_for(driver.state))


def test_what_is_too_long_to_be_read_in_the_inbox_is_shown_before_it_is_granted() -> None:
    driver = executing("a")
    propose(driver, run("echo", "short"))
    propose(driver, run("echo", "x" * 200, "; rm -rf everything"))
    commands = {item.message_id: item.command for item in driver.state.inbox.values()}
    assert commands["m-1"] == "podctl signal approve t1 --message m-1 --choice grant"
    assert commands["m-2"] == "podctl action show t1 action-2"


@pytest.mark.parametrize("how", ["grant_action", "give_approval", "approve"])
def test_a_grant_is_the_same_however_it_is_said(how: str) -> None:
    driver = tracked()
    propose(driver, REMOVE)
    answers: dict[str, TaskCommand] = {
        "grant_action": GrantAction(action_id="action-1", comment="yes"),
        "give_approval": GiveApproval(message_id="m-1", choice="grant", comment="yes"),
        "approve": Approve(comment="yes"),
    }
    driver.do(answers[how], by="carol")
    decided = action(driver)
    assert (decided.status, decided.decided_by, decided.comment) == ("done", "carol", "yes")
    assert decided.decided_at == driver.now
    assert board(driver.state)["beta"] == ["docs"]
    assert not list(driver.state.open_approvals())
    said = [event.type for event in driver.events][-4:]
    assert said == [
        "approval_given",
        "action_approval_granted",
        "tracker_item_removed",
        "action_approval_completed",
    ]


@pytest.mark.parametrize("how", ["reject_action", "give_approval", "reject"])
def test_a_rejection_is_the_same_however_it_is_said(how: str) -> None:
    driver = tracked()
    propose(driver, REMOVE)
    answers: dict[str, TaskCommand] = {
        "reject_action": RejectAction(action_id="action-1", comment="no"),
        "give_approval": GiveApproval(message_id="m-1", choice="reject", comment="no"),
        "reject": Reject(comment="no"),
    }
    driver.do(answers[how], by="carol")
    assert (action(driver).status, action(driver).decided_by, action(driver).comment) == ("rejected", "carol", "no")
    assert board(driver.state)["beta"] == ["docs", "party"]
    assert not [item for item in driver.state.inbox.values() if item.waits]


def test_the_second_answer_hears_who_was_first() -> None:
    driver = tracked()
    propose(driver, REMOVE)
    driver.do(GrantAction(action_id="action-1"), by="carol")
    assert "carol" in driver.refused("already_approved", GrantAction(action_id="action-1"), by="dave")
    assert "carol" in driver.refused("already_approved", RejectAction(action_id="action-1"), by="dave")
    assert "carol" in driver.refused("already_approved", GiveApproval(message_id="m-1", choice="grant"), by="dave")


def test_a_grant_checks_again_and_leaves_what_is_not_possible_proposed() -> None:
    driver = tracked()
    propose(driver, REMOVE)
    propose(driver, REMOVE)
    driver.do(GrantAction(action_id="action-1"))
    message = driver.refused("action_not_possible", GrantAction(action_id="action-2"))
    assert "'party'" in message
    assert "item_not_found" in message
    driver.refused("action_not_possible", GiveApproval(message_id="m-2", choice="grant"))
    assert driver.state.actions["action-2"].status == "requested"
    assert any(item.waits for item in driver.state.inbox.values())
    driver.do(RejectAction(action_id="action-2"))
    assert not any(item.waits for item in driver.state.inbox.values())


def test_an_unknown_action_is_named_beside_those_there_are() -> None:
    driver = tracked()
    propose(driver, REMOVE)
    assert "there are action-1" in driver.refused("action_not_found", GrantAction(action_id="action-7"))


def test_nothing_runs_before_the_grant_and_once_after_it() -> None:
    driver = executing("a")
    propose(driver, run())
    before = [key for key in driver.wanted() if "action" in key]
    assert before == []
    driver.do(GrantAction(action_id="action-1"))
    assert action(driver).status == "granted"
    running = action(driver).run
    assert running is not None
    assert (running.run_id, running.pod) == ("t1/_action-1/1", "gpu1")
    driver.refused("already_approved", GrantAction(action_id="action-1"))


def test_what_comes_of_a_run_is_told() -> None:
    driver = granted()
    ended(driver, result=Result(text="deployed", run=RunResult(exit_code=0)))
    assert action(driver).status == "done"
    assert action(driver).result is not None
    assert list(driver.state.messages.values())[-1].content.endswith("is done")
    assert not [item for item in driver.state.inbox.values() if item.waits]


@pytest.mark.parametrize(
    ("fields", "status"), [({"error": "exit code 2"}, "failed"), ({"interrupted": True}, "interrupted")]
)
def test_what_went_wrong_is_put_before_a_person_and_not_repeated(fields: dict[str, Any], status: str) -> None:
    driver = granted()
    ended(driver, **fields)
    assert action(driver).status == status
    assert action(driver).error
    assert [item.kind for item in driver.state.inbox.values()] == ["blocker_raised"]
    assert not [key for key in driver.wanted() if "action" in key]
    refused = driver.refused("action_not_running", ActionEnded(action_id="action-1"), by=SCHEDULER)
    assert status in refused


def test_a_program_that_hangs_is_ended_by_a_person() -> None:
    driver = granted()
    driver.do(InterruptAction(action_id="action-1", reason="it hangs"), by="dave")
    assert (action(driver).status, action(driver).error) == ("interrupted", "interrupted by dave: it hangs")
    assert "stop-run/t1/_action-1/1" in driver.wanted()
    assert "run/t1/_action-1/1" not in driver.wanted()
    driver.refused("action_not_running", InterruptAction(action_id="action-1"))
    # What the run says after that changes nothing.
    driver.refused("action_not_running", ActionEnded(action_id="action-1"), by=SCHEDULER)
    propose(driver, run())
    assert "requested" in driver.refused("action_not_running", InterruptAction(action_id="action-2"))


def test_cancelling_closes_proposals_and_stops_runs() -> None:
    driver = granted()
    propose(driver, run("make", "more"))
    driver.do(CancelTask(reason="enough"))
    statuses = {name: one.status for name, one in driver.state.actions.items()}
    assert statuses == {"action-1": "interrupted", "action-2": "rejected"}
    assert driver.state.stopping_runs == {"t1/_action-1/1": "gpu1"}
    assert driver.wanted() == ["stop-run/t1/_action-1/1"]
    assert not list(driver.state.open_approvals())


def test_accepted_work_is_completed_when_its_actions_are_over() -> None:
    driver = granted()
    driver.complete("a")
    driver.do(ApproveReview(revision=1))
    assert driver.phase() is Phase.REVIEW
    assert any("action-1 runs on pod gpu1" in reason for reason in waits_for(driver.state))
    ended(driver, result=Result(run=RunResult(exit_code=0)))
    assert driver.phase() is Phase.COMPLETED


def test_a_person_may_complete_a_task_over_its_open_actions() -> None:
    driver = tracked()
    propose(driver, REMOVE)
    driver.complete("a", "b")
    driver.do(ApproveReview(revision=1))
    assert driver.phase() is Phase.REVIEW
    driver.do(RequestTransition(to=Phase.COMPLETED))
    assert driver.phase() is Phase.COMPLETED
    assert action(driver).status == "rejected"


def test_where_a_program_runs_is_fixed_when_it_is_proposed() -> None:
    driver = Driver(plan({"id": "a", "executor": {"type": "command", "argv": ["make"], "pod": "gpu1"}}))
    propose(driver, run(pod=None))
    assert "on pod gpu1: make deploy" in driver.state.messages["m-1"].content
    nowhere = Driver(plan("a"))
    nowhere.refused("no_pod", RequestAction.model_validate({"action": run(pod=None)}))


def test_a_program_with_a_model_server_runs_while_that_is_ready() -> None:
    driver = serving({"id": "a", "executor": {"type": "command", "argv": ["make"], "server": "coder"}}, "b")
    proposal = run(pod=None, server="coder")
    unknown = RequestAction.model_validate({"action": run(server="other")})
    driver.refused("unknown_server", unknown)
    propose(driver, proposal)
    driver.server("unhealthy")
    assert "unhealthy" in driver.refused("action_not_possible", GrantAction(action_id="action-1"))
    driver.server("ready")
    driver.do(GrantAction(action_id="action-1"))
    running = action(driver).run
    assert running is not None
    assert running.server_launch == "gpu1/coder/1"


def test_a_model_server_is_kept_for_as_long_as_a_granted_program_uses_it() -> None:
    driver = serving({"id": "a", "executor": {"type": "command", "argv": ["make"], "server": "coder"}})
    propose(driver, run(pod=None, server="coder"))
    driver.do(GrantAction(action_id="action-1"))
    driver.complete("a")
    assert "detach/coder" not in driver.wanted()
    ended(driver, result=Result(run=RunResult(exit_code=0)))
    assert "detach/coder" in driver.wanted()


def test_a_secret_is_refused() -> None:
    driver = executing("a")
    with_token = RequestAction.model_validate({"action": run("curl", "hf_" + "a" * 34)})
    driver.refused("secret_in_arguments", with_token)


def test_actions_have_bounds() -> None:
    driver = executing("a")
    driver.refused("content_too_long", RequestAction.model_validate({"action": run(), "reason": "x" * 2_001}))
    driver.refused("content_too_long", RequestAction.model_validate({"action": run(*["x" * 4_000] * 5)}))
    for _ in range(OPEN_LIMIT):
        propose(driver, run())
    message = driver.refused("too_many_actions", RequestAction.model_validate({"action": run()}))
    assert "podctl action list t1" in message
    for name in list(driver.state.actions):
        driver.do(RejectAction(action_id=name))
    assert len(driver.state.actions) == FINISHED_KEPT
    assert action(driver).action_id == f"action-{OPEN_LIMIT}"


def test_what_finished_last_is_forgotten_last() -> None:
    driver = executing("a")
    for _ in range(FINISHED_KEPT + 10):
        propose(driver, run())
    first, *others = driver.state.actions
    for name in others:
        driver.do(RejectAction(action_id=name))
    driver.do(GrantAction(action_id=first))
    driver.do(ActionEnded(action_id=first, error="it broke"), by=SCHEDULER)
    assert list(driver.state.actions)[-1] == first
    assert driver.state.actions[first].error == "it broke"


def test_a_command_that_is_cut_says_so() -> None:
    driver = executing("a")
    propose(driver, run("echo", "x y" * 1_000, environment={"A": "b c"}))
    content = driver.state.messages["m-1"].content
    assert "A='b c' echo" in content
    assert "podctl action show" in content


def test_a_board_can_be_created_while_nothing_else_is_known() -> None:
    driver = Driver(spec=None)
    driver.do(CreateTracker(phases=(phase("alpha", "x"),)))
    assert board(driver.state) == {"alpha": ["x"]}
