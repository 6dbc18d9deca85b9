"""What holds for every task, whatever is asked of it, in whatever order, however wrong."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from domain.entity import Event
from domain.errors import Rejected
from domain.task.agent_records import ENDED_KEPT
from domain.task.commands import (
    ActionEnded,
    AgentDone,
    AgentFailed,
    AgentInterrupted,
    Approve,
    ApprovePlan,
    ApproveReview,
    ApproveSpec,
    ApproveTransition,
    CancelTask,
    ChangeConfig,
    CommentItem,
    CommentOn,
    CompleteWorkstream,
    CreateTracker,
    CreateWorkstream,
    Envelope,
    Evaluate,
    FailWorkstream,
    GeneratePlan,
    GenerateSpec,
    GiveApproval,
    GrantAction,
    InterruptAction,
    InterruptAgent,
    InterruptWorkstream,
    MarkRead,
    MergePullRequest,
    MessageAgent,
    Notified,
    OpenDraftPullRequest,
    PostMessage,
    ReassignExecutor,
    RecordExternalState,
    RegisterAgent,
    Reject,
    RejectAction,
    RejectTransition,
    ReleaseServer,
    ReopenPlan,
    ReopenSpec,
    ReopenThread,
    ReplyToThread,
    RequestAction,
    RequestApproval,
    RequestMerge,
    RequestTransition,
    ResolveThread,
    RestartAgent,
    RetryWorkstream,
    RunStopped,
    ServerAttached,
    ServerAttachFailed,
    ServerChanged,
    ServerReleased,
    SetEta,
    SetItemStatus,
    SetPriority,
    SkipWorkstream,
    StartAgent,
    StartWorkstream,
    TaskCommand,
    UnregisterAgent,
    UpdatePlan,
    UpdateSpec,
    WorkstreamInterrupted,
)
from domain.task.details import summary_markdown
from domain.task.encoded_size import encoded_size
from domain.task.inbox import to_notify
from domain.task.lifecycle import GUARDS
from domain.task.models import (
    DOWN,
    LET_GO,
    SATISFIED,
    SCHEDULER,
    SETTLED,
    UNDER_WAY,
    AddItem,
    Agent,
    AgentStatus,
    AgentType,
    Anchor,
    CommandExecutor,
    Gates,
    GenerationStatus,
    Merge,
    Phase,
    PlanDraft,
    Priority,
    ProposedAction,
    RemoveItem,
    Result,
    RunAction,
    RunResult,
    ServerStatus,
    SignalExecutor,
    TaskAgents,
    TaskConfig,
    TaskInput,
    TaskState,
    TrackerItem,
    TrackerPhase,
    UpdateItem,
    WorkstreamDraft,
    WorkstreamStatus,
)
from domain.task.readiness import AGENT_PHASE, active_agent, workstreams_asking
from domain.task.rules import apply, create_task
from domain.task.runs import WorkstreamRun
from domain.task.schedule import (
    NOTIFY_AT_ONCE,
    Action,
    AttachServer,
    Command,
    DetachServer,
    Notify,
    RunCommand,
    StopRun,
    WakeAt,
    is_settled,
    next_actions,
)
from domain.task.serving import REPORTED
from domain.task.summary import listed_items, memo, search_values
from domain.task.threads import document_revision, document_text
from domain.task.tracker import find_item, owner_of
from domain.task.waits import open_matters, waits_for
from tests.unit.task.support import START, check_decision, check_events, check_refusal

IDS = ["a", "b", "c", "d", "e"]
SERVERS = ["s1", "s2"]
some_id = st.sampled_from([*IDS, "nowhere"])
attempt = st.sampled_from([None, None, 1, 2])
revision = st.sampled_from([None, None, 1, 2, 3])
text = st.sampled_from(["", "some words", "ünïcode | *stars* \n# line", "x" * 300])
message_id = st.sampled_from([f"m-{number}" for number in range(1, 8)])
thread_id = st.sampled_from(["t-1", "t-2", "t-3"])
documents = st.sampled_from(["spec", "plan", "report"])
anchors = st.none() | st.builds(
    Anchor,
    selected_text=st.sampled_from(["", "", "words", "build it", "executor: signal"]),
    line_start=st.integers(1, 9),
    line_end=st.integers(1, 9),
)
result = st.builds(
    Result, text=text, run=st.sampled_from([None, RunResult(exit_code=0), RunResult(exit_code=1, signal=9)])
)
item_id = st.sampled_from(["i1", "i2", "i3"])
action_id = st.sampled_from([f"action-{number}" for number in range(1, 6)])
BOARD = (
    TrackerPhase(phase_id="p1", name="P1", items=(TrackerItem(item_id="i1", summary="one"),)),
    TrackerPhase(phase_id="p2", name="P2"),
)
proposed_actions: st.SearchStrategy[ProposedAction] = st.one_of(
    st.builds(
        AddItem,
        phase_id=st.sampled_from(["p1", "p2"]),
        item=st.builds(TrackerItem, item_id=item_id, summary=st.just("s"), workstream_id=st.none() | some_id),
    ),
    st.builds(UpdateItem, item_id=item_id, summary=st.none() | st.just("other"), phase_id=st.none() | st.just("p2")),
    st.builds(RemoveItem, item_id=item_id),
    st.builds(
        RunAction,
        executor=st.builds(
            CommandExecutor,
            argv=st.just(("make", "it")),
            pod=st.sampled_from([None, "gpu1"]),
            server=st.sampled_from([None, *SERVERS]),
        ),
    ),
    st.builds(Merge),
)


@st.composite
def workstream_drafts(draw: st.DrawFn, name: str, dependencies: Sequence[str]) -> WorkstreamDraft:
    executor: dict[str, Any] = {"type": "signal"}
    if draw(st.booleans()):
        executor = {"type": "command", "argv": ["make", name]}
        server = draw(st.sampled_from([None, *SERVERS]))
        executor |= {"pod": "gpu1"} if server is None else {"server": server}
    depends_on = draw(st.lists(st.sampled_from(dependencies), unique=True)) if dependencies else []
    return WorkstreamDraft.model_validate(
        {
            "id": name,
            "title": name.upper(),
            "description": draw(st.sampled_from(["", "other words"])),
            "depends_on": depends_on,
            "executor": executor,
            "priority": draw(st.sampled_from(Priority)),
        }
    )


@st.composite
def plans(draw: st.DrawFn) -> PlanDraft:
    """Return a plan that can be used: what cannot is refused, and tested by example."""
    names = draw(st.lists(st.sampled_from(IDS), unique=True, min_size=1))
    drafts = [draw(workstream_drafts(name, names[:position])) for position, name in enumerate(names)]
    model = draw(st.sampled_from(["org/model", "org/other"]))
    servers = [{"name": name, "model": model, "pod": "gpu1"} for name in SERVERS]
    return PlanDraft.model_validate({"workstreams": drafts, "model_servers": servers})


gates = st.builds(
    lambda *modes: Gates.model_validate(dict(zip(("spec", "plan", "execution", "review"), modes, strict=True))),
    *[st.sampled_from(["human", "auto"])] * 4,
)
executors = st.sampled_from(
    [None, None, SignalExecutor(), CommandExecutor(argv=("write",), pod="gpu1"), CommandExecutor(argv=("w",), pod="g")]
)
configs = st.builds(
    TaskConfig,
    agents=st.builds(TaskAgents, spec_writer=executors, planner=executors, reviewer=executors),
    agent_attempts=st.integers(1, 3),
    spawn_cooldown_seconds=st.sampled_from([0, 0, 10]),
    gates=gates,
    max_concurrent=st.integers(1, 4),
    failure_cooldown_seconds=st.sampled_from([(), (5.0,), (5.0, 30.0)]),
    escalate_after_seconds=st.sampled_from([None, 60.0]),
    notify=st.sampled_from([(), ("tell", "ann")]),
)
commands: st.SearchStrategy[TaskCommand] = st.one_of(
    st.builds(UpdateSpec, content=text, base_revision=revision),
    st.builds(ApproveSpec, revision=revision),
    st.builds(ApproveSpec),
    st.builds(UpdatePlan, plan=plans(), base_revision=revision),
    st.builds(ApprovePlan, revision=revision),
    st.builds(ApprovePlan),
    st.builds(ApproveReview, revision=revision),
    st.builds(Approve, choice=st.sampled_from([None, "approve", "retry", "skip", "fix"])),
    st.builds(Approve),
    st.builds(Reject, gate=st.sampled_from([None, "spec", "plan", "review"]), comment=text),
    st.builds(RequestTransition, to=st.sampled_from(Phase)),
    st.builds(ApproveTransition),
    st.builds(RejectTransition),
    st.builds(ChangeConfig, config=configs),
    st.builds(Evaluate),
    st.builds(CreateWorkstream, workstream=st.sampled_from(IDS).flatmap(lambda n: workstream_drafts(n, IDS[:2]))),
    st.builds(StartWorkstream, ws_id=some_id),
    st.builds(CompleteWorkstream, ws_id=some_id, attempt=attempt, result=result),
    st.builds(CompleteWorkstream, ws_id=some_id),
    st.builds(FailWorkstream, ws_id=some_id, attempt=attempt, error=text, recoverable=st.booleans(), result=result),
    st.builds(WorkstreamInterrupted, ws_id=some_id, attempt=st.integers(1, 2), reason=text),
    st.builds(InterruptWorkstream, ws_id=some_id),
    st.builds(RetryWorkstream, ws_id=some_id),
    st.builds(SkipWorkstream, ws_id=some_id, with_dependents=st.booleans()),
    st.builds(SetPriority, ws_id=some_id, priority=st.sampled_from(Priority)),
    st.builds(RunStopped, run_id=st.sampled_from([f"t1/{name}/1" for name in IDS])),
    st.builds(
        PostMessage,
        content=text,
        message_type=st.sampled_from(["question", "update", "blocker", "review_comment"]),
        workstream_id=st.none() | some_id,
        thread_id=st.none() | message_id,
    ),
    st.builds(RequestApproval, content=text, blocking=st.booleans(), workstream_id=st.none() | some_id),
    st.builds(GiveApproval, message_id=message_id, choice=st.sampled_from(["approve", "reject", "retry", "fix"])),
    st.builds(MarkRead, ids=st.tuples(message_id)),
    st.builds(CreateTracker, phases=st.just(BOARD)),
    st.builds(
        SetItemStatus,
        item_id=item_id,
        status=st.sampled_from(["todo", "wip", "done", "blocked"]),
        workstream_id=st.none() | some_id,
    ),
    st.builds(CommentItem, item_id=item_id, content=text),
    st.builds(SetEta, phase_id=st.sampled_from(["p1", "p3"]), eta=text.map(lambda words: words[:100])),
    st.builds(RequestAction, action=proposed_actions, reason=text),
    st.builds(GrantAction, action_id=action_id, comment=text),
    st.builds(RejectAction, action_id=action_id, comment=text),
    st.builds(InterruptAction, action_id=action_id),
    st.builds(ActionEnded, action_id=action_id, result=st.none() | result, error=text, interrupted=st.booleans()),
    st.builds(OpenDraftPullRequest, title=text, body=text, branch=text),
    st.builds(RequestMerge, reason=text),
    st.builds(MergePullRequest),
    st.builds(RecordExternalState, state=st.sampled_from(["draft", "open", "merged", "closed"]), detail=text),
    st.builds(CommentOn, document=documents, content=text, anchor=anchors, revision=revision),
    st.builds(ReplyToThread, thread_id=thread_id, content=text),
    st.builds(ResolveThread, thread_id=thread_id),
    st.builds(ReopenThread, thread_id=thread_id),
    st.builds(ServerAttached, name=st.sampled_from(SERVERS)),
    st.builds(ServerAttachFailed, name=st.sampled_from(SERVERS), code=st.just("unknown_pod"), message=text),
    st.builds(
        ServerChanged,
        name=st.sampled_from(SERVERS),
        pod=st.just("gpu1"),
        status=st.sampled_from([ServerStatus.READY, *sorted(REPORTED)]),
        launch_id=st.just("gpu1/s/1"),
        detail=text,
    ),
    st.builds(ReleaseServer, name=st.sampled_from(SERVERS)),
    st.builds(ServerReleased, name=st.sampled_from(SERVERS)),
)
AGENTS = ["bot", "spec-writer-1", "planner-1", "planner-2", "reviewer-2", "reviewer-3"]
agent_id = st.sampled_from(AGENTS)
agent_commands: st.SearchStrategy[TaskCommand] = st.one_of(
    st.builds(GenerateSpec, instructions=text),
    st.builds(GeneratePlan, instructions=text),
    st.builds(ReopenSpec, reason=text),
    st.builds(ReopenPlan, reason=text),
    st.builds(
        ReassignExecutor,
        ws_id=some_id,
        executor=st.sampled_from([SignalExecutor(), CommandExecutor(argv=("make",), pod="gpu1")]),
    ),
    st.builds(
        RegisterAgent,
        agent_id=st.just("bot"),
        agent_type=st.sampled_from(AgentType),
        workstream_id=st.none() | some_id,
    ),
    st.builds(UnregisterAgent, agent_id=agent_id),
    st.builds(StartAgent, agent_type=st.sampled_from(AgentType), basis=st.sampled_from(["spec/0", "plan/1/0"])),
    st.builds(InterruptAgent, agent_id=agent_id, reason=text),
    st.builds(RestartAgent, agent_id=agent_id, instructions=text),
    st.builds(MessageAgent, agent_id=agent_id, content=text),
    st.builds(AgentDone, agent_id=agent_id, text=text, plan=st.none() | plans(), result=result),
    st.builds(AgentFailed, agent_id=agent_id, error=text, recoverable=st.booleans()),
    st.builds(AgentInterrupted, agent_id=agent_id, reason=text),
    st.builds(
        RequestApproval, content=text, blocking=st.booleans(), agent_id=agent_id, workstream_id=st.none() | some_id
    ),
)
UNDER_WAY_ON_A_POD = REPORTED - DOWN - {ServerStatus.READY} | {ServerStatus.ATTACHED}
#: A number stands for one of the commands that fit the state: blind ones rarely get far.
Step = tuple[TaskCommand | int, float]


@st.composite
def one_step(draw: st.DrawFn) -> Step:
    kind = draw(st.integers(0, 99))
    seconds = draw(st.sampled_from([0.0, 0.0, 0.0, 1.0, 40.0]))
    if kind < 70:
        return draw(st.integers(0, 1_000)), seconds
    # Cancelling ends everything, so it comes rarely.
    return CancelTask(reason="enough") if kind == 99 else draw(commands | agent_commands), seconds


steps: st.SearchStrategy[list[Step]] = st.lists(one_step(), min_size=15, max_size=80)
tasks = st.builds(
    TaskInput,
    task_id=st.just("t1"),
    title=st.just("A | task"),
    by=st.just("ann"),
    command_id=st.just("create"),
    spec=st.sampled_from([None, "build it", "build it", "build it"]),
    plan=st.integers(0, 4).flatmap(lambda number: plans() if number else st.none()),
    config=configs,
)
thorough = settings(max_examples=80)


def fitting_commands(state: TaskState) -> Iterator[TaskCommand]:
    """Yield commands that people, machines and GPU pods would send now."""
    for item in filter(to_notify, state.inbox.values()):
        yield Notified(item_id=item.item_id, escalated=item.escalated_at is not None, error=item.preview[:3])
        break
    yield Approve()
    for message in state.open_approvals():
        assert message.approval is not None
        choices = [option for option in message.approval.options if option != "cancel"]
        yield from (GiveApproval(message_id=message.message_id, choice=choice) for choice in choices)
    yield from fitting_server_reports(state)
    yield from fitting_agent_reports(state)
    yield from fitting_of_actions(state)
    for ws in state.workstreams.values():
        if ws.status in UNDER_WAY:
            reported = None if ws.run is None else ws.attempt
            ended = Result(run=RunResult(exit_code=0))
            yield from [CompleteWorkstream(ws_id=ws.ws_id, attempt=reported, result=ended)] * 4
            yield FailWorkstream(ws_id=ws.ws_id, attempt=reported, error="it broke", recoverable=True)
            yield FailWorkstream(ws_id=ws.ws_id, attempt=reported, error="it broke", result=ended)
            yield RequestApproval(content="which?", blocking=True, workstream_id=ws.ws_id)
            yield InterruptWorkstream(ws_id=ws.ws_id)
        elif ws.status in SETTLED:
            yield RetryWorkstream(ws_id=ws.ws_id)
        else:
            yield SkipWorkstream(ws_id=ws.ws_id)
    yield from (RequestTransition(to=to, reason="a reason") for source, to in GUARDS if source is state.phase)


def fitting_of_actions(state: TaskState) -> Iterator[TaskCommand]:
    """Yield what is said of tracker, actions and the pull request now."""
    if state.tracker is None:
        yield CreateTracker(phases=BOARD)
    else:
        yield from (
            SetItemStatus(item_id=i.item_id, status="wip", workstream_id=i.workstream_id) for i in state.tracker.items()
        )
        yield RequestAction(action=RemoveItem(item_id="i1"))
    yield RequestAction(action=RunAction(executor=CommandExecutor(argv=("make", "it"), pod="gpu1")))
    for action in state.actions.values():
        if action.status == "granted" and action.run is not None:
            yield ActionEnded(action_id=action.action_id, result=Result(run=RunResult(exit_code=0)))
            yield ActionEnded(action_id=action.action_id, interrupted=True)
    if state.external_sync.state in ("none", "closed"):
        yield OpenDraftPullRequest(title="it")
    elif state.external_sync.state in ("draft", "open"):
        yield RequestMerge()
    elif state.external_sync.state == "merge_requested":
        yield MergePullRequest()
    else:
        yield from (RecordExternalState(state=told) for told in ("draft", "merged", "closed"))


def fitting_agent_reports(state: TaskState) -> Iterator[TaskCommand]:
    """Yield what agents would report and be told now."""
    ended = Result(run=RunResult(exit_code=0))
    workstream = {"id": "a", "title": "A", "executor": {"type": "signal"}}
    made = PlanDraft.model_validate({"workstreams": [workstream]})
    for agent in state.agents.values():
        if agent.active:
            yield AgentDone(agent_id=agent.agent_id, text="# It", plan=made, result=ended)
            yield AgentDone(agent_id=agent.agent_id, result=ended)
            yield AgentFailed(agent_id=agent.agent_id, error="it broke", result=ended)
            yield AgentInterrupted(agent_id=agent.agent_id, reason="rebooted")
            yield InterruptAgent(agent_id=agent.agent_id)
            yield RequestApproval(content="which?", blocking=True, agent_id=agent.agent_id)
            for name in state.workstreams:
                yield RequestApproval(content="which?", blocking=True, agent_id=agent.agent_id, workstream_id=name)
            yield MessageAgent(agent_id=agent.agent_id, content="that one")
        else:
            yield RestartAgent(agent_id=agent.agent_id)
            yield UnregisterAgent(agent_id=agent.agent_id)
    under_way = [ws.ws_id for ws in state.workstreams.values() if ws.status in UNDER_WAY and ws.agent_id is None]
    if under_way:
        yield RegisterAgent(agent_id="bot", agent_type=AgentType.WORKSTREAM, workstream_id=under_way[0])


def fitting_server_reports(state: TaskState) -> Iterator[TaskCommand]:
    """Yield what pods would report now."""
    for server in state.servers.values():
        if server.status not in (*LET_GO, ServerStatus.READY):
            ready = ServerChanged(name=server.name, pod="gpu1", status=ServerStatus.READY, launch_id="gpu1/s/1")
            yield from [ready] * 3
        if server.status is not ServerStatus.RELEASED:
            yield ServerChanged(name=server.name, pod="gpu1", status=ServerStatus.FAILED)
    for action in next_actions(state, state.updated_at):
        if isinstance(action, StopRun):
            yield RunStopped(run_id=action.run_id)
        if isinstance(action, DetachServer):
            yield ServerReleased(name=action.name)
        if isinstance(action, AttachServer):
            yield ServerAttached(name=action.server.name)


def play(task: TaskInput, sequence: Sequence[Step]) -> Iterator[tuple[TaskState, TaskState, Any]]:
    """Yield (state before, state after, events or None) for every command, the scheduler's own included."""
    now = START
    state, events = create_task(task, now)
    yield state, state, events
    for number, (step, seconds) in enumerate([(Evaluate(), 0.0), *sequence]):
        now += timedelta(seconds=seconds)
        command = step
        if isinstance(command, int):
            fitting = list(fitting_commands(state))
            command = fitting[command % len(fitting)]
        before = state
        try:
            by = SCHEDULER if isinstance(command, AgentDone) and command.result.run is not None else "ann"
            state, events = apply(state, Envelope(command_id=f"c{number}", by=by, command=command), now)
        except Rejected as rejected:
            check_refusal(command, rejected.code)
            yield before, state, None
        else:
            yield before, state, events
        for _ in range(40):
            decision = next((a for a in next_actions(state, now) if isinstance(a, Command)), None)
            if decision is None:
                break
            check_decision(decision)
            before = state
            envelope = Envelope(command_id=decision.command_id, by="podctl", command=decision.command)
            state, events = apply(state, envelope, now)
            yield before, state, events
        else:
            raise AssertionError(f"the scheduler does not come to an end: {next_actions(state, now)}")


@thorough
@given(task=tasks, sequence=steps)
def test_any_sequence_of_commands_keeps_the_invariants(task: TaskInput, sequence: list[Step]) -> None:
    sequence_number = 0
    runs: set[str] = set()
    for before, after, events in play(task, sequence):
        if events is None:
            assert after is before
            continue
        check_events(events)
        for event in events:
            sequence_number += 1
            assert event.sequence == sequence_number
            check_event(event, before, runs)
        assert after.sequence == sequence_number
        assert encoded_size(after) == len(after.model_dump_json().encode())
        check_state(after)
        for name, server in before.servers.items():
            if server.status is ServerStatus.RELEASING and name in after.servers:
                assert after.servers[name].status in (*LET_GO, ServerStatus.WANTED)


def check_event(event: Event, before: TaskState, runs: set[str]) -> None:
    """Check that what an event tells of was allowed when it happened."""
    if event.type == "phase_changed":
        move = (Phase(str(event.payload["from"])), Phase(str(event.payload["to"])))
        assert move in GUARDS or move[1] is Phase.CANCELLED
    if event.type == "workstream_started":
        name = str(event.payload["workstream"])
        assert before.plan is not None
        depends_on = before.plan.workstreams[name].depends_on
        assert all(before.workstreams[dependency].status in SATISFIED for dependency in depends_on)
    if event.type == "tracker_item_status_changed":
        owner = owner_of(before, find_item(before, str(event.payload["item"])))
        agent = before.workstreams[owner].agent_id if owner in before.workstreams else None
        assert owner in (None, event.payload["workstream"]) or event.by == agent
    if event.type in ("tracker_item_added", "tracker_item_updated", "tracker_item_removed"):
        assert any(action.status == "requested" for action in before.actions.values()), "only by a grant"
    if event.type in ("workstream_started", "agent_started", "action_approval_granted"):
        run_id = event.payload["run_id"]
        if run_id is not None:
            assert run_id not in runs
            runs.add(str(run_id))
    if event.type == "agent_started":
        begun = f"{event.payload['basis']} {event.payload['attempt']}"
        assert begun not in runs, "none runs twice for the same input"
        runs.add(begun)


def check_state(state: TaskState) -> None:
    """Check what holds in every state."""
    planned = {} if state.plan is None else state.plan.workstreams
    assert state.workstreams.keys() <= planned.keys()
    if state.phase in (Phase.WORKSTREAM_EXECUTION, Phase.REVIEW, Phase.COMPLETED):
        assert list(state.workstreams) == list(planned)
        assert state.plan is not None
        assert state.plan.approval is not None
        check_blocking(state)
    if state.phase in (Phase.REVIEW, Phase.COMPLETED):
        assert all(ws.status in SETTLED for ws in state.workstreams.values())
    for ws in state.workstreams.values():
        if ws.run is not None:
            assert ws.status in UNDER_WAY
            assert state.phase is Phase.WORKSTREAM_EXECUTION
            assert isinstance(planned[ws.ws_id].executor, CommandExecutor)
            assert ws.run.run_id == f"t1/{ws.ws_id}/{ws.attempt}"
            assert not any(run_id.startswith(f"t1/{ws.ws_id}/") for run_id in state.stopping_runs)
        assert not ws.by_hand or ws.status is WorkstreamStatus.AWAITING_INPUT
        assert (ws.status is WorkstreamStatus.BLOCKED) == bool(ws.blocking_on)
        if ws.status is WorkstreamStatus.AWAITING_INPUT and not ws.by_hand:
            assert ws.ws_id in workstreams_asking(state), "what waits for input was asked of somebody"
    check_actions(state)
    detached = {action.name for action in next_actions(state, state.updated_at) if isinstance(action, DetachServer)}
    assert detached == {server.name for server in state.servers.values() if server.status is ServerStatus.RELEASING}
    if state.spec.approval is not None:
        assert state.spec.content.strip()
        assert (state.spec.approval.revision, state.spec.approval.digest) == (state.spec.revision, state.spec.digest)
    assert (state.pending_transition is not None) == any(
        m.approval is not None and m.approval.subject == "transition" for m in state.open_approvals()
    )
    check_agents(state)
    waiting = {item.item_id for item in state.inbox.values() if item.waits}
    assert waiting == {matter.key for matter in open_matters(state)}
    calls = [action for action in next_actions(state, state.updated_at) if isinstance(action, Notify)]
    assert len(calls) <= NOTIFY_AT_ONCE
    assert len({call.key for call in calls}) == len(calls)
    assert all(state.config.notify and to_notify(state.inbox[call.item_id]) for call in calls)
    assert {item.recipient for item in listed_items(state)} == {item.recipient for item in state.inbox.values()}
    if state.final:
        assert not waiting
        assert not list(state.open_approvals())
    check_threads(state)


def check_threads(state: TaskState) -> None:
    """Check that each comment is on its text, where that is in the document, and told as outdated where it is not."""
    for thread in state.review_threads.values():
        assert thread.resolved == (thread.resolved_at is not None)
        assert thread.revision <= document_revision(state, thread.document)
        if thread.anchor is None:
            assert not thread.outdated
            continue
        lines = document_text(state, thread.document).split("\n")
        there = "\n".join(lines[thread.anchor.line_start - 1 : thread.anchor.line_end])
        assert thread.outdated or thread.anchor.selected_text in there


def check_actions(state: TaskState) -> None:
    """Check that what is proposed is asked, what is granted runs or is done outside, and each item stands once."""
    asked = {m.approval.action_id for m in state.open_approvals() if m.approval and m.approval.subject == "action"}
    assert asked == {action.action_id for action in state.actions.values() if action.status == "requested"}
    for action in state.actions.values():
        if isinstance(action.action, RunAction):
            assert (action.run is None) == (action.status in ("requested", "rejected"))
            assert action.run is None or action.run.run_id == f"t1/_{action.action_id}/1"
        elif isinstance(action.action, Merge):
            assert action.run is None
        else:
            assert action.status in ("requested", "rejected", "done")
    if state.final:
        assert not any(action.open for action in state.actions.values())
    merge = next(
        (action for action in state.actions.values() if action.open and isinstance(action.action, Merge)), None
    )
    assert (merge is not None) == (state.external_sync.state in ("merge_requested", "merging"))
    assert state.external_sync.state != "merging" or (merge is not None and merge.status == "granted")
    if state.tracker is not None:
        items = [item.item_id for item in state.tracker.items()]
        assert len(items) == len(set(items))


def check_agents(state: TaskState) -> None:
    """Check that who is at work is at work on what the task needs, and once."""
    at_work = [agent for agent in state.agents.values() if agent.active]
    assert len(state.agents) - len(at_work) <= ENDED_KEPT
    assert not (state.final and at_work)
    kinds = [agent.agent_type for agent in at_work if agent.workstream_id is None]
    assert len(kinds) == len(set(kinds))
    planner = active_agent(state, AgentType.PLANNER)
    if planner is not None and state.plan is not None:
        assert state.plan.revision == int(planner.basis.split("/")[2]), "what others change ends who plans meanwhile"
    for agent in state.agents.values():
        if agent.run is not None:
            assert agent.status in (AgentStatus.RUNNING, AgentStatus.AWAITING_INPUT)
            assert agent.run.run_id == f"t1/_{agent.agent_id}/{agent.attempt}"
            assert agent.run.run_id not in state.stopping_runs
        if not agent.active:
            continue
        if agent.workstream_id is None:
            assert AGENT_PHASE[agent.agent_type] is state.phase
        else:
            workstream = state.workstreams[agent.workstream_id]
            assert workstream.agent_id == agent.agent_id
            assert workstream.status in UNDER_WAY
    asking = {m.approval.agent_id for m in state.open_approvals() if m.approval is not None and m.approval.blocking}
    assert all(agent.agent_id in asking for agent in at_work if agent.status is AgentStatus.AWAITING_INPUT)
    for message in state.open_approvals():
        asked_by = None if message.approval is None else message.approval.agent_id
        assert asked_by is None or asked_by in state.agents
    writes = [a for a in at_work if a.agent_type is AgentType.SPEC_WRITER and a.status is not AgentStatus.PENDING_START]
    assert (state.spec.generation_status is GenerationStatus.GENERATING) == bool(writes)


def check_blocking(state: TaskState) -> None:
    """Check that a workstream is blocked exactly when a failure stands in its way."""
    assert state.plan is not None
    in_the_way = {ws.ws_id for ws in state.workstreams.values() if ws.status is WorkstreamStatus.FAILED or ws.by_hand}
    waits = (WorkstreamStatus.PENDING, WorkstreamStatus.BLOCKED)
    # Any order of the plan will do: as often as there are workstreams is often enough.
    for _ in state.workstreams:
        for name, draft in state.plan.workstreams.items():
            if state.workstreams[name].status in waits and in_the_way & set(draft.depends_on):
                in_the_way.add(name)
    for name, ws in state.workstreams.items():
        if ws.status in waits:
            assert (ws.status is WorkstreamStatus.BLOCKED) == (name in in_the_way)


@thorough
@given(task=tasks, sequence=steps)
def test_the_same_commands_again_give_the_same_state_and_events(task: TaskInput, sequence: list[Step]) -> None:
    first = [(after.model_dump_json(), events) for _, after, events in play(task, sequence)]
    second = [(after.model_dump_json(), events) for _, after, events in play(task, sequence)]
    assert first == second


@thorough
@given(task=tasks, sequence=steps)
def test_a_state_and_its_actions_survive_json(task: TaskInput, sequence: list[Step]) -> None:
    states = [after for _, after, _ in play(task, sequence)]
    for state in states[-5:]:
        again = TaskState.model_validate_json(state.model_dump_json())
        assert again == state
        now = state.updated_at + timedelta(seconds=10)
        assert next_actions(again, now) == next_actions(state, now)
        assert summary_markdown(again) == summary_markdown(state)


@thorough
@given(task=tasks, sequence=steps)
def test_no_task_is_stuck_without_a_reason(task: TaskInput, sequence: list[Step]) -> None:
    for _, state, _ in play(task, sequence):
        if is_settled(state):
            assert not waits_for(state)
            assert not next_actions(state, state.updated_at)
            continue
        actions = next_actions(state, state.updated_at)
        if any(isinstance(action, Command) for action in actions):
            continue
        assert waits_for(state)
        assert memo(state)["waits_for"] or memo(state)["inbox"]
        assert search_values(state).phase == state.phase
        assert summary_markdown(state)
        somebody_acts = (
            any(isinstance(action, (AttachServer, DetachServer, RunCommand, StopRun, WakeAt)) for action in actions)
            or any(ws.status is WorkstreamStatus.IN_PROGRESS for ws in state.workstreams.values())
            or any(server.status in UNDER_WAY_ON_A_POD for server in state.servers.values())
        )
        assert somebody_acts or any(item.waits for item in state.inbox.values())


@thorough
@given(task=tasks, outcomes=st.lists(st.sampled_from(["complete", "fail", "recoverable", "interrupted"]), max_size=30))
def test_a_task_whose_questions_are_answered_ends(task: TaskInput, outcomes: list[str]) -> None:
    now = START
    state, _ = create_task(task, now)
    remaining = list(outcomes)
    count = 0

    def do(command: TaskCommand) -> None:
        nonlocal state, count
        count += 1
        state, _ = apply(state, Envelope(command_id=f"c{count}", by="ann", command=command), now)

    for _ in range(600):
        if is_settled(state):
            break
        actions = next_actions(state, now)
        action = actions[0] if actions else None
        if isinstance(action, Command):
            state, _ = apply(state, Envelope(command_id=action.command_id, by="podctl", command=action.command), now)
        elif (outcome := _outcome_of(action)) is not None:
            do(outcome)
        elif isinstance(action, RunCommand) and isinstance(action.subject, WorkstreamRun):
            subject = action.subject
            do(_report(subject.ws_id, subject.attempt, remaining.pop() if remaining else "complete"))
        elif agent := next((a for a in state.agents.values() if a.status is AgentStatus.RUNNING), None):
            do(_agent_report(agent, remaining.pop() if remaining else "complete"))
        elif matter := next(iter(open_matters(state)), None):
            do(_answer(state, matter.message_id, bool(remaining)))
        elif isinstance(action, WakeAt):
            now = action.at
        else:
            outside = next(ws for ws in state.workstreams.values() if ws.status is WorkstreamStatus.IN_PROGRESS)
            do(_report(outside.ws_id, None, remaining.pop() if remaining else "complete"))
    assert state.phase is Phase.COMPLETED, waits_for(state)


def _outcome_of(action: Action | None) -> TaskCommand | None:
    """Return what reports that an action other than a run was carried out."""
    match action:
        case AttachServer():
            return ServerChanged(name=action.server.name, pod="gpu1", status=ServerStatus.READY, launch_id="gpu1/s/1")
        case DetachServer():
            return ServerReleased(name=action.name)
        case StopRun():
            return RunStopped(run_id=action.run_id)
        case Notify():
            return Notified(item_id=action.item_id, escalated=action.escalated, error="no route")
    return None


def _report(ws_id: str, attempt: int | None, outcome: str) -> TaskCommand:
    if outcome == "complete":
        return CompleteWorkstream(ws_id=ws_id, attempt=attempt)
    if outcome == "interrupted" and attempt is not None:
        return WorkstreamInterrupted(ws_id=ws_id, attempt=attempt, reason="rebooted")
    return FailWorkstream(ws_id=ws_id, attempt=attempt, error="it broke", recoverable=outcome == "recoverable")


def _agent_report(agent: Agent, outcome: str) -> TaskCommand:
    if outcome == "complete":
        workstream = {"id": "a", "title": "A", "executor": {"type": "signal"}}
        made = PlanDraft.model_validate({"workstreams": [workstream]})
        return AgentDone(agent_id=agent.agent_id, text="build it", plan=made)
    if outcome == "interrupted":
        return AgentInterrupted(agent_id=agent.agent_id, reason="rebooted")
    return AgentFailed(agent_id=agent.agent_id, error="it broke", recoverable=outcome == "recoverable")


def _answer(state: TaskState, message: str | None, retry: bool) -> TaskCommand:
    if message is not None:
        approval = state.messages[message].approval
        assert approval is not None
        if approval.subject == "transition":
            return GiveApproval(message_id=message, choice="approve")
        if approval.subject == "agent_failed":
            return GiveApproval(message_id=message, choice="retry" if retry else "write by hand")
        return GiveApproval(message_id=message, choice="retry" if retry else "skip")
    if state.phase is Phase.SPEC_CLARIFICATION and not state.spec.content:
        return UpdateSpec(content="build it")
    if state.phase is Phase.PLANNING and state.plan is None:
        executor = {"type": "signal"}
        draft = {"workstreams": [{"id": "only", "title": "Only", "executor": executor}]}
        return UpdatePlan(plan=PlanDraft.model_validate(draft))
    return Approve()
