"""Workstreams: started, reported on, failed, retried, skipped; what depends on a failure is blocked."""

from datetime import timedelta

from domain import ids
from domain.errors import Rejected
from domain.task import agent_records, messages, serving
from domain.task.change import Change, check_length
from domain.task.commands import (
    CompleteWorkstream,
    FailWorkstream,
    InterruptWorkstream,
    RetryWorkstream,
    RunStopped,
    SetPriority,
    SkipWorkstream,
    StartWorkstream,
    WorkstreamInterrupted,
)
from domain.task.models import (
    SETTLED,
    UNDER_WAY,
    AgentStatus,
    ApprovalRequest,
    CommandExecutor,
    Message,
    Result,
    Run,
    Workstream,
    WorkstreamStatus,
)
from domain.task.readiness import (
    drafts,
    free_slots,
    missing_dependencies,
    server_of,
    server_ready,
    stopping_run,
    task_blocked,
    workstreams_asking,
)
from domain.task.size import room_to_start

#: Bytes of a result's text, and of an error: the log itself is read from its pod.
RESULT_LIMIT = 4 * 1024
ARTIFACTS_LIMIT = 100
ARTIFACT_LENGTH_LIMIT = 1_000
FAILURE_OPTIONS = ("retry", "skip", "fix", "cancel")

_WAITING = frozenset({WorkstreamStatus.PENDING, WorkstreamStatus.BLOCKED})


def start_workstream(change: Change, command: StartWorkstream) -> None:
    """Begin the next attempt; the run id of a command is decided here, before anything runs."""
    state = change.state
    workstream = change.workstream(command.ws_id)
    draft = drafts(state)[command.ws_id]
    missing = missing_dependencies(state, draft)
    if workstream.status is WorkstreamStatus.BLOCKED or (missing and workstream.status is WorkstreamStatus.PENDING):
        raise Rejected(
            "dependencies_not_satisfied",
            f"workstream {command.ws_id!r} waits for {', '.join(missing)}: each has to be completed or skipped first",
        )
    if workstream.status is not WorkstreamStatus.PENDING:
        raise Rejected(
            "workstream_not_pending",
            f"workstream {command.ws_id!r} is {workstream.status.value}; only a pending one can be started",
        )
    stopping = stopping_run(state, command.ws_id)
    if stopping is not None:
        raise Rejected(
            "run_stopping",
            f"workstream {command.ws_id!r} starts when run {stopping[0]} of its last attempt has ended on pod "
            f"{stopping[1]}; if that machine is gone for good, say so: podctl pods remove {stopping[1]} --lost",
        )
    if task_blocked(state) or command.ws_id in workstreams_asking(state):
        raise Rejected("awaiting_answer", f"workstream {command.ws_id!r} waits for the answer to a blocking question")
    if free_slots(state) <= 0:
        raise Rejected(
            "no_free_slot",
            f"{state.config.max_concurrent} workstreams and agents are in progress, which is the limit; wait or raise "
            "it",
        )
    if not room_to_start(state):
        raise Rejected(
            "state_too_large",
            f"the task has no room for what may become of workstream {command.ws_id!r}: answer what waits "
            "(podctl inbox)",
        )
    server = server_of(state, draft)
    if server is not None and not server_ready(state, server):
        raise Rejected(
            "server_not_ready",
            f"workstream {command.ws_id!r} needs model server {server.name!r}, which is {server.status.value}",
        )
    attempt = workstream.attempt + 1
    run = None
    if isinstance(draft.executor, CommandExecutor):
        pod = None if state.plan is None else state.plan.pod_of(draft.executor)
        if pod is None:
            raise Rejected("no_pod", f"workstream {command.ws_id!r} does not say on which pod it runs")
        run = Run(
            run_id=ids.run_id(state.task_id, command.ws_id, attempt),
            pod=pod,
            server_launch=None if server is None else server.launch_id,
        )
    change.update_workstream(
        command.ws_id,
        status=WorkstreamStatus.IN_PROGRESS,
        attempt=attempt,
        run=run,
        agent_id=None,
        cooldown_until=None,
        started_at=change.now,
        completed_at=None,
        completed_by=None,
        error=None,
        result=None,
    )
    change.cool_down()
    change.emit(
        "workstream_started",
        workstream=command.ws_id,
        title=draft.title,
        attempt=attempt,
        executor=draft.executor.type,
        pod=None if run is None else run.pod,
        run_id=None if run is None else run.run_id,
        server=None if server is None else server.name,
    )


def complete_workstream(change: Change, command: CompleteWorkstream) -> None:
    """Take a success. A person may also report one for a failed workstream, fixed by hand."""
    workstream = change.workstream(command.ws_id)
    if not (workstream.status is WorkstreamStatus.FAILED and command.attempt is None):
        _check_under_way(workstream, command.attempt)
    result = _checked(command.result)
    _end_run(change, workstream, result)
    agent_records.end_of_workstream(change, command.ws_id, AgentStatus.COMPLETED, None)
    change.update_workstream(
        command.ws_id,
        status=WorkstreamStatus.COMPLETED,
        by_hand=False,
        run=None,
        completed_at=change.now,
        completed_by=change.by,
        result=result,
        error=None,
    )
    change.emit(
        "workstream_completed",
        workstream=command.ws_id,
        title=drafts(change.state)[command.ws_id].title,
        attempt=workstream.attempt,
        result=result.model_dump(mode="json", exclude_none=True),
    )
    _settled(change, command.ws_id, "completed")
    if workstream.by_hand or workstream.status is WorkstreamStatus.FAILED:
        reblock(change)


def fail_workstream(change: Change, command: FailWorkstream) -> None:
    """Take a failure: it is tried again after a growing delay if nothing took effect, else a person decides."""
    workstream = change.workstream(command.ws_id)
    _check_under_way(workstream, command.attempt)
    error = _end(command.error)
    result = None if command.result is None else _checked(command.result)
    delays = change.state.config.failure_cooldown_seconds
    if not command.recoverable or workstream.by_hand or workstream.automatic_retries >= len(delays):
        _give_up(change, workstream, error, result)
        return
    _end_run(change, workstream, result)
    agent_records.end_of_workstream(change, command.ws_id, AgentStatus.FAILED, error)
    until = change.now + timedelta(seconds=delays[workstream.automatic_retries])
    change.update_workstream(
        command.ws_id,
        status=WorkstreamStatus.PENDING,
        run=None,
        automatic_retries=workstream.automatic_retries + 1,
        cooldown_until=until,
        error=error,
        result=result,
    )
    change.emit(
        "workstream_failed",
        workstream=command.ws_id,
        attempt=workstream.attempt,
        error=error,
        recoverable=True,
        retry_at=until.isoformat(),
    )
    _close_questions(change, command.ws_id, "the attempt has failed")
    # What it depends on may have been taken up again, and have failed, while it ran.
    reblock(change)


def workstream_interrupted(change: Change, command: WorkstreamInterrupted) -> None:
    """Take it that nobody saw how an attempt ended. It is never just repeated: a person decides."""
    workstream = change.workstream(command.ws_id)
    _check_under_way(workstream, command.attempt)
    _give_up(change, workstream, f"interrupted, may have taken effect: {command.reason}", None, interrupted=True)


def interrupt_workstream(change: Change, command: InterruptWorkstream) -> None:
    """End what a workstream runs; a person decides how it goes on."""
    workstream = change.workstream(command.ws_id)
    _check_under_way(workstream, None)
    reason = f": {command.reason}" if command.reason else ""
    _give_up(change, workstream, f"interrupted by {change.by}{reason}", None, interrupted=True)


def retry_workstream(change: Change, command: RetryWorkstream) -> None:
    """Do a finished workstream once more. Its next attempt has a run id of its own."""
    workstream = change.workstream(command.ws_id)
    if workstream.status not in SETTLED:
        raise Rejected(
            "workstream_not_finished",
            f"workstream {command.ws_id!r} is {workstream.status.value}; only one that is completed, failed or "
            "skipped can be done again",
        )
    change.update_workstream(
        command.ws_id,
        status=WorkstreamStatus.PENDING,
        automatic_retries=0,
        cooldown_until=None,
        completed_at=None,
        completed_by=None,
    )
    change.emit("workstream_retried", workstream=command.ws_id, attempt=workstream.attempt + 1)
    _settled(change, command.ws_id, "retried")
    reblock(change)
    serving.want_servers(change)


def skip_workstream(change: Change, command: SkipWorkstream) -> None:
    """Leave a workstream out; a run of it is stopped. What depends on it goes on, or is left out too."""
    workstream = change.workstream(command.ws_id)
    if workstream.status in (WorkstreamStatus.COMPLETED, WorkstreamStatus.SKIPPED):
        raise Rejected(
            "workstream_already_finished", f"workstream {command.ws_id!r} is already {workstream.status.value}"
        )
    _end_run(change, workstream, None)
    agent_records.end_of_workstream(change, command.ws_id, AgentStatus.INTERRUPTED, f"skipped by {change.by}")
    left_out = [command.ws_id]
    if command.with_dependents:
        left_out += _waiting_dependents(change, [command.ws_id])
    change.put_workstreams(
        change.state.workstreams[name].model_copy(
            update={
                "status": WorkstreamStatus.SKIPPED,
                "by_hand": False,
                "run": None,
                "blocking_on": (),
                "cooldown_until": None,
                "completed_at": change.now,
                "completed_by": change.by,
            }
        )
        for name in left_out
    )
    for name in left_out:
        change.emit("workstream_skipped", workstream=name, reason=command.reason)
        _settled(change, name, "skipped")
    reblock(change)


def fix_by_hand(change: Change, ws_id: str) -> None:
    """Let a failed workstream wait for the result of a person who has taken it on."""
    change.update_workstream(ws_id, status=WorkstreamStatus.AWAITING_INPUT, by_hand=True)
    change.emit("workstream_awaiting_input", workstream=ws_id, by_hand=True)
    change.set(hold=None)


def set_priority(change: Change, command: SetPriority) -> None:
    """Change which ready workstream starts first."""
    workstream = change.workstream(command.ws_id)
    if workstream.priority is not command.priority:
        change.update_workstream(command.ws_id, priority=command.priority)
        change.emit("workstream_priority_changed", workstream=command.ws_id, priority=command.priority.value)


def run_stopped(change: Change, command: RunStopped) -> None:
    """Take it that a run is gone. Said twice, it is still gone."""
    pod = change.state.stopping_runs.get(command.run_id)
    if pod is not None:
        rest = {run_id: pod for run_id, pod in change.state.stopping_runs.items() if run_id != command.run_id}
        change.set(stopping_runs=rest)
        change.emit("run_stopped", run_id=command.run_id, pod=pod)


def stop_all(change: Change, reason: str) -> None:
    """End everything under way, because the task ends."""
    for workstream in [ws for ws in change.state.workstreams.values() if ws.status in UNDER_WAY]:
        _end_run(change, workstream, None)
        agent_records.end_of_workstream(change, workstream.ws_id, AgentStatus.INTERRUPTED, reason)
        change.update_workstream(
            workstream.ws_id,
            status=WorkstreamStatus.FAILED,
            by_hand=False,
            run=None,
            completed_at=change.now,
            error=reason,
        )
        change.emit("workstream_interrupted", workstream=workstream.ws_id, attempt=workstream.attempt, error=reason)


def hand_back(change: Change) -> None:
    """Let what people outside are at work on wait for the new plan; nothing of ours runs."""
    handed_back = [ws for ws in change.state.workstreams.values() if ws.status in UNDER_WAY]
    change.put_workstreams(
        ws.model_copy(update={"status": WorkstreamStatus.PENDING, "by_hand": False}) for ws in handed_back
    )
    for workstream in handed_back:
        change.emit(
            "workstream_interrupted",
            workstream=workstream.ws_id,
            attempt=workstream.attempt,
            error="the plan is being changed",
        )


def reblock(change: Change) -> None:
    """Make exactly those waiting workstreams blocked that depend, over others that wait, on a failure.

    ``blocking_on`` names the direct dependencies in the way. One pass over the graph.
    """
    workstreams = change.state.workstreams
    failures = [ws.ws_id for ws in workstreams.values() if ws.status is WorkstreamStatus.FAILED or ws.by_hand]
    in_the_way = {*failures, *_waiting_dependents(change, failures)}
    changed: list[Workstream] = []
    blocked: list[str] = []
    unblocked: list[str] = []
    for name, draft in drafts(change.state).items():
        workstream = workstreams[name]
        if workstream.status not in _WAITING:
            continue
        blocking_on = tuple(d for d in draft.depends_on if d in in_the_way) if name in in_the_way else ()
        if blocking_on != workstream.blocking_on:
            status = WorkstreamStatus.BLOCKED if blocking_on else WorkstreamStatus.PENDING
            changed.append(workstream.model_copy(update={"status": status, "blocking_on": blocking_on}))
            if status is not workstream.status:
                (blocked if blocking_on else unblocked).append(name)
    change.put_workstreams(changed)
    if blocked:
        change.emit("workstreams_blocked", workstreams=[*blocked], failed=[*failures])
    if unblocked:
        change.emit("workstreams_unblocked", workstreams=[*unblocked])


def materialise(change: Change) -> None:
    """Make the plan's workstreams real: those already there keep what they have reached. Plan order."""
    state = change.state
    if state.plan is None:
        return
    workstreams: dict[str, Workstream] = {}
    for name, draft in state.plan.workstreams.items():
        known = state.workstreams.get(name)
        if known is None:
            attempt = state.dropped_attempts.get(name, 0)
            known = Workstream(ws_id=name, priority=draft.priority, attempt=attempt)
            change.emit(
                "workstream_created",
                workstream=name,
                title=draft.title,
                depends_on=list(draft.depends_on),
                executor=draft.executor.type,
                priority=draft.priority.value,
            )
        workstreams[name] = known
    dropped = {n: a for n, a in state.dropped_attempts.items() if n not in workstreams}
    change.set(workstreams=workstreams, dropped_attempts=dropped)


def _waiting_dependents(change: Change, roots: list[str]) -> list[str]:
    """Return what depends on ``roots``, directly or over others that wait, and waits itself; in plan order."""
    if not roots:
        return []
    dependents: dict[str, list[str]] = {}
    for name, draft in drafts(change.state).items():
        if change.state.workstreams[name].status in _WAITING:
            for dependency in draft.depends_on:
                dependents.setdefault(dependency, []).append(name)
    found: set[str] = set()
    to_visit = list(roots)
    while to_visit:
        for name in dependents.get(to_visit.pop(), ()):
            if name not in found:
                found.add(name)
                to_visit.append(name)
    return [name for name in drafts(change.state) if name in found and name not in roots]


def _give_up(
    change: Change, workstream: Workstream, error: str, result: Result | None, *, interrupted: bool = False
) -> None:
    error = _end(error)
    _end_run(change, workstream, result)
    ended = AgentStatus.INTERRUPTED if interrupted else AgentStatus.FAILED
    agent_records.end_of_workstream(change, workstream.ws_id, ended, error)
    change.update_workstream(
        workstream.ws_id,
        status=WorkstreamStatus.FAILED,
        by_hand=False,
        run=None,
        completed_at=change.now,
        completed_by=change.by,
        error=error,
        result=result,
    )
    change.emit(
        "workstream_interrupted" if interrupted else "workstream_failed",
        workstream=workstream.ws_id,
        attempt=workstream.attempt,
        error=error,
        recoverable=False,
        result=None if result is None else result.model_dump(mode="json", exclude_none=True),
    )
    _settled(change, workstream.ws_id, "failed")
    reblock(change)
    messages.post(
        change,
        f"workstream {workstream.ws_id} failed (attempt {workstream.attempt}): {error}",
        message_type="approval",
        workstream_id=workstream.ws_id,
        approval=ApprovalRequest(options=FAILURE_OPTIONS, subject="workstream_failed"),
    )


def _settled(change: Change, ws_id: str, how: str) -> None:
    """A decision about a workstream has fallen: nothing is asked about it any more, and the scheduler may go on."""
    _close_questions(change, ws_id, f"workstream {ws_id} was {how}")
    change.set(hold=None)


def _close_questions(change: Change, ws_id: str, reason: str) -> None:
    def about(message: Message) -> bool:
        return message.workstream_id == ws_id

    messages.close_approvals(change, reason, about)


def _end_run(change: Change, workstream: Workstream, result: Result | None) -> None:
    """Have the run stopped unless its own outcome is what is being reported: one that never started counts too."""
    if workstream.run is not None and (result is None or result.run is None):
        change.set(stopping_runs={**change.state.stopping_runs, workstream.run.run_id: workstream.run.pod})


def _check_under_way(workstream: Workstream, attempt: int | None) -> None:
    if attempt is not None and attempt != workstream.attempt:
        raise Rejected(
            "stale_attempt",
            f"this is about attempt {attempt} of workstream {workstream.ws_id!r}, which is at attempt "
            f"{workstream.attempt}; nothing is changed by it",
        )
    if workstream.status not in UNDER_WAY:
        by = f" (by {workstream.completed_by})" if workstream.completed_by else ""
        raise Rejected(
            "workstream_not_in_progress",
            f"workstream {workstream.ws_id!r} is {workstream.status.value}{by}; a result is taken only while it is "
            "in progress or awaits input",
        )


def _checked(result: Result) -> Result:
    """Return a result that is small enough. A machine's is cut, since its refusal would help nobody."""
    if result.run is not None:
        return result.model_copy(update={"text": _end(result.text)})
    check_length("the result", result.text, RESULT_LIMIT, "put it into a file and name it as an artifact")
    if len(result.artifacts) > ARTIFACTS_LIMIT:
        raise Rejected("content_too_long", f"{len(result.artifacts)} artifacts, the limit is {ARTIFACTS_LIMIT}")
    for artifact in result.artifacts:
        check_length("an artifact's name", artifact, ARTIFACT_LENGTH_LIMIT, "name a folder that holds them")
    return result


def _end(text: str) -> str:
    return text.encode()[-RESULT_LIMIT:].decode(errors="ignore")
