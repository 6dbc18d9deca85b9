"""The notify hook: called once for each thing that waits, once more after its escalation, and never in the way."""

from domain.task.commands import ApproveSpec, ChangeConfig, Notified, PostMessage
from domain.task.details import summary_markdown
from domain.task.models import SCHEDULER, TaskConfig
from domain.task.schedule import NOTIFY_AT_ONCE, Notify
from tests.unit.task.support import Driver, executing, plan

HOOK = ("/home/ann/notify", "--loud")


def calls(driver: Driver) -> list[Notify]:
    return [action for action in driver.actions() if isinstance(action, Notify)]


def called(driver: Driver, call: Notify, error: str = "") -> None:
    driver.do(Notified(item_id=call.item_id, escalated=call.escalated, error=error), by=SCHEDULER)


def test_it_is_called_once_for_what_waits_and_once_more_when_that_is_urgent() -> None:
    driver = Driver(plan("a"), notify=HOOK, escalate_after_seconds=60, escalate_to="boss")
    [first] = calls(driver)
    assert first.argv == HOOK
    assert first.notification == {
        "task": "t1",
        "title": "A task",
        "item": "approve/spec/1/0",
        "kind": "needs_approval",
        "preview": "spec revision 1 waits for approval",
        "command": "podctl signal approve-spec t1",
        "recipient": "ann",
        "message": None,
        "workstream": None,
        "created_at": "2026-03-01T12:00:00+00:00",
        "urgent": False,
    }
    called(driver, first)
    assert not calls(driver)
    driver.later(61)
    [second] = calls(driver)
    assert (second.notification["recipient"], second.notification["urgent"]) == ("boss", True)
    assert second.key != first.key
    called(driver, second)
    assert not calls(driver)
    assert [e.payload["urgent"] for e in driver.events if e.type == "person_notified"] == [False, True]


def test_an_escalation_while_it_is_called_does_not_end_that_call() -> None:
    driver = Driver(plan("a"), notify=HOOK, escalate_after_seconds=60)
    [first] = calls(driver)
    driver.later(61)
    assert [call.key for call in calls(driver)] == [first.key]
    called(driver, first)
    [second] = calls(driver)
    called(driver, second)
    assert not calls(driver)


def test_its_failure_is_shown_and_blocks_nothing() -> None:
    driver = Driver(plan("a"), notify=HOOK)
    [call] = calls(driver)
    called(driver, call, "exit code 3 " + "x" * 10_000)
    assert not calls(driver)
    assert len(driver.state.inbox["approve/spec/1/0"].notify_error) <= 500
    assert driver.event_types()[-1] == "notify_failed"
    assert "ann was not told of approve/spec/1/0: exit code 3" in summary_markdown(driver.state)
    driver.do(ApproveSpec(revision=1))
    assert driver.state.phase == "planning"
    assert "not told" not in summary_markdown(driver.state)


def test_what_waits_no_longer_is_not_told_and_news_never() -> None:
    driver = executing("a", notify=HOOK)
    driver.do(PostMessage(content="how?", message_type="question"))
    [call] = calls(driver)
    driver.do(PostMessage(content="so", thread_id="m-1"))
    assert not calls(driver)
    driver.refused("item_not_found", Notified(item_id=call.item_id), by=SCHEDULER)
    driver.complete("a")
    assert [call.item_id for call in calls(driver)] == ["approve/review/1/3"]


def test_only_some_are_called_at_a_time_and_those_that_run_keep_their_place() -> None:
    driver = executing("a", notify=HOOK)
    for number in range(8):
        driver.later(1)
        driver.do(PostMessage(content=f"question {number}", message_type="question"))
    running = [call.key for call in calls(driver)]
    assert len(running) == NOTIFY_AT_ONCE
    driver.do(ChangeConfig(config=driver.state.config.model_copy(update={"max_concurrent": 1})))
    driver.complete("a")
    assert [call.key for call in calls(driver)] == running
    told = []
    while waiting := calls(driver):
        told.append(waiting[0].item_id)
        called(driver, waiting[0])
    assert len(told) == len(set(told)) == 9


def test_a_hook_that_is_set_later_hears_of_what_waits_already() -> None:
    driver = Driver(plan("a"))
    assert not calls(driver)
    driver.do(ChangeConfig(config=TaskConfig(notify=HOOK)))
    assert len(calls(driver)) == 1
