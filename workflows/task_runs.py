"""Runs of a task's programs, as its workflow has them carried out: what each outcome means to whose run it was."""

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from workflows import names, timeouts
from workflows.activity_calls import definite_refusal, execute_activity, on_the_pods_queue

with workflow.unsafe.imports_passed_through():
    from pydantic import BaseModel

    from domain.gpu.commands import StopFailed
    from domain.task import commands, schedule
    from domain.task.models import Result
    from domain.task.runs import ActionRun, AgentRun
    from workflows.messages import RunInput, RunOutput, StopInput, StopOutput

#: Seconds between TERM and KILL for a run that a person ended.
RUN_GRACE = 10.0
#: Refusals that may be over in a moment: nothing has run, so the attempt may be repeated.
_PASSING = frozenset({"server_not_running"})


async def run_command(action: schedule.RunCommand) -> BaseModel:
    """Have a program run, or its run found again, and return the command that reports how it ended."""

    async def run(queue: str | None) -> RunOutput:
        given = RunInput(
            pod=action.pod,
            run_id=action.run_id,
            task_id=action.task_id,
            subject=action.subject,
            executor=action.executor,
            server_launch=action.server_launch,
            task_queue=queue,
            makes=action.makes,
        )
        return await execute_activity(
            names.RUN_COMMAND,
            given,
            RunOutput,
            attempt=timeouts.OBSERVER,
            task_queue=queue,
            taken_up_within=timeouts.TAKEN_UP if queue else None,
            summary=f"{action.run_id.split('/')[1].removeprefix('_')} on {action.pod}",
        )

    try:
        output = await on_the_pods_queue(run)
    except ActivityError as error:
        refusal = definite_refusal(error)
        if refusal.type == "pod_removed":
            return _interrupted(action, refusal.message)
        return _failed(action, f"{refusal.message} ({refusal.type})", None, recoverable=refusal.type in _PASSING)
    if output.interrupted:
        return _interrupted(action, f"nobody saw how run {action.run_id} ended")
    failure = _failure(action, output)
    return _done(action, output) if failure is None else _failed(action, failure, output.result)


async def stop_run(action: schedule.StopRun) -> BaseModel:
    """Have a run's processes ended, verified, and return the command that reports it."""

    async def stop(queue: str | None) -> StopOutput:
        return await execute_activity(
            names.STOP_LAUNCH,
            StopInput(pod=action.pod, launch_id=action.run_id, grace=RUN_GRACE, task_queue=queue),
            StopOutput,
            task_queue=queue,
            taken_up_within=timeouts.TAKEN_UP if queue else None,
            summary=f"stop run {action.run_id}",
        )

    try:
        output = await on_the_pods_queue(stop)
    except ActivityError as error:
        # The pod itself is gone from podctl: a person said so, and nothing on it can be looked at any more.
        definite_refusal(error)
        return commands.RunStopped(run_id=action.run_id)
    if isinstance(output.report, StopFailed):
        raise ApplicationError(output.report.message, type=output.report.code)
    return commands.RunStopped(run_id=action.run_id)


def _done(action: schedule.RunCommand, output: RunOutput) -> BaseModel:
    subject = action.subject
    if isinstance(subject, AgentRun):
        return commands.AgentDone(agent_id=subject.agent_id, text=output.text, plan=output.plan, result=output.result)
    if isinstance(subject, ActionRun):
        return commands.ActionEnded(action_id=subject.action_id, result=output.result)
    return commands.CompleteWorkstream(ws_id=subject.ws_id, attempt=subject.attempt, result=output.result)


def _failed(action: schedule.RunCommand, error: str, result: Result | None, *, recoverable: bool = False) -> BaseModel:
    subject = action.subject
    if isinstance(subject, AgentRun):
        # What an agent makes is text: trying again does no harm.
        return commands.AgentFailed(agent_id=subject.agent_id, error=error, result=result)
    if isinstance(subject, ActionRun):
        return commands.ActionEnded(action_id=subject.action_id, error=error, result=result)
    return commands.FailWorkstream(
        ws_id=subject.ws_id, attempt=subject.attempt, error=error, recoverable=recoverable, result=result
    )


def _interrupted(action: schedule.RunCommand, reason: str) -> BaseModel:
    subject = action.subject
    if isinstance(subject, AgentRun):
        return commands.AgentInterrupted(agent_id=subject.agent_id, reason=reason)
    if isinstance(subject, ActionRun):
        return commands.ActionEnded(action_id=subject.action_id, error=reason, interrupted=True)
    return commands.WorkstreamInterrupted(ws_id=subject.ws_id, attempt=subject.attempt, reason=reason)


def _failure(action: schedule.RunCommand, output: RunOutput) -> str | None:
    """Return why a run that ended is a failure, or None."""
    run = output.result.run
    if output.timed_out:
        return f"it took longer than {action.executor.timeout_seconds:g} s and was stopped"
    if output.error is not None:
        return output.error
    if run is None or run.exit_code == 0:
        return output.problem or None
    return f"ended by signal {run.signal}" if run.signal is not None else f"exit code {run.exit_code}"
