"""A task stays small enough to be carried, and never so full that it could not be ended."""

from domain.entity import STATE_LIMIT, record_refusal
from domain.errors import Rejected
from domain.task.commands import (
    ActionEnded,
    CancelTask,
    CommentItem,
    CompleteWorkstream,
    CreateTracker,
    Evaluate,
    GrantAction,
    PostMessage,
    RequestAction,
    RequestApproval,
    UpdateSpec,
)
from domain.task.encoded_size import encoded_size
from domain.task.models import (
    SCHEDULER,
    CommandExecutor,
    Phase,
    Result,
    RunAction,
    RunResult,
    TrackerItem,
    TrackerPhase,
)
from domain.task.size import fit_refusal
from domain.task.tracker import ITEM_LIMIT
from tests.unit.task.support import START, Driver, executing, plan


def size(driver: Driver) -> int:
    return len(driver.state.model_dump_json().encode())


def test_texts_are_refused_before_the_state_is_too_large_and_the_task_can_still_be_ended() -> None:
    driver = executing({"id": "a", "description": "x" * 200_000}, "b")
    question = RequestApproval(content="y" * 9_900)
    while size(driver) < STATE_LIMIT - 106 * 1024:
        driver.apply(question)
    assert "the messages" in driver.refused("state_too_large", question)
    assert size(driver) < STATE_LIMIT
    driver.do(CompleteWorkstream(ws_id="b", result=Result(text="z" * 4_000)))
    driver.do(CancelTask(reason="w" * 10_000))
    assert driver.phase() is Phase.CANCELLED


def test_what_only_the_history_needs_is_shed_first() -> None:
    names = [f"w{number}" for number in range(220)]
    driver = executing({"id": "first", "description": "x" * 200_000}, *names, max_concurrent=20)
    driver.complete("first")
    for name in names:
        driver.do(CompleteWorkstream(ws_id=name, result=Result(text="z" * 4_000)))
    assert driver.phase() is Phase.REVIEW
    assert size(driver) < STATE_LIMIT
    completed = [event for event in driver.events if event.type == "workstream_completed"]
    assert len(str(completed[-1].payload)) > 4_000


def test_a_full_board_and_open_actions_leave_room_for_decisions() -> None:
    driver = executing("a")
    items = tuple(TrackerItem(item_id=f"i{number}", summary="x" * 200) for number in range(ITEM_LIMIT))
    driver.do(CreateTracker(phases=(TrackerPhase(phase_id="p", name="P", items=items),)))
    argv = ("x" * 4_000, "y" * 4_000)
    for _ in range(50):
        driver.apply(RequestAction(action=RunAction(executor=CommandExecutor(argv=argv, pod="gpu1"))))
    remarks = [CommentItem(item_id=item.item_id, content="y" * 2_000) for item in items]
    # Only the newest of each item are needed, and their beginnings, once there is no more room.
    for remark in remarks * 3:
        driver.apply(remark)
    assert encoded_size(driver.state) == size(driver) < STATE_LIMIT
    for action_id in list(driver.state.actions):
        driver.apply(GrantAction(action_id=action_id))
        result = Result(text="z" * 4_096, run=RunResult(exit_code=0))
        driver.apply(ActionEnded(action_id=action_id, result=result), by=SCHEDULER)
        assert size(driver) < STATE_LIMIT
    driver.do(CancelTask())
    assert driver.phase() is Phase.CANCELLED


def test_thousands_of_commands_are_remembered_up_to_a_limit() -> None:
    driver = Driver(plan("a"))
    for number in range(5_100):
        driver.apply(Evaluate(), command_id=f"{number:0100d}")
    assert len(driver.state.ledger) == 5_000
    assert size(driver) < STATE_LIMIT
    driver.do(UpdateSpec(content="x" * 200_000))
    for _ in range(30):
        driver.apply(PostMessage(content="y" * 9_900))
    assert size(driver) < STATE_LIMIT


def test_thousands_of_refusals_fit() -> None:
    driver = executing("a")
    for number in range(5_100):
        rejected = Rejected("wrong_payload", "\U0001f600" * 2_000)
        before = driver.state
        state, _ = record_refusal(
            before, rejected, command_id=f"{number:~>160}", command="\U0001f600" * 100, by="é" * 200, now=START
        )
        driver.state = fit_refusal(state, before)
        if number % 500 == 0:
            assert size(driver) < STATE_LIMIT
    assert encoded_size(driver.state) == size(driver) < STATE_LIMIT
    driver.do(CancelTask())
    assert size(driver) < STATE_LIMIT


def test_size_that_is_counted_along_is_the_size() -> None:
    names = [f"w{number}" for number in range(40)]
    driver = executing(*names, max_concurrent=5)
    for number, name in enumerate(names):
        before = driver.state
        driver.do(CompleteWorkstream(ws_id=name, result=Result(text='ä"\n' * number)))
        assert encoded_size(driver.state) == encoded_size(driver.state, before) == size(driver)
    # The oldest messages go, and ids of commands; then all that only the history needs.
    for number in range(5_100):
        driver.apply(PostMessage(content=f"ü {number}"), command_id=f"{number:0100d}")
        if number % 500 > 490 or number > 5_090:
            assert encoded_size(driver.state) == size(driver)
    while len(driver.state.messages) > 100:
        driver.apply(PostMessage(content="y" * 9_900))
    assert encoded_size(driver.state) == size(driver)
