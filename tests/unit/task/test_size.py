"""A task stays small enough to be carried, and never so full that it could not be ended."""

from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from domain.entity import STATE_LIMIT, record_refusal
from domain.errors import Rejected
from domain.task.commands import (
    ActionEnded,
    ApprovePlan,
    ApproveSpec,
    CancelTask,
    ChangeConfig,
    CommentItem,
    CommentOn,
    CompleteWorkstream,
    CreateTracker,
    Evaluate,
    FailWorkstream,
    GiveApproval,
    GrantAction,
    PostMessage,
    RequestAction,
    RequestApproval,
    RunStopped,
    StartWorkstream,
    TaskCommand,
    UpdatePlan,
    UpdateSpec,
    WorkstreamInterrupted,
)
from domain.task.encoded_size import encoded_size
from domain.task.models import (
    SCHEDULER,
    CommandExecutor,
    Phase,
    Result,
    RunAction,
    RunResult,
    TaskConfig,
    TrackerItem,
    TrackerPhase,
)
from domain.task.size import fit_refusal
from domain.task.tracker import ITEM_LIMIT
from domain.task.waits import waits_for
from tests.unit.task.support import START, Driver, command, executing, plan


def size(driver: Driver) -> int:
    return len(driver.state.model_dump_json().encode())


def test_texts_are_refused_before_the_state_is_too_large_and_the_task_can_still_be_ended() -> None:
    driver = executing({"id": "a", "description": "x" * 200_000}, "b")
    question = RequestApproval(content="y" * 9_900)
    with suppress(Rejected):
        while True:
            driver.apply(question)
    assert size(driver) > STATE_LIMIT * 3 // 4
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


def test_a_large_plan_for_a_large_spec_can_be_carried_out_after_people_have_written_all_they_may() -> None:
    names = [f"w{number}" for number in range(500)]
    driver = Driver(plan(*names), "x" * 250_000)
    with suppress(Rejected):
        for _ in range(90):
            driver.apply(PostMessage(content="y" * 9_900, message_type="question"))
    driver.do(ApproveSpec(revision=1))
    driver.do(ApprovePlan(revision=1))
    assert driver.phase() is Phase.WORKSTREAM_EXECUTION
    assert sum(ws.status == "in_progress" for ws in driver.state.workstreams.values()) == 3


def test_hundreds_of_failures_are_taken_and_nothing_starts_that_could_not_be_reported_on() -> None:
    driver = executing(*[command(f"w{number}") for number in range(500)], max_concurrent=20)
    while under_way := [ws for ws in driver.state.workstreams.values() if ws.run]:
        for ws in under_way:
            failed = FailWorkstream(ws_id=ws.ws_id, attempt=ws.attempt, error="it broke " * 400)
            driver.do(failed, by=SCHEDULER)
            for run_id in list(driver.state.stopping_runs):
                driver.do(RunStopped(run_id=run_id), by=SCHEDULER)
    questions = list(driver.state.open_approvals())
    assert len(questions) > 150
    assert size(driver) < STATE_LIMIT
    waiting = [ws.ws_id for ws in driver.state.workstreams.values() if ws.status == "pending"]
    assert waiting
    assert any("no workstream starts" in reason for reason in waits_for(driver.state))
    driver.refused("state_too_large", StartWorkstream(ws_id=waiting[0]))
    for message in questions[:5]:
        driver.do(GiveApproval(message_id=message.message_id, choice="skip"))
    assert any(ws.run for ws in driver.state.workstreams.values())


class Full:
    """A task that people fill to its limit with what they can do without, and what must be accepted all the same."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.driver = Driver(None, None, max_concurrent=100)

    def fill(self, grow: TaskCommand) -> None:
        """Send a growing command until it is refused, or until it need not be."""
        for _ in range(150):
            try:
                self.driver.apply(grow)
            except Rejected:
                break
        self.check()

    def must(self, command: TaskCommand, by: str = "ann") -> None:
        """Send what must be accepted."""
        self.driver.do(command, by=by)
        self.check()

    def check(self) -> None:
        assert encoded_size(self.driver.state) == size(self.driver) < STATE_LIMIT

    def end(self, ws_id: str, how: str) -> None:
        """Report how an attempt ended, at length."""
        attempt = self.driver.state.workstreams[ws_id].attempt
        run = RunResult(exit_code=1, log="/root/.podctl/runs/t1/" + ws_id, size=10_000, sha256="0" * 64)
        said = Result(text=self.text * 4_000, run=run)
        if how == "complete":
            self.must(CompleteWorkstream(ws_id=ws_id, attempt=attempt, result=said), SCHEDULER)
        elif how == "interrupted":
            self.must(WorkstreamInterrupted(ws_id=ws_id, attempt=attempt, reason=self.text * 4_000), SCHEDULER)
        else:
            again = how == "again"
            failed = FailWorkstream(
                ws_id=ws_id, attempt=attempt, error=self.text * 4_000, recoverable=again, result=said
            )
            self.must(failed, SCHEDULER)

    def work(self, reports: int, outcomes: list[str], growing: list[TaskCommand]) -> None:
        """Report on whatever runs, and fill the task further meanwhile."""
        for number in range(reports):
            under_way = [ws.ws_id for ws in self.driver.state.workstreams.values() if ws.run]
            if not under_way:
                break
            if number % 50 == 0:
                for grow in growing:
                    self.fill(grow)
            self.end(under_way[0], outcomes[number % len(outcomes)])
            for run_id in list(self.driver.state.stopping_runs):
                self.must(RunStopped(run_id=run_id), SCHEDULER)

    def decide(self, choice: str, comment: str) -> None:
        """Answer questions, at length, and report on what that lets run."""
        for message in list(self.driver.state.open_approvals())[:60]:
            assert message.approval is not None
            options = message.approval.options
            answer = choice if choice in options else options[-1]
            if answer == "cancel":
                continue
            self.must(GiveApproval(message_id=message.message_id, choice=answer, comment=comment))
        for name, action in list(self.driver.state.actions.items()):
            if action.status == "granted":
                self.must(ActionEnded(action_id=name, error=self.text * 4_000), SCHEDULER)


@settings(max_examples=8, deadline=None)
@given(
    text=st.sampled_from(["x", "é", "\U0001f600", "\x01", '"']),
    count=st.sampled_from([1, 40, 450]),
    outcomes=st.lists(st.sampled_from(["complete", "fail", "again", "interrupted"]), min_size=1, max_size=8),
    choice=st.sampled_from(["retry", "skip", "fix"]),
    data=st.data(),
)
def test_a_task_filled_to_its_limit_takes_all_that_must_be_accepted(
    text: str, count: int, outcomes: list[str], choice: str, data: st.DataObject
) -> None:
    full = Full(text)
    driver = full.driver
    many = text * (9_900 // len(text.encode()))
    item = TrackerItem(item_id="i", summary="x" * 200)
    growing: list[TaskCommand] = [
        PostMessage(content=many),
        PostMessage(content=many, message_type="question"),
        RequestApproval(content=many),
        RequestApproval(content="which?"),
        RequestAction(action=RunAction(executor=CommandExecutor(argv=("make",), pod="gpu1")), reason=text * 400),
        CommentOn(document="spec", content=many),
        CreateTracker(phases=(TrackerPhase(phase_id="p", name="P", items=(item,)),)),
        CommentItem(item_id="i", content=text * 400),
        UpdateSpec(content=text * (250_000 // len(text.encode()))),
        ChangeConfig(config=TaskConfig(max_concurrent=100, notify=("x" * 4_000,) * 90)),
    ]
    full.fill(UpdateSpec(content="build it"))
    first = data.draw(st.lists(st.sampled_from(growing), max_size=4))
    for grow in first:
        full.fill(grow)
    listed = [command(f"w{number}") for number in range(count)]
    with suppress(Rejected):
        driver.apply(UpdatePlan(plan=plan(*listed)))
    full.must(ApproveSpec(comment=many))
    if driver.state.plan is None:
        full.fill(UpdatePlan(plan=plan(command("w0"))))
    if driver.state.plan is None:
        full.must(CancelTask(reason=many))
        return
    for grow in data.draw(st.lists(st.sampled_from(growing), max_size=4)):
        full.fill(grow)
    full.must(ApprovePlan(comment=many))
    assert driver.phase() is Phase.WORKSTREAM_EXECUTION
    assert any(ws.run for ws in driver.state.workstreams.values()), "something starts, however full the task is"
    full.work(2 * count, outcomes, first)
    full.decide(choice, many)
    full.must(CancelTask(reason=many))
    assert driver.phase() is Phase.CANCELLED
