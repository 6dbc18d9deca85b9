"""What a task waits for, and the podctl command that moves it on."""

import shlex
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from domain.by_identity import once_for_each
from domain.task import messages
from domain.task.models import (
    LET_GO,
    SETTLED,
    AgentStatus,
    AgentType,
    GateMode,
    InboxKind,
    Merge,
    Message,
    Phase,
    Plan,
    Review,
    ServerStatus,
    Spec,
    TaskState,
    Workstream,
    WorkstreamStatus,
)
from domain.task.readiness import (
    agent_at_work,
    agent_executor,
    agent_expected,
    deadlocked,
    drafts,
    missing_dependencies,
    server_of,
    server_ready,
    stopping_run,
    task_blocked,
    workstreams_asking,
)
from domain.task.size import room_to_start

Gate = Literal["spec", "plan", "review"]
#: Who makes what is approved at a gate.
GATE_AGENT: Final[dict[Gate, AgentType]] = {
    "spec": AgentType.SPEC_WRITER,
    "plan": AgentType.PLANNER,
    "review": AgentType.REVIEWER,
}

PREVIEW_LIMIT = 160
#: Reasons of one kind that are written out; with hundreds of workstreams nobody reads more.
LISTED = 5


class Matter(NamedTuple):
    """Something that waits for a person. The same matter has the same key for as long as it lasts."""

    key: str
    kind: InboxKind
    text: str
    command: str
    message_id: str | None = None
    workstream_id: str | None = None


def waits_for(state: TaskState) -> list[str]:
    """Return, in words, what the task waits for and the command that moves it on; empty when it is settled."""
    matters = [f"{m.text}: {m.command}" if m.command else m.text for m in open_matters(state)]
    return [*matters, *waits_for_no_person(state)]


def notify_failures(state: TaskState) -> list[str]:
    """Return, in words, of what that waits nobody was told: why the notify hook failed."""
    failed = [item for item in state.inbox.values() if item.waits and item.notify_error]
    return [*_some([f"{item.recipient} was not told of {item.item_id}: {item.notify_error}" for item in failed])]


@once_for_each
def waits_for_no_person(state: TaskState) -> tuple[str, ...]:
    """Return, in words, what the task waits for that is nobody's decision: work, machines, what is being ended."""
    reasons = [*_agents(state)]
    if state.phase is Phase.WORKSTREAM_EXECUTION:
        reasons += _work(state)
    reasons += [
        f"{a.action_id} runs on pod {a.run.pod}: podctl action show {state.task_id} {a.action_id}"
        for a in state.actions.values()
        if a.status == "granted" and a.run is not None
    ]
    reasons += [
        f"model server {s.name} on pod {s.pod} is being released: podctl list --pod {s.pod}"
        for s in state.servers.values()
        if s.status is ServerStatus.RELEASING
    ]
    reasons += [f"run {run_id} on pod {pod} is being stopped" for run_id, pod in state.stopping_runs.items()]
    return tuple(reasons)


def waiting_gate(state: TaskState) -> Gate | None:
    """Return the gate whose approval is what the phase needs next, if there is something to approve."""
    if state.phase is Phase.SPEC_CLARIFICATION and state.spec.content.strip() and state.spec.approval is None:
        return "spec"
    if state.phase is Phase.PLANNING and state.plan and state.plan.workstreams and state.plan.approval is None:
        return "plan"
    if state.phase is Phase.REVIEW and state.review.approval is None:
        return "review"
    return None


def gate_object(state: TaskState, gate: Gate) -> Spec | Plan | Review:
    """Return what is approved at a gate."""
    if gate == "plan":
        if state.plan is None:
            raise LookupError("there is no plan yet")
        return state.plan
    return state.spec if gate == "spec" else state.review


def gate_mode(state: TaskState, gate: Gate) -> GateMode:
    """Return whether a gate waits for a person."""
    gates = state.config.gates
    return {"spec": gates.spec, "plan": gates.plan, "review": gates.review}[gate]


def all_settled(state: TaskState) -> bool:
    """Return whether the work is done, one way or the other."""
    return all(ws.status in SETTLED for ws in state.workstreams.values())


def failures_undecided(state: TaskState) -> bool:
    """Return whether a person has yet to say what becomes of a failed workstream."""
    return any(m.approval is not None and m.approval.subject == "workstream_failed" for m in state.open_approvals())


def actions_open(state: TaskState) -> bool:
    """Return whether an action is proposed, or granted and not over: accepted work is completed after it."""
    return any(action.open for action in state.actions.values())


def open_matters(state: TaskState) -> Iterator[Matter]:
    """Yield everything that waits for a person."""
    if state.final:
        return
    task = state.task_id
    yield from _gate_matters(state)
    yield from _sync_matters(state)
    if state.phase is Phase.WORKSTREAM_EXECUTION and all_settled(state) and state.hold and not state.pending_transition:
        yield Matter(
            f"hold/{state.phase_changes}",
            InboxKind.BLOCKER_RAISED,
            f"all workstreams are dealt with, but {state.hold.by} moved the task back ({state.hold.reason}): retry a "
            "workstream, or go on as it is",
            f"podctl task evaluate {task}",
        )
    yield from _agent_matters(state)
    yield from _room_matters(state)
    for message in state.messages.values():
        if messages.waits(message):
            yield _message_matter(state, message)
    if state.phase is Phase.WORKSTREAM_EXECUTION:
        for ws in state.workstreams.values():
            if ws.by_hand:
                yield Matter(
                    f"fix/{ws.ws_id}/{ws.attempt}",
                    InboxKind.BLOCKER_RAISED,
                    f"workstream {ws.ws_id} is being fixed by hand",
                    _report(task, ws.ws_id),
                    workstream_id=ws.ws_id,
                )


def _sync_matters(state: TaskState) -> Iterator[Matter]:
    """Yield what whoever keeps the repository has to do, or to tell."""
    sync = state.external_sync
    tell = f"podctl task send {state.task_id} record_external_state --state"
    if sync.state == "draft_requested":
        branch = f" from branch {sync.branch}" if sync.branch else ""
        text = f"a draft pull request is asked for{branch} ({preview(sync.title)}): open it, and tell"
        yield Matter("sync/draft", InboxKind.BLOCKER_RAISED, text, f"{tell} draft --url URL")
    for action in state.actions.values():
        if action.status == "granted" and isinstance(action.action, Merge):
            which = sync.url or preview(sync.title)
            if sync.state == "merging":
                text = f"the pull request {which} is being merged: tell how that ended"
                yield Matter(f"sync/merging/{action.action_id}", InboxKind.BLOCKER_RAISED, text, f"{tell} merged")
            else:
                text = f"{action.decided_by} granted merging the pull request {which}: say that it is being done"
                command = f"podctl task send {state.task_id} merge_pull_request"
                yield Matter(f"sync/merge/{action.action_id}", InboxKind.BLOCKER_RAISED, text, command)


def _gate_matters(state: TaskState) -> Iterator[Matter]:
    task = state.task_id
    if (
        state.phase is Phase.SPEC_CLARIFICATION
        and not state.spec.content.strip()
        and not agent_expected(state, AgentType.SPEC_WRITER)
    ):
        text = "the task has no spec yet: write one" + _or_have_it_written(state, AgentType.SPEC_WRITER)
        yield Matter("write/spec", InboxKind.BLOCKER_RAISED, text, f"podctl spec edit {task}")
    if (
        state.phase is Phase.PLANNING
        and (state.plan is None or not state.plan.workstreams)
        and not agent_expected(state, AgentType.PLANNER)
    ):
        text = "the task has no plan yet: write one" + _or_have_it_written(state, AgentType.PLANNER)
        yield Matter("write/plan", InboxKind.BLOCKER_RAISED, text, f"podctl plan edit {task}")
    gate = waiting_gate(state)
    # Whoever approves wants to see what the agent makes of it.
    if gate is None or agent_at_work(state, GATE_AGENT[gate]):
        return
    subject = gate_object(state, gate)
    approve = f"podctl signal approve-{gate} {task}"
    what = "the finished work" if gate == "review" else f"{gate} revision {subject.revision}"
    key = f"{gate}/{subject.revision}/{state.phase_changes}"
    if subject.rejection is not None:
        comment = f" ({subject.rejection.comment})" if subject.rejection.comment else ""
        text = f"{what} was sent back by {subject.rejection.by}{comment}: change it, or approve it as it is"
        text += _or_have_it_written(state, GATE_AGENT[gate])
        yield Matter(f"rejected/{key}", InboxKind.BLOCKER_RAISED, text, approve)
    elif gate_mode(state, gate) is GateMode.HUMAN:
        yield Matter(f"approve/{key}", InboxKind.NEEDS_APPROVAL, f"{what} waits for approval", approve)
    elif state.hold is not None:
        text = f"{what} waits, because {state.hold.by} moved the task back ({state.hold.reason}): change it, or approve"
        yield Matter(f"hold/{key}", InboxKind.BLOCKER_RAISED, text, approve)


def _or_have_it_written(state: TaskState, agent_type: AgentType) -> str:
    if agent_executor(state.config, agent_type) is None:
        return ""
    again = {
        AgentType.SPEC_WRITER: f"podctl spec generate {state.task_id}",
        AgentType.PLANNER: f"podctl plan generate {state.task_id}",
        AgentType.REVIEWER: f"podctl agents restart {state.task_id} AGENT",
    }[agent_type]
    return f", or have the {agent_type.replace('_', ' ')} try again ({again})"


def _room_matters(state: TaskState) -> Iterator[Matter]:
    """Yield that nothing more can start because the task is full."""
    pending = any(ws.status is WorkstreamStatus.PENDING for ws in state.workstreams.values())
    if state.phase is Phase.WORKSTREAM_EXECUTION and pending and not room_to_start(state):
        yield Matter(
            f"full/{state.phase_changes}",
            InboxKind.BLOCKER_RAISED,
            "no workstream starts, because the task has as much in it as can be kept: answer and read what waits, "
            "resolve review threads, or skip workstreams",
            f"podctl task show {state.task_id}",
        )


def _agent_matters(state: TaskState) -> Iterator[Matter]:
    """Yield agents whose work somebody outside has to report, and work that will never start by itself."""
    task = state.task_id
    for agent in state.agents.values():
        if agent.status is AgentStatus.RUNNING and agent.run is None and agent.workstream_id is None:
            kind = agent.agent_type.replace("_", " ")
            text = f"{kind} {agent.agent_id} works outside, and its work is to be reported"
            yield Matter(
                f"agent/{agent.agent_id}",
                InboxKind.AGENT_AWAITING_INPUT,
                text + (f" ({preview(agent.instructions)})" if agent.instructions else ""),
                f"podctl agents done {task} {agent.agent_id} "
                + ("--plan FILE" if agent.agent_type is AgentType.PLANNER else "--file FILE"),
            )
    stuck = deadlocked(state)
    if stuck:
        failed = [ws.ws_id for ws in state.workstreams.values() if ws.status is WorkstreamStatus.FAILED]
        because = f", because {_list(failed)} failed" if failed else ""
        yield Matter(
            f"deadlock/{state.phase_changes}/{stuck[0]}",
            InboxKind.BLOCKER_RAISED,
            f"nothing is under way, and {_list(list(stuck))} cannot start{because}: retry or skip what stands in the "
            "way",
            f"podctl workstream retry {task} {failed[0] if failed else stuck[0]}",
        )


def _message_matter(state: TaskState, message: Message) -> Matter:
    approval = message.approval
    if approval is None:
        kind = InboxKind.QUESTION_ASKED if message.type == "question" else InboxKind.BLOCKER_RAISED
        command = f"podctl signal message {state.task_id} 'ANSWER' --reply-to {message.message_id}"
        text = f"{message.type} {message.message_id} from {message.author}: {preview(message.content)}"
    else:
        failed = approval.subject == "workstream_failed"
        kind = InboxKind.WORKSTREAM_FAILED if failed else InboxKind.NEEDS_APPROVAL
        choice = shlex.quote(approval.options[0])
        command = f"podctl signal approve {state.task_id} --message {message.message_id} --choice {choice}"
        options = f" (choose {' | '.join(approval.options)})"
        # What can be chosen is not what is cut off.
        shown = preview(message.content, max(PREVIEW_LIMIT // 2, PREVIEW_LIMIT - len(options)))
        if approval.subject == "action" and shown.endswith("…"):
            # Nobody grants what they have not read: that page says all of it, and how to decide.
            command = f"podctl action show {state.task_id} {approval.action_id}"
        text = f"{shown}{options}"
    return Matter(f"message/{message.message_id}", kind, text, command, message.message_id, message.workstream_id)


def _agents(state: TaskState) -> Iterator[str]:
    """Yield what agents do, or wait for, that is no person's decision."""
    for agent in state.agents.values():
        kind = agent.agent_type.replace("_", " ")
        if agent.status is AgentStatus.PENDING_START and agent.cooldown_until is not None:
            until = agent.cooldown_until.strftime("%H:%M:%S UTC")
            yield f"{kind} {agent.agent_id} tries again at {until}"
        elif agent.status is AgentStatus.PENDING_START:
            yield f"{kind} {agent.agent_id} waits for a free slot of {state.config.max_concurrent}"
        elif agent.status is AgentStatus.RUNNING and agent.run is not None:
            logs = f"podctl task logs {state.task_id} {agent.agent_id} -f"
            yield f"{kind} {agent.agent_id} runs on pod {agent.run.pod} (attempt {agent.attempt}): {logs}"


def _work(state: TaskState) -> Iterator[str]:
    """Yield what workstreams wait for that is no person's decision."""
    task = state.task_id
    if task_blocked(state):
        yield "no workstream starts until the blocking question is answered"
    asking = workstreams_asking(state)
    under_way: list[str] = []
    waiting: list[str] = []
    ready: list[str] = []
    servers: dict[str, list[str]] = {}
    for name, draft in drafts(state).items():
        ws = state.workstreams[name]
        if ws.status is WorkstreamStatus.IN_PROGRESS:
            under_way.append(_under_way(task, ws))
        elif ws.status is WorkstreamStatus.PENDING and not missing_dependencies(state, draft) and name not in asking:
            server = server_of(state, draft)
            stopping = stopping_run(state, name)
            if stopping is not None:
                run_id, pod = stopping
                waiting.append(f"workstream {name} starts when run {run_id} has ended: podctl pods show {pod}")
            elif ws.cooldown_until is not None:
                until = ws.cooldown_until.strftime("%H:%M:%S UTC")
                waiting.append(f"workstream {name} is tried again at {until} (attempt {ws.attempt} failed: {ws.error})")
            elif server is not None and not server_ready(state, server):
                servers.setdefault(server.name, []).append(name)
            else:
                ready.append(name)
    for name, users in servers.items():
        server = state.servers[name]
        waiting.append(
            f"{_list(users)} wait{'s' if len(users) == 1 else ''} for model server {name} on pod {server.pod} "
            f"({server.status.replace('_', ' ')}{': ' + preview(server.detail) if server.detail else ''}): "
            + (
                f"podctl pods show {server.pod}"
                if server.status in _NOT_STARTED
                else f"podctl logs {name} -f --pod {server.pod}"
            )
        )
    yield from _some(under_way)
    yield from _some(waiting)
    if ready and room_to_start(state):
        yield f"{_list(ready)} wait{'s' if len(ready) == 1 else ''} for a free slot of {state.config.max_concurrent}"


_NOT_STARTED = LET_GO | {ServerStatus.WANTED, ServerStatus.ATTACHED, ServerStatus.PENDING, ServerStatus.UNREACHABLE}


def _under_way(task: str, ws: Workstream) -> str:
    if ws.run is None:
        return f"workstream {ws.ws_id} is done outside: {_report(task, ws.ws_id)}"
    return (
        f"workstream {ws.ws_id} runs on pod {ws.run.pod} (attempt {ws.attempt}): podctl task logs {task} {ws.ws_id} -f"
    )


def _report(task: str, ws_id: str) -> str:
    return f"podctl signal workstream-result {task} {ws_id} --status completed"


def _some(reasons: list[str]) -> Iterator[str]:
    yield from reasons[:LISTED]
    if len(reasons) > LISTED:
        yield f"and {len(reasons) - LISTED} more like this"


def _list(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"workstream{'s' if len(names) > 1 else ''} {', '.join(names[:LISTED])}{more}"


def preview(text: str, limit: int = PREVIEW_LIMIT) -> str:
    """Return the beginning of ``text`` as one line."""
    line = " ".join(text[: PREVIEW_LIMIT * 4].split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
