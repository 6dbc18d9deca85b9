"""Agents: started once for each input, tried again, asked about; ended with what they work on."""

from typing import Any

import pytest

from domain.task.briefing import briefing_for_run
from domain.task.commands import (
    AgentDone,
    AgentFailed,
    AgentInterrupted,
    ApprovePlan,
    ApproveReview,
    ApproveSpec,
    CancelTask,
    ChangeConfig,
    CompleteWorkstream,
    CreateWorkstream,
    Evaluate,
    FailWorkstream,
    GeneratePlan,
    GenerateSpec,
    GiveApproval,
    InterruptAgent,
    MessageAgent,
    PostMessage,
    ReassignExecutor,
    RegisterAgent,
    Reject,
    ReopenPlan,
    ReopenSpec,
    RequestApproval,
    RequestTransition,
    RestartAgent,
    RetryWorkstream,
    RunStopped,
    SkipWorkstream,
    StartAgent,
    TaskCommand,
    UnregisterAgent,
    UpdatePlan,
    UpdateSpec,
)
from domain.task.models import (
    SCHEDULER,
    Agent,
    AgentStatus,
    AgentType,
    CommandExecutor,
    InboxKind,
    Phase,
    PlanDraft,
    Result,
    RunResult,
    TaskConfig,
)
from domain.task.runs import AgentRun
from domain.task.schedule import RunCommand, StopRun, WakeAt
from domain.task.waits import open_matters, waits_for
from tests.unit.task.support import AUTOMATIC, Driver, command, executing, plan

PROGRAM = {"type": "command", "argv": ["write"], "pod": "gpu1"}
OUTSIDE = {"type": "signal"}
ENDED = Result(text="the end of its output", run=RunResult(exit_code=0))


def with_agents(spec: str | None = None, **config: object) -> Driver:
    """Return a task with a spec writer, a planner and a reviewer."""
    executor = config.pop("executor", PROGRAM)
    agents = {"spec_writer": executor, "planner": executor, "reviewer": executor}
    return Driver(None, spec, agents=agents, **config)


def planning(**config: object) -> Driver:
    driver = Driver(None, "build it", agents={"planner": PROGRAM}, **config)
    driver.do(ApproveSpec(revision=1))
    return driver


def agent(driver: Driver, agent_id: str) -> Agent:
    return driver.state.agents[agent_id]


def running(driver: Driver) -> list[str]:
    return [a.agent_id for a in driver.state.agents.values() if a.status is AgentStatus.RUNNING]


def done(driver: Driver, agent_id: str, text: str = "", plan: PlanDraft | None = None) -> None:
    driver.do(AgentDone(agent_id=agent_id, result=ENDED, text=text, plan=plan), by=SCHEDULER)


def failed(driver: Driver, agent_id: str, error: str = "it broke") -> None:
    driver.do(AgentFailed(agent_id=agent_id, error=error, result=ENDED), by=SCHEDULER)


def open_question(driver: Driver) -> tuple[str, tuple[str, ...]]:
    [message] = driver.state.open_approvals()
    assert message.approval is not None
    return message.message_id, message.approval.options


# -- started by the scheduler -------------------------------------------------------------------------------------


def test_agents_write_the_spec_and_the_plan_and_review_the_work() -> None:
    driver = with_agents()
    [run] = [action for action in driver.actions() if isinstance(action, RunCommand)]
    assert (run.subject, run.run_id, run.pod, run.makes) == (
        AgentRun(agent_id="spec-writer-1"),
        "t1/_spec-writer-1/1",
        "gpu1",
        "text",
    )
    assert driver.state.spec.generation_status == "generating"
    done(driver, "spec-writer-1", text="# Build it")
    assert driver.state.spec.content == "# Build it"
    assert driver.state.spec.generation_status == "ready_for_review"
    assert driver.phase() is Phase.SPEC_CLARIFICATION, "a person approves"
    driver.do(ApproveSpec(revision=1))

    [run] = [action for action in driver.actions() if isinstance(action, RunCommand)]
    assert (run.run_id, run.makes) == ("t1/_planner-2/1", "plan")
    done(driver, "planner-2", plan=plan("a"))
    assert running(driver) == []
    driver.do(ApprovePlan(revision=1))
    driver.complete("a")

    assert driver.phase() is Phase.REVIEW
    assert running(driver) == ["reviewer-3"]
    done(driver, "reviewer-3", text="well done")
    assert driver.state.review.report == "well done"
    driver.do(ApproveReview(revision=2))
    assert driver.phase() is Phase.COMPLETED
    assert [e for e in driver.event_types() if e.startswith("agent")] == ["agent_started", "agent_completed"] * 3


def test_people_are_asked_to_approve_when_the_reviewer_has_reported() -> None:
    driver = Driver(plan("a"), agents={"reviewer": PROGRAM}, gates={"spec": "auto", "plan": "auto"})
    driver.complete("a")
    assert [item for item in driver.state.inbox.values() if item.waits] == []
    done(driver, "reviewer-1", text="well done")
    assert [item.kind for item in driver.state.inbox.values() if item.waits] == [InboxKind.NEEDS_APPROVAL]


def test_a_planner_is_told_of_the_plan_there_is_and_why_the_last_attempt_failed() -> None:
    driver = planning(failure_cooldown_seconds=[])
    done(driver, "planner-1", plan=plan("a"))
    driver.do(Reject(gate="plan", comment="b is missing"))
    assert any("podctl plan generate t1" in item.preview for item in driver.state.inbox.values())
    driver.do(GeneratePlan(instructions="with b"))
    failed(driver, "planner-2", "no idea")
    told = briefing_for_run(driver.state, "t1/_planner-3/2")
    assert told is not None
    assert told["agent"] == {
        "id": "planner-3",
        "type": "planner",
        "attempt": 2,
        "instructions": "with b",
        "last_error": "no idea",
    }
    assert "id: a" in str(told["plan"])
    assert told["feedback"] == {"plan": {"by": "ann", "revision": 1, "comment": "b is missing"}}
    assert briefing_for_run(driver.state, "t1/_planner-1/1") is None, "it has ended"


def test_automatic_gates_wait_for_the_agents_of_their_phase() -> None:
    driver = with_agents(gates=AUTOMATIC)
    done(driver, "spec-writer-1", text="# Build it")
    done(driver, "planner-2", plan=plan("a"))
    driver.complete("a")
    assert driver.phase() is Phase.REVIEW
    done(driver, "reviewer-3", text="well done")
    assert driver.phase() is Phase.COMPLETED


def test_nobody_writes_what_is_there() -> None:
    assert with_agents("build it").state.agents == {}


def test_none_runs_twice_for_the_same_input() -> None:
    driver = planning()
    driver.do(InterruptAgent(agent_id="planner-1"))
    driver.do(Evaluate())
    assert running(driver) == []
    assert [a.agent_id for a in driver.state.agents.values()] == ["planner-1"]
    [matter] = open_matters(driver.state)
    assert "podctl plan generate t1" in matter.text


def test_only_the_scheduler_needs_an_agent_and_only_for_what_is_to_be_made() -> None:
    driver = planning()
    driver.refused("agent_not_wanted", StartAgent(agent_type=AgentType.SPEC_WRITER, basis="spec/1"), by=SCHEDULER)


@pytest.mark.parametrize(
    ("executor", "code"), [({**PROGRAM, "pod": None}, "no_pod"), ({**PROGRAM, "server": "s"}, "agent_with_server")]
)
def test_agents_that_could_never_start_are_refused(executor: dict[str, Any], code: str) -> None:
    config = TaskConfig.model_validate({"agents": {"planner": executor}})
    Driver().refused(code, ChangeConfig(config=config))


def test_an_access_token_in_the_command_of_an_agent_is_refused() -> None:
    executor = {**PROGRAM, "argv": ["write", "--token", "hf_" + "a" * 34]}
    config = TaskConfig.model_validate({"agents": {"planner": executor}})
    Driver().refused("secret_in_arguments", ChangeConfig(config=config))


def test_an_access_token_of_the_notify_hook_is_refused() -> None:
    config = TaskConfig.model_validate({"notify": ["tell", "--token", "hf_" + "a" * 34]})
    message = Driver().refused("secret_in_arguments", ChangeConfig(config=config))
    assert "a file that the hook reads" in message


# -- failures -----------------------------------------------------------------------------------------------------


def test_a_planner_that_fails_is_tried_again_with_growing_delays_and_then_asked_about() -> None:
    driver = planning(agent_attempts=4, failure_cooldown_seconds=[5, 30])
    for number, seconds in ((1, 5), (2, 30), (3, 30)):
        failed(driver, f"planner-{number}")
        assert running(driver) == []
        assert [a.at for a in driver.actions() if isinstance(a, WakeAt)]
        driver.later(seconds - 1)
        assert running(driver) == []
        driver.later(1)
        assert running(driver) == [f"planner-{number + 1}"]
    failed(driver, "planner-4", "it broke for good")
    assert agent(driver, "planner-4").attempt == 4
    message_id, options = open_question(driver)
    assert options == ("retry", "write by hand", "cancel")
    assert [item.kind for item in driver.state.inbox.values()] == [InboxKind.NEEDS_APPROVAL]
    driver.do(GiveApproval(message_id=message_id, choice="retry", comment="mind the tests"))
    assert running(driver) == ["planner-5"]
    assert (agent(driver, "planner-5").attempt, agent(driver, "planner-5").instructions) == (1, "mind the tests")


def test_a_planner_that_wrote_nothing_valid_has_failed() -> None:
    driver = planning(agent_attempts=1)
    done(driver, "planner-1", plan=plan("a: nowhere"))
    assert driver.state.plan is None
    assert "depends on 'nowhere'" in str(agent(driver, "planner-1").error)
    message_id, _ = open_question(driver)
    driver.do(GiveApproval(message_id=message_id, choice="write by hand"))
    assert [matter.key for matter in open_matters(driver.state)] == ["write/plan"]
    driver.do(UpdatePlan(plan=plan("a")))
    assert driver.state.plan is not None


@pytest.mark.parametrize("made", [{}, {"plan": None, "text": "a plan"}, {"plan": plan()}])
def test_a_planner_without_a_plan_has_failed(made: dict[str, Any]) -> None:
    driver = planning(agent_attempts=1)
    done(driver, "planner-1", **made)
    assert agent(driver, "planner-1").status is AgentStatus.FAILED


def test_a_spec_writer_that_wrote_nothing_has_failed_and_a_person_can_cancel() -> None:
    driver = with_agents(agent_attempts=1)
    done(driver, "spec-writer-1", text=" \n")
    assert driver.state.spec.revision == 0
    driver.do(GiveApproval(message_id=open_question(driver)[0], choice="cancel"))
    assert driver.phase() is Phase.CANCELLED


def test_a_spec_that_is_too_long_is_a_failure_and_not_a_loop() -> None:
    driver = with_agents(agent_attempts=1)
    done(driver, "spec-writer-1", text="x" * 300_000)
    assert "262,144" in str(agent(driver, "spec-writer-1").error)


def test_a_run_whose_end_nobody_saw_is_not_repeated() -> None:
    driver = planning()
    driver.do(AgentInterrupted(agent_id="planner-1", reason="nobody saw how it ended"), by=SCHEDULER)
    assert running(driver) == []
    assert open_question(driver)[1] == ("retry", "write by hand", "cancel")


def test_evaluating_ends_the_wait_for_another_attempt() -> None:
    driver = planning()
    failed(driver, "planner-1")
    driver.do(Evaluate())
    assert running(driver) == ["planner-2"]


def test_what_people_do_is_never_overwritten_by_a_late_agent() -> None:
    driver = planning()
    driver.do(UpdatePlan(plan=plan("by-hand")))
    assert agent(driver, "planner-1").status is AgentStatus.INTERRUPTED
    assert [a.run_id for a in driver.actions() if isinstance(a, StopRun)] == ["t1/_planner-1/1"]
    driver.refused("agent_not_running", AgentDone(agent_id="planner-1", plan=plan("late")), by=SCHEDULER)
    driver.refused("agent_not_running", AgentFailed(agent_id="planner-1", error="late"), by=SCHEDULER)
    assert driver.state.plan is not None
    assert list(driver.state.plan.workstreams) == ["by-hand"]


@pytest.mark.parametrize(
    "change",
    [
        CreateWorkstream(workstream=plan("b").workstreams[0]),
        ReassignExecutor(ws_id="a", executor=CommandExecutor(argv=("make", "a"), pod="gpu1")),
    ],
)
def test_a_part_of_the_plan_that_people_change_is_not_overwritten_either(change: TaskCommand) -> None:
    driver = planning()
    done(driver, "planner-1", plan=plan("a"))
    driver.do(GeneratePlan())
    assert running(driver) == ["planner-2"]
    driver.do(change)
    assert running(driver) == []
    assert driver.state.stopping_runs == {"t1/_planner-2/1": "gpu1"}
    driver.refused("agent_not_running", AgentDone(agent_id="planner-2", plan=plan("late")), by=SCHEDULER)


def test_a_question_about_a_failure_is_settled_by_writing_it_by_hand() -> None:
    driver = planning(agent_attempts=1)
    failed(driver, "planner-1")
    driver.do(UpdatePlan(plan=plan("a")))
    assert not list(driver.state.open_approvals())


# -- asked for by a person ----------------------------------------------------------------------------------------


def test_a_person_has_a_spec_written_anew_and_the_old_one_is_not_approved_meanwhile() -> None:
    driver = with_agents("build it", gates={"spec": "auto"})
    assert driver.phase() is Phase.PLANNING, "an automatic gate"
    driver = with_agents("build it")
    driver.do(GenerateSpec(instructions="shorter"))
    assert running(driver) == ["spec-writer-1"]
    driver.refused("agent_running", GenerateSpec())
    done(driver, "spec-writer-1", text="it")
    assert driver.state.spec.revision == 2
    driver.do(GenerateSpec())
    driver.do(ApproveSpec(revision=2))
    assert agent(driver, "spec-writer-2").status is AgentStatus.INTERRUPTED, "approved as it is"


def test_generating_needs_somebody_who_does_it() -> None:
    driver = Driver()
    driver.refused("no_agent_configured", GenerateSpec())
    driver.refused("invalid_phase", GeneratePlan())
    driver = planning()
    done(driver, "planner-1", plan=plan("a"))
    driver.apply(ApprovePlan(revision=1))
    driver.refused("already_approved", GeneratePlan())
    driver.refused("already_approved", RestartAgent(agent_id="planner-1"))


def test_an_agent_that_has_ended_is_restarted_as_another() -> None:
    driver = planning()
    driver.refused("agent_running", RestartAgent(agent_id="planner-1"))
    driver.do(InterruptAgent(agent_id="planner-1", reason="wrong model"))
    driver.do(RestartAgent(agent_id="planner-1", instructions="once more"))
    assert running(driver) == ["planner-2"]
    driver.refused("agent_not_found", RestartAgent(agent_id="nobody"))
    driver.do(ReopenSpec())
    driver.refused("invalid_phase", RestartAgent(agent_id="planner-1"))


def test_an_agent_that_is_no_longer_configured_does_not_start() -> None:
    driver = planning()
    failed(driver, "planner-1")
    driver.do(ChangeConfig(config=TaskConfig()))
    driver.later(3600)
    assert running(driver) == []
    assert "write/plan" in driver.state.inbox


# -- slots and cooldowns ------------------------------------------------------------------------------------------


def test_agents_and_workstreams_share_the_slots() -> None:
    driver = executing("a", "b", max_concurrent=2)
    driver.do(RegisterAgent(agent_id="bot", agent_type=AgentType.WORKSTREAM, workstream_id="a"), by="bot")
    assert driver.statuses() == {"a": "in_progress", "b": "in_progress"}, "an agent of a workstream takes no other slot"


def test_a_planner_waits_for_a_slot() -> None:
    driver = planning(max_concurrent=1)
    assert running(driver) == ["planner-1"]
    driver.do(RequestTransition(to=Phase.SPEC_CLARIFICATION))
    assert driver.state.pending_transition is not None


def test_starts_keep_a_distance_by_a_durable_timer() -> None:
    driver = executing("a", "b", "c", spawn_cooldown_seconds=10)
    assert list(driver.statuses().values()).count("in_progress") == 1
    assert [a.at for a in driver.actions() if isinstance(a, WakeAt)] == [driver.state.cooldown_until]
    driver.later(10)
    assert list(driver.statuses().values()).count("in_progress") == 2
    driver.do(Evaluate())
    assert list(driver.statuses().values()).count("in_progress") == 3, "evaluating ends the cooldown"
    assert not [a for a in driver.actions() if isinstance(a, WakeAt)], "nothing is left to start"


# -- outside ------------------------------------------------------------------------------------------------------


def test_an_agent_by_signal_starts_nothing_and_the_inbox_says_how_to_report() -> None:
    driver = with_agents(executor=OUTSIDE)
    assert not [action for action in driver.actions() if isinstance(action, RunCommand)]
    [item] = driver.state.inbox.values()
    assert (item.kind, item.command) == (
        InboxKind.AGENT_AWAITING_INPUT,
        "podctl agents done t1 spec-writer-1 --file FILE",
    )
    message = driver.refused("content_empty", AgentDone(agent_id="spec-writer-1"), by="ann")
    assert "text" in message
    driver.do(AgentDone(agent_id="spec-writer-1", text="# Build it"), by="ann")
    assert driver.state.spec.updated_by == "ann"


def test_an_outside_agent_asks_and_is_answered_while_it_runs() -> None:
    driver = executing("a")
    driver.do(RegisterAgent(agent_id="bot", agent_type=AgentType.WORKSTREAM, workstream_id="a"), by="bot")
    driver.do(PostMessage(content="half way", workstream_id="a"), by="bot")
    driver.do(RequestApproval(content="which?", options=("x", "y"), blocking=True, agent_id="bot"), by="bot")
    assert agent(driver, "bot").status is AgentStatus.AWAITING_INPUT
    assert driver.statuses() == {"a": "awaiting_input"}
    driver.do(GiveApproval(message_id=open_question(driver)[0], choice="x"))
    assert (agent(driver, "bot").status, agent(driver, "bot").turns) == (AgentStatus.RUNNING, 1)
    assert driver.statuses() == {"a": "in_progress"}
    driver.do(AgentDone(agent_id="bot", text="done"), by="bot")
    assert agent(driver, "bot").status is AgentStatus.COMPLETED
    assert driver.state.workstreams["a"].result == Result(text="done")
    assert driver.phase() is Phase.REVIEW


def test_an_agent_asks_about_its_own_workstream_only() -> None:
    driver = executing("a", "b")
    driver.do(RegisterAgent(agent_id="bot", agent_type=AgentType.WORKSTREAM, workstream_id="a"), by="bot")
    question = RequestApproval(content="which?", blocking=True, agent_id="bot", workstream_id="b")
    message = driver.refused("not_owner", question, by="bot")
    assert "'a'" in message
    driver.do(question.model_copy(update={"workstream_id": "a"}), by="bot")
    assert driver.statuses() == {"a": "awaiting_input", "b": "in_progress"}
    driver.do(MessageAgent(agent_id="bot", content="the first"))
    assert driver.statuses() == {"a": "in_progress", "b": "in_progress"}


def test_an_agent_without_a_workstream_asks_about_none() -> None:
    driver = planning()
    driver.refused("not_owner", RequestApproval(content="which?", agent_id="planner-1", workstream_id="a"))


def test_a_message_answers_an_agent_that_waits() -> None:
    driver = planning()
    driver.do(RequestApproval(content="which?", blocking=True, agent_id="planner-1"))
    assert not any("task" in key for key in driver.state.inbox), "only the agent waits, not the whole task"
    driver.do(MessageAgent(agent_id="planner-1", content="take the first"))
    assert (agent(driver, "planner-1").status, agent(driver, "planner-1").turns) == (AgentStatus.RUNNING, 1)
    assert not list(driver.state.open_approvals())
    [message] = [m for m in driver.state.messages.values() if m.agent_id is not None]
    assert message.content == "take the first"


def test_who_registers_says_what_for() -> None:
    driver = executing("a", "b: a")
    register = RegisterAgent(agent_id="bot", agent_type=AgentType.WORKSTREAM, workstream_id="a")
    driver.refused("wrong_agent_type", RegisterAgent(agent_id="bot", agent_type=AgentType.WORKSTREAM))
    driver.refused("wrong_agent_type", RegisterAgent(agent_id="bot", agent_type=AgentType.PLANNER, workstream_id="a"))
    driver.refused("invalid_phase", RegisterAgent(agent_id="bot", agent_type=AgentType.PLANNER))
    driver.refused("workstream_not_found", register.model_copy(update={"workstream_id": "nowhere"}))
    driver.refused("workstream_not_in_progress", register.model_copy(update={"workstream_id": "b"}))
    driver.do(register)
    driver.refused("duplicate_agent", register)
    driver.refused("agent_running", register.model_copy(update={"agent_id": "other"}))
    driver.refused("agent_running", UnregisterAgent(agent_id="bot"))
    driver.complete("a")
    driver.refused("agent_outside", RestartAgent(agent_id="bot"))
    driver.do(UnregisterAgent(agent_id="bot"))
    assert driver.state.agents == {}


def test_an_agent_is_not_forgotten_while_it_tells_that_its_work_was_tried() -> None:
    driver = planning(agent_attempts=1)
    failed(driver, "planner-1")
    message = driver.refused("agent_kept", UnregisterAgent(agent_id="planner-1"))
    assert "podctl agents restart t1 planner-1" in message
    driver.do(RestartAgent(agent_id="planner-1"))
    driver.do(UnregisterAgent(agent_id="planner-1"))
    assert running(driver) == ["planner-2"]
    driver.do(UpdatePlan(plan=plan("a")))
    driver.do(UnregisterAgent(agent_id="planner-2"))
    assert driver.state.agents == {}
    assert waits_for(driver.state)


def test_an_outside_agent_that_failed_is_forgotten_and_podctl_starts_its_own() -> None:
    driver = Driver(None, "build it")
    driver.do(ApproveSpec(revision=1))
    driver.do(RegisterAgent(agent_id="bot", agent_type=AgentType.PLANNER), by="bot")
    driver.do(ChangeConfig(config=TaskConfig.model_validate({"agents": {"planner": PROGRAM}})))
    driver.do(AgentFailed(agent_id="bot", error="no luck"), by="bot")
    assert running(driver) == []
    driver.do(UnregisterAgent(agent_id="bot"))
    assert running(driver) == ["planner-1"]


def test_an_outside_planner_sends_the_plan_itself() -> None:
    driver = Driver()
    driver.do(ApproveSpec(revision=1))
    driver.do(RegisterAgent(agent_id="bot", agent_type=AgentType.PLANNER), by="bot")
    driver.do(UpdatePlan(plan=plan("a")), by="bot")
    assert agent(driver, "bot").active
    driver.do(AgentDone(agent_id="bot", plan=plan("a", "b")), by="bot")
    assert driver.state.plan is not None
    assert list(driver.state.plan.workstreams) == ["a", "b"]


# -- ended with what they work on ---------------------------------------------------------------------------------


def test_interrupting_an_agent_ends_the_attempt_of_its_workstream() -> None:
    driver = executing(command("a"))
    driver.do(RegisterAgent(agent_id="bot", agent_type=AgentType.WORKSTREAM, workstream_id="a"), by="bot")
    driver.do(InterruptAgent(agent_id="bot", reason="it wanders"))
    assert driver.statuses() == {"a": "failed"}
    assert agent(driver, "bot").status is AgentStatus.INTERRUPTED
    assert driver.state.stopping_runs == {"t1/a/1": "gpu1"}
    assert open_question(driver)[1] == ("retry", "skip", "fix", "cancel")


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (CompleteWorkstream(ws_id="a"), AgentStatus.COMPLETED),
        (SkipWorkstream(ws_id="a"), AgentStatus.INTERRUPTED),
        (CancelTask(), AgentStatus.INTERRUPTED),
    ],
)
def test_the_agent_of_a_workstream_ends_with_its_attempt(end: TaskCommand, status: AgentStatus) -> None:
    driver = executing("a")
    driver.do(RegisterAgent(agent_id="bot", agent_type=AgentType.WORKSTREAM, workstream_id="a"), by="bot")
    driver.do(end)
    assert agent(driver, "bot").status is status
    late = "already_terminal" if driver.state.final else "agent_not_running"
    driver.refused(late, AgentFailed(agent_id="bot", error="too late"), by="bot")


@pytest.mark.parametrize("work", ["a", command("a")])
def test_a_failed_agent_fails_its_workstream_and_a_person_is_asked(work: str | dict[str, Any]) -> None:
    driver = executing(work, failure_cooldown_seconds=[5])
    driver.do(RegisterAgent(agent_id="bot", agent_type=AgentType.WORKSTREAM, workstream_id="a"), by="bot")
    driver.do(AgentFailed(agent_id="bot", error="no luck"), by="bot")
    driver.later(5)
    assert driver.statuses() == {"a": "failed"}, "what it did may have taken effect"
    assert driver.state.workstreams["a"].attempt == 1
    assert open_question(driver)[1] == ("retry", "skip", "fix", "cancel")


def test_a_failed_agent_whose_work_took_no_effect_is_tried_again() -> None:
    driver = executing("a", failure_cooldown_seconds=[5])
    driver.do(RegisterAgent(agent_id="bot", agent_type=AgentType.WORKSTREAM, workstream_id="a"), by="bot")
    driver.do(AgentFailed(agent_id="bot", error="no luck", recoverable=True), by="bot")
    assert driver.statuses() == {"a": "pending"}, "it may be tried again"
    driver.later(5)
    assert driver.state.workstreams["a"].attempt == 2
    assert driver.state.workstreams["a"].agent_id is None


def test_cancelling_stops_agents_and_their_runs() -> None:
    driver = planning()
    driver.do(CancelTask(reason="enough"))
    assert agent(driver, "planner-1").status is AgentStatus.INTERRUPTED
    assert driver.wanted() == ["stop-run/t1/_planner-1/1"]
    driver.do(RunStopped(run_id="t1/_planner-1/1"), by=SCHEDULER)
    assert driver.wanted() == []


def test_the_newest_that_ended_are_kept_and_those_at_work() -> None:
    driver = executing("a")
    for number in range(60):
        driver.do(RegisterAgent(agent_id=f"bot-{number}", agent_type=AgentType.WORKSTREAM, workstream_id="a"))
        driver.do(AgentDone(agent_id=f"bot-{number}"))
        if driver.phase() is Phase.REVIEW:
            driver.do(RequestTransition(to=Phase.WORKSTREAM_EXECUTION))
            driver.do(GiveApproval(message_id=open_question(driver)[0], choice="approve"))
        driver.do(RetryWorkstream(ws_id="a"))
    assert list(driver.state.agents) == [f"bot-{number}" for number in range(10, 60)]


# -- back again ---------------------------------------------------------------------------------------------------


def test_reopening_the_spec_moves_at_once_and_does_not_bounce_forward() -> None:
    driver = Driver(plan("a"), gates={"spec": "auto", "plan": "auto"})
    driver.do(ReopenSpec(reason="it is wrong"))
    assert driver.phase() is Phase.SPEC_CLARIFICATION
    assert driver.state.spec.approval is None
    assert driver.state.plan is not None
    assert driver.state.plan.approval is None
    driver.later(3600)
    assert driver.phase() is Phase.SPEC_CLARIFICATION
    driver.do(UpdateSpec(content="build that"))
    assert driver.phase() is Phase.WORKSTREAM_EXECUTION, "its gates are automatic"


def test_reopening_the_plan_needs_that_nothing_runs() -> None:
    driver = executing(command("a"))
    assert "a still run" in driver.refused("workstreams_running", ReopenPlan())
    driver.do(SkipWorkstream(ws_id="a"))
    assert driver.phase() is Phase.REVIEW
    driver.refused("workstreams_running", ReopenPlan())
    driver.stopped()
    driver.do(ReopenPlan())
    assert driver.phase() is Phase.PLANNING
    assert driver.event_types().count("plan_reopened") == 1
    driver.refused("already_open", ReopenPlan())


def test_reopening_withdraws_what_was_asked() -> None:
    driver = executing("a")
    driver.do(RequestTransition(to=Phase.PLANNING))
    driver.do(ReopenPlan())
    assert not list(driver.state.open_approvals())
    assert driver.state.pending_transition is None


def test_an_approved_spec_that_is_held_up_is_reopened_where_it_is() -> None:
    driver = Driver()
    driver.do(RequestApproval(content="wait?", blocking=True))
    driver.do(ApproveSpec(revision=1))
    assert driver.phase() is Phase.SPEC_CLARIFICATION
    driver.do(ReopenSpec())
    assert driver.state.spec.approval is None
    driver.refused("already_open", ReopenSpec())


def test_the_reviewer_is_at_work_so_the_task_does_not_go_back() -> None:
    driver = Driver(plan("a"), agents={"reviewer": PROGRAM}, gates={"spec": "auto", "plan": "auto"})
    driver.complete("a")
    assert running(driver) == ["reviewer-1"]
    assert "reviewer-1" in driver.refused("agents_running", ReopenPlan())
    driver.do(InterruptAgent(agent_id="reviewer-1"))
    driver.do(ReopenPlan())
    assert driver.phase() is Phase.PLANNING


# -- never stuck --------------------------------------------------------------------------------------------------


def test_work_that_will_never_start_by_itself_is_in_the_inbox_with_its_reason() -> None:
    driver = executing("a", "b: a")
    driver.do(FailWorkstream(ws_id="a", error="no luck"))
    driver.do(SkipWorkstream(ws_id="b"))
    driver.do(RequestTransition(to=Phase.REVIEW))
    driver.do(RequestTransition(to=Phase.WORKSTREAM_EXECUTION))
    driver.do(GiveApproval(message_id=open_question(driver)[0], choice="approve"))
    driver.do(RetryWorkstream(ws_id="b"))
    assert driver.statuses() == {"a": "failed", "b": "blocked"}
    [item] = driver.state.inbox.values()
    assert "workstream b cannot start, because workstream a failed" in item.preview
    assert item.command == "podctl workstream retry t1 a"
    driver.do(RetryWorkstream(ws_id="a"))
    assert driver.state.inbox == {}
    driver.complete("a", "b")
    assert driver.phase() is Phase.REVIEW


def test_waits_for_says_what_agents_do() -> None:
    driver = planning()
    assert any("planner planner-1 runs on pod gpu1" in reason for reason in waits_for(driver.state))
    failed(driver, "planner-1")
    assert any("planner planner-2 tries again at 12:00:05 UTC" in reason for reason in waits_for(driver.state))


def test_an_agents_error_says_what_its_program_printed_last() -> None:
    driver = Driver(agents={"planner": "signal"}, gates={"spec": "auto"}, agent_attempts=1)
    printed = Result(text="Traceback:\n  …\nValueError: the spec lists nothing\n", run=RunResult(exit_code=1))
    driver.do(AgentFailed(agent_id="planner-1", error="exit code 1", result=printed), by=SCHEDULER)
    assert driver.state.agents["planner-1"].error == "exit code 1: ValueError: the spec lists nothing"
    assert "ValueError" in driver.state.messages["m-1"].content
