"""What a task wants done next: a pure function of its state.

An action stands here for as long as the state wants it, under the same key, so whoever carries it out may ask at any
time and starts only what is not in flight. What it leads to comes back as a command, which changes the state.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import Discriminator, JsonValue

from domain.entity import Value
from domain.gpu.request import Argument
from domain.task.commands import (
    ApprovePlan,
    ApproveReview,
    ApproveSpec,
    ApproveTransition,
    Escalate,
    ReleaseServer,
    RequestTransition,
    StartAgent,
    StartWorkstream,
    TaskCommand,
)
from domain.task.inbox import notification, to_notify
from domain.task.models import (
    AgentStatus,
    AgentType,
    CommandExecutor,
    GateMode,
    ModelServerDraft,
    Phase,
    Priority,
    ServerStatus,
    TaskState,
    Workstream,
    WorkstreamStatus,
)
from domain.task.readiness import (
    agent_basis,
    agent_expected,
    agent_wanted,
    drafts,
    free_slots,
    missing_dependencies,
    server_due_for_release,
    server_needed,
    server_of,
    server_ready,
    stopping_run,
    task_blocked,
    workstreams_asking,
)
from domain.task.runs import RunSubject, wanted_runs
from domain.task.size import room_to_start
from domain.task.waits import (
    GATE_AGENT,
    Gate,
    actions_open,
    all_settled,
    failures_undecided,
    gate_mode,
    gate_object,
    waiting_gate,
)


class Command(Value):
    """A command of the scheduler's own, to be applied at once with ``by`` = ``SCHEDULER``."""

    type: Literal["command"] = "command"
    key: str
    command_id: str
    command: TaskCommand


class AttachServer(Value):
    """Have the server's GPU pod count the task as a holder; it starts the server if need be.

    Leads to ``server_attached`` or ``server_attach_failed``.
    """

    type: Literal["attach_server"] = "attach_server"
    key: str
    task_id: str
    server: ModelServerDraft


class DetachServer(Value):
    """Have the server's GPU pod no longer count the task as a holder. Leads to ``server_released``."""

    type: Literal["detach_server"] = "detach_server"
    key: str
    task_id: str
    name: str
    pod: str


class RunCommand(Value):
    """Run a program on its pod, or find the run of that id again.

    Leads to a report on the subject: ``complete_workstream``, ``fail_workstream`` or ``workstream_interrupted`` with
    the same attempt; ``agent_done``, ``agent_failed`` or ``agent_interrupted``; ``action_ended``.
    """

    type: Literal["run_command"] = "run_command"
    key: str
    task_id: str
    subject: RunSubject
    run_id: str
    pod: str
    executor: CommandExecutor
    #: Launch id of the model server whose address and key the program gets.
    server_launch: str | None
    #: What the program makes for the task, beside its output; None: nothing is taken.
    makes: Literal["text", "plan"] | None = None


class StopRun(Value):
    """Have a run's processes ended, verified. Leads to ``run_stopped``."""

    type: Literal["stop_run"] = "stop_run"
    key: str
    run_id: str
    pod: str


class Notify(Value):
    """Call the user's notify hook for something that waits for a person. Not repeated. Leads to ``notified``."""

    type: Literal["notify"] = "notify"
    key: str
    argv: tuple[Argument, ...]
    item_id: str
    escalated: bool
    #: What the hook is told.
    notification: dict[str, JsonValue]


class WakeAt(Value):
    """Ask again at this time: something is due then."""

    type: Literal["wake_at"] = "wake_at"
    key: str
    at: datetime
    #: What is due then, in words.
    reason: str


Action = Annotated[
    Command | AttachServer | DetachServer | RunCommand | StopRun | Notify | WakeAt, Discriminator("type")
]


def next_actions(state: TaskState, now: datetime) -> tuple[Action, ...]:
    """Return everything the task wants done at ``now``; the same state and time give the same actions."""
    actions: list[Action] = []
    times: list[datetime] = []
    actions.extend(_endings(state))
    if not state.final:
        actions.extend(_servers_and_runs(state))
        actions.extend(_notifications(state))
        decisions = [*_phase_step(state), *_starts(state, now, times), *_escalations(state, now, times)]
        # A decision stands for one situation: made once, it is not made again, whatever became of it.
        actions.extend(decision for decision in decisions if decision.command_id not in state.ledger)
        if times:
            actions.append(_wake(state, min(times)))
    return tuple(actions)


def is_settled(state: TaskState) -> bool:
    """Return whether the task is final and everything it ran and held has been handed over."""
    return (
        state.final
        and not state.stopping_runs
        and all(server.status is ServerStatus.RELEASED for server in state.servers.values())
    )


def _endings(state: TaskState) -> Iterator[Action]:
    for run_id, pod in state.stopping_runs.items():
        yield StopRun(key=f"stop-run/{run_id}", run_id=run_id, pod=pod)
    for server in state.servers.values():
        if server_due_for_release(state, server):
            # Written down before it is done: the pod may have let go of it long before the task hears of that.
            yield _command(f"release/{server.name}/{state.sequence}", ReleaseServer(name=server.name))
        if server.status is ServerStatus.RELEASING:
            yield DetachServer(key=f"detach/{server.name}", task_id=state.task_id, name=server.name, pod=server.pod)


def _servers_and_runs(state: TaskState) -> Iterator[Action]:
    for server in state.servers.values():
        if server.status is ServerStatus.WANTED and server_needed(state, server):
            yield AttachServer(key=f"attach/{server.name}", task_id=state.task_id, server=server.spec)
    for wanted in wanted_runs(state):
        yield RunCommand(
            key=f"run/{wanted.run.run_id}",
            task_id=state.task_id,
            subject=wanted.subject,
            run_id=wanted.run.run_id,
            pod=wanted.run.pod,
            executor=wanted.executor,
            server_launch=wanted.run.server_launch,
            makes=wanted.makes,
        )


def _phase_step(state: TaskState) -> Iterator[Command]:
    """Yield the one decision that moves the task on, if nothing stands in the way."""
    if task_blocked(state):
        return
    pending = state.pending_transition
    if pending is not None:
        if pending.to is Phase.REVIEW and state.config.gates.execution is GateMode.AUTO:
            yield _command(f"approve-transition/{state.transitions_asked}", ApproveTransition())
        return
    gate = waiting_gate(state)
    if gate is not None:
        subject = gate_object(state, gate)
        if (
            gate_mode(state, gate) is GateMode.AUTO
            and state.hold is None
            and subject.rejection is None
            and not agent_expected(state, GATE_AGENT[gate])
        ):
            name = f"approve-{gate}/{subject.revision}/{state.phase_changes}"
            yield _command(name, _APPROVE[gate](revision=subject.revision, comment="automatic gate"))
    elif state.phase is Phase.SPEC_CLARIFICATION and state.spec.approval is not None:
        yield _transition(state, Phase.PLANNING, f"spec approved by {state.spec.approval.by}")
    elif state.phase is Phase.PLANNING and state.plan is not None and state.plan.approval is not None:
        yield _transition(state, Phase.WORKSTREAM_EXECUTION, f"plan approved by {state.plan.approval.by}")
    elif state.phase is Phase.REVIEW and state.review.approval is not None and not actions_open(state):
        yield _transition(state, Phase.COMPLETED, f"work accepted by {state.review.approval.by}")
    elif (
        state.phase is Phase.WORKSTREAM_EXECUTION
        and state.hold is None
        and all_settled(state)
        and not failures_undecided(state)
    ):
        yield _transition(state, Phase.REVIEW, "all workstreams are dealt with")


_APPROVE: dict[Gate, type[ApproveSpec | ApprovePlan | ApproveReview]] = {
    "spec": ApproveSpec,
    "plan": ApprovePlan,
    "review": ApproveReview,
}


def _starts(state: TaskState, now: datetime, times: list[datetime]) -> Iterator[Command]:
    """Yield the starts of agents and of ready workstreams that find a slot; note when cooldowns end."""
    if state.pending_transition is not None or task_blocked(state):
        return
    slots = free_slots(state)
    # With no slot free there is nothing to wake up for either: what frees one is a command.
    if slots <= 0:
        return
    starts = [*_agent_starts(state, now, times), *_workstream_starts(state, now, times, slots)]
    if starts and state.cooldown_until is not None and state.cooldown_until > now:
        times.append(state.cooldown_until)
    elif starts:
        yield from starts[: 1 if state.config.spawn_cooldown_seconds else slots]


def _agent_starts(state: TaskState, now: datetime, times: list[datetime]) -> Iterator[Command]:
    wanted = agent_wanted(state)
    if wanted is not None:
        yield _start_agent(wanted, agent_basis(state, wanted), 1)
    for agent in state.agents.values():
        if agent.status is not AgentStatus.PENDING_START:
            continue
        if agent.cooldown_until is not None and agent.cooldown_until > now:
            times.append(agent.cooldown_until)
        else:
            yield _start_agent(agent.agent_type, agent.basis, agent.attempt)


def _start_agent(agent_type: AgentType, basis: str, attempt: int) -> Command:
    return _command(f"start-agent/{basis}/{attempt}", StartAgent(agent_type=agent_type, basis=basis))


def _workstream_starts(state: TaskState, now: datetime, times: list[datetime], slots: int) -> Iterator[Command]:
    if state.phase is not Phase.WORKSTREAM_EXECUTION or not room_to_start(state):
        return
    asking = workstreams_asking(state)
    ready: list[Workstream] = []
    for name, draft in drafts(state).items():
        ws = state.workstreams[name]
        if ws.status is not WorkstreamStatus.PENDING or name in asking or missing_dependencies(state, draft):
            continue
        if ws.cooldown_until is not None and ws.cooldown_until > now:
            times.append(ws.cooldown_until)
            continue
        if stopping_run(state, name) is not None:
            continue
        server = server_of(state, draft)
        if server is None or server_ready(state, server):
            ready.append(ws)
    # Stable: plan order decides among equals.
    ready.sort(key=lambda ws: _RANK[ws.priority])
    for ws in ready[:slots]:
        yield _command(f"start/{ws.ws_id}/{ws.attempt + 1}", StartWorkstream(ws_id=ws.ws_id))


_RANK = {Priority.HIGH: 0, Priority.NORMAL: 1, Priority.LOW: 2}


def _escalations(state: TaskState, now: datetime, times: list[datetime]) -> Iterator[Command]:
    after = state.config.escalate_after_seconds
    if after is None:
        return
    for item in state.inbox.values():
        if item.waits and item.escalated_at is None:
            due = item.created_at + timedelta(seconds=after)
            if due <= now:
                yield _command(
                    f"escalate/{item.item_id}/{int(item.created_at.timestamp())}", Escalate(item_id=item.item_id)
                )
            else:
                times.append(due)


#: Calls of the notify hook at a time, per task: a person reads no faster.
NOTIFY_AT_ONCE = 5


def _notifications(state: TaskState) -> Iterator[Notify]:
    if not state.config.notify:
        return
    # The oldest first, so that what comes up meanwhile never takes a running one's place.
    waiting = sorted(filter(to_notify, state.inbox.values()), key=lambda item: item.created_at)
    for item in waiting[:NOTIFY_AT_ONCE]:
        call = "first" if item.notified_at is None else "escalated"
        yield Notify(
            key=f"notify/{item.item_id}/{item.created_at.isoformat()}/{call}",
            argv=state.config.notify,
            item_id=item.item_id,
            escalated=item.escalated_at is not None,
            notification=notification(state, item),
        )


def _transition(state: TaskState, to: Phase, reason: str) -> Command:
    return _command(f"transition/{to.value}/{state.transitions_asked}", RequestTransition(to=to, reason=reason))


def _command(name: str, command: TaskCommand) -> Command:
    return Command(key=name, command_id=f"podctl/{name}", command=command)


def _wake(state: TaskState, at: datetime) -> WakeAt:
    return WakeAt(key=f"wake/{at.isoformat()}", at=at, reason=next(_due(state, at), "the next decision"))


def _due(state: TaskState, at: datetime) -> Iterator[str]:
    """Yield, in words, what is due then."""
    yield from (f"{ws.ws_id} is tried again" for ws in state.workstreams.values() if ws.cooldown_until == at)
    yield from (f"{a.agent_type.replace('_', ' ')} starts" for a in state.agents.values() if a.cooldown_until == at)
    if state.cooldown_until == at:
        yield "the next start"
    after = timedelta(seconds=state.config.escalate_after_seconds or 0)
    yield from (f"{item.item_id} is escalated" for item in state.inbox.values() if item.created_at + after == at)
