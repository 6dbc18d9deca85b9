"""Messages, questions that hold work up, the inbox and its escalation."""

from domain.entity import REFUSAL_MESSAGE_LIMIT, refusal_message
from domain.errors import Rejected
from domain.task.commands import (
    Approve,
    ApprovePlan,
    ApproveSpec,
    CompleteWorkstream,
    Escalate,
    FailWorkstream,
    GiveApproval,
    MarkRead,
    PostMessage,
    Reject,
    RequestApproval,
    UpdateSpec,
)
from domain.task.messages import MESSAGES_KEPT
from domain.task.models import InboxKind
from domain.task.waits import waits_for
from tests.unit.task.support import Driver, executing, plan


def kinds(driver: Driver) -> list[str]:
    return sorted(item.kind.value for item in driver.state.inbox.values())


def test_a_message_is_kept_with_its_thread() -> None:
    driver = Driver()
    driver.do(PostMessage(content="how?", message_type="question"), by="bob")
    assert kinds(driver) == ["needs_approval", "question_asked"]
    driver.do(PostMessage(content="like this", thread_id="m-1"), by="ann")
    assert driver.state.messages["m-2"].thread_id == "m-1"
    assert kinds(driver) == ["needs_approval"]


def test_messages_have_bounds_and_refer_to_what_exists() -> None:
    driver = executing("a")
    driver.refused("content_empty", PostMessage(content="  "))
    driver.refused("content_too_long", PostMessage(content="ä" * 5_001))
    driver.refused("message_not_found", PostMessage(content="x", thread_id="m-9"))
    driver.refused("workstream_not_found", PostMessage(content="x", workstream_id="z"))
    driver.refused("invalid_options", RequestApproval(content="x", options=("a", "a")))


def test_only_approval_requests_can_be_answered_and_only_with_their_options() -> None:
    driver = executing("a")
    driver.do(PostMessage(content="news"))
    assert "an update" in driver.refused("not_approval_request", GiveApproval(message_id="m-1", choice="x"))
    driver.refused("message_not_found", GiveApproval(message_id="m-7", choice="x"))
    driver.do(RequestApproval(content="which one?", options=("left", "right")))
    assert "left, right" in driver.refused("invalid_choice", GiveApproval(message_id="m-2", choice="up"))
    driver.refused("nothing_to_approve", Approve(choice="up"))
    driver.do(Approve(choice="left", comment="of course"))
    approval = driver.state.messages["m-2"].approval
    assert approval is not None
    assert approval.answer is not None
    assert (approval.answer.choice, approval.answer.comment) == ("left", "of course")


def test_a_plain_question_is_approved_or_rejected_by_those_words() -> None:
    driver = executing("a")
    driver.do(RequestApproval(content="delete the branch?"))
    driver.do(Approve())
    driver.do(RequestApproval(content="really?"))
    driver.do(Reject(comment="no"))
    choices = [m.approval.answer.choice for m in driver.state.messages.values() if m.approval and m.approval.answer]
    assert choices == ["approve", "reject"]


def test_a_blocking_question_holds_its_workstream() -> None:
    driver = executing("a", "b", max_concurrent=1)
    driver.do(RequestApproval(content="which database?", blocking=True, workstream_id="a", options=("x", "y")))
    assert driver.statuses() == {"a": "awaiting_input", "b": "in_progress"}
    driver.do(Approve(choice="x"))
    assert driver.statuses()["a"] == "in_progress"


def test_a_blocking_question_to_the_task_holds_everything_new() -> None:
    driver = executing("a", "b: a")
    driver.do(RequestApproval(content="go on at all?", blocking=True))
    driver.complete("a")
    assert driver.statuses()["b"] == "pending"
    assert any("blocking question" in reason for reason in waits_for(driver.state))
    driver.do(Approve())
    assert driver.statuses()["b"] == "in_progress"


def test_a_workstream_asked_about_before_it_starts_waits_for_the_answer() -> None:
    driver = executing("a", "b: a")
    driver.do(RequestApproval(content="b at all?", blocking=True, workstream_id="b"))
    driver.complete("a")
    assert driver.statuses()["b"] == "pending"
    driver.do(Approve())
    assert driver.statuses()["b"] == "in_progress"


def test_a_question_about_a_finished_workstream_is_closed() -> None:
    driver = executing("a", "b")
    driver.do(RequestApproval(content="which?", blocking=True, workstream_id="a"))
    driver.do(CompleteWorkstream(ws_id="a"))
    approval = driver.state.messages["m-1"].approval
    assert approval is not None
    assert approval.closed
    assert "approvals_closed" in driver.event_types()


def test_the_inbox_holds_what_waits_and_only_that() -> None:
    driver = Driver(spec=None)
    assert kinds(driver) == ["blocker_raised"]
    driver.do(UpdateSpec(content="x"))
    assert list(driver.state.inbox) == ["approve/spec/1/0"]
    driver.do(ApproveSpec())
    assert kinds(driver) == ["blocker_raised"]
    assert next(iter(driver.state.inbox.values())).recipient == "ann"


def test_news_of_finished_work_stays_until_it_is_read() -> None:
    driver = executing("a", "b")
    driver.complete("a")
    assert kinds(driver) == ["workstream_completed"]
    driver.do(MarkRead(ids=("completed/a/1",)))
    assert not driver.state.inbox
    driver.refused("message_not_found", MarkRead(ids=("completed/a/1",)))


def test_marking_a_question_read_takes_it_from_the_inbox() -> None:
    driver = executing("a")
    driver.do(PostMessage(content="?", message_type="blocker"))
    assert driver.state.inbox["message/m-1"].kind is InboxKind.BLOCKER_RAISED
    driver.do(MarkRead(ids=("m-1",)))
    assert not driver.state.inbox
    assert driver.state.messages["m-1"].read


def test_what_waits_too_long_escalates_once() -> None:
    driver = Driver(plan("a"), escalate_after_seconds=600, escalate_to="boss")
    driver.later(599)
    assert driver.state.inbox["approve/spec/1/0"].recipient == "ann"
    assert driver.wanted()[0].startswith("wake/")
    driver.later(1)
    item = driver.state.inbox["approve/spec/1/0"]
    assert (item.recipient, item.escalated_at) == ("boss", driver.now)
    driver.later(6000)
    assert driver.event_types().count("inbox_escalated") == 1
    driver.refused("already_escalated", Escalate(item_id="approve/spec/1/0"))
    driver.refused("item_not_found", Escalate(item_id="nothing"))


def test_old_messages_that_nobody_waits_for_stay_in_the_history_only() -> None:
    driver = executing("a")
    driver.do(RequestApproval(content="open question"))
    for number in range(MESSAGES_KEPT + 10):
        driver.apply(PostMessage(content=f"news {number}"))
    assert len(driver.state.messages) == MESSAGES_KEPT
    assert "m-1" in driver.state.messages
    assert "m-2" not in driver.state.messages
    assert driver.state.messages_posted == MESSAGES_KEPT + 11


def test_a_failure_is_in_the_inbox_until_it_is_decided() -> None:
    driver = executing("a", "b")
    driver.do(FailWorkstream(ws_id="a", error="exit code 1"))
    assert kinds(driver) == ["workstream_failed"]
    driver.do(Approve(choice="skip"))
    assert not driver.state.inbox


def test_a_plan_is_approved_after_a_blocking_question() -> None:
    driver = Driver(plan("a"))
    driver.do(RequestApproval(content="sure?", blocking=True))
    driver.do(ApproveSpec())
    assert driver.state.phase.value == "spec_clarification"
    driver.do(Approve())
    driver.do(ApprovePlan())
    assert driver.state.phase.value == "workstream_execution"


def test_a_question_in_a_thread_is_for_whoever_it_answers() -> None:
    driver = Driver(plan("a"))
    driver.do(PostMessage(content="which colour?", message_type="question"), by="bob")
    driver.do(PostMessage(content="what do you mean?", message_type="question", thread_id="m-1"), by="ann")
    driver.do(PostMessage(content="red or blue?", message_type="question", thread_id="m-2"), by="bob")
    recipients = {key: item.recipient for key, item in driver.state.inbox.items()}
    assert recipients["message/m-3"] == "ann"
    driver.do(PostMessage(content="since when?", message_type="question", thread_id="m-3"), by="eve")
    assert driver.state.inbox["message/m-4"].recipient == "bob"
    driver.do(PostMessage(content="hello?", message_type="question", thread_id="m-1"), by="ann")
    assert driver.state.inbox["message/m-5"].recipient == "eve"


def test_a_refusal_that_quotes_a_book_keeps_what_is_allowed() -> None:
    rejected = Rejected("thread_not_found", f"there is no review thread {'x' * 50_000!r}; there are t-1, t-2")
    message = refusal_message(rejected)
    assert len(message) == REFUSAL_MESSAGE_LIMIT
    assert message.startswith("there is no review thread 'xxx")
    assert message.endswith("xxx'; there are t-1, t-2")
    assert refusal_message(Rejected("short", "x" * REFUSAL_MESSAGE_LIMIT)) == "x" * REFUSAL_MESSAGE_LIMIT


def test_what_can_be_chosen_stands_in_the_inbox_however_long_the_question_is() -> None:
    driver = Driver()
    driver.do(RequestApproval(content="which one? " * 50, options=("the red one", "the blue one")))
    assert driver.state.inbox["message/m-1"].preview.endswith("… (choose the red one | the blue one)")
