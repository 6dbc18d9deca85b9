"""Runs of a task's programs on a GPU pod, each started once however often the activity is tried."""

import asyncio
import json
from typing import Any

from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from activities.support import heartbeating, pod_address_for, remote_errors
from domain.errors import BadInput
from domain.ids import task_workflow_id
from domain.task.models import Result, RunResult
from domain.task.plan_file import read_plan
from domain.task.runs import AgentRun, WorkstreamRun
from remote.podlet import Podlet
from workflows import names
from workflows.messages import RunInput, RunOutput


class CommandActivities:
    """Carries out what a task runs on pods: ``command`` workstreams, agents, granted actions."""

    def __init__(self, client: Client, podlet: Podlet) -> None:
        self._client = client
        self._podlet = podlet

    @activity.defn(name=names.RUN_COMMAND)
    async def run_command(self, run: RunInput) -> RunOutput:
        """Run the program, or find the run of this id again, and return how it ended and what it made.

        Cancelling ends the watching only: what runs on the pod is ended by ``stop_launch``.
        """
        progress: dict[str, Any] = {}
        request = {
            "id": run.run_id,
            "kind": "run",
            "argv": list(run.executor.argv),
            "environment": {**run.executor.environment, "PODCTL_TASK": run.task_id, **_whose(run)},
            "workspace": run.run_id.rpartition("/")[0],
            "server": run.server_launch,
            "timeout": run.executor.timeout_seconds,
            "output": run.makes is not None,
        }
        async with remote_errors(), heartbeating(lambda: progress):
            address = await pod_address_for(self._client, run.pod, run.task_queue)
            request["input"] = await self._briefing(run)
            async with self._podlet.stream(address, "run", request) as lines:
                async for line in lines:
                    if line["type"] == "result":
                        # Reading a long plan takes seconds, and there are heartbeats to be sent.
                        return await asyncio.to_thread(_output, run, line["result"])
                    progress.update(log_size=line.get("log_size"), members=line.get("members"))
        raise AssertionError("a stream without a result raises")

    async def _briefing(self, run: RunInput) -> str:
        """Return what the program is told. It is asked for, because it may be long and would stand in the history."""
        task = self._client.get_workflow_handle(task_workflow_id(run.task_id))
        briefing = await task.query(names.BRIEFING, run.run_id)
        if briefing is None:
            raise ApplicationError(
                f"task {run.task_id} does not want run {run.run_id} any more; nothing is started", type="not_wanted"
            )
        return json.dumps(briefing, ensure_ascii=False, indent=1)


def _whose(run: RunInput) -> dict[str, str]:
    subject = run.subject
    if isinstance(subject, WorkstreamRun):
        return {"PODCTL_WORKSTREAM": subject.ws_id}
    if isinstance(subject, AgentRun):
        return {"PODCTL_AGENT": subject.agent_id}
    return {"PODCTL_ACTION": subject.action_id}


def _output(run: RunInput, result: dict[str, Any]) -> RunOutput:
    ended = result["exit"]
    output = RunOutput(
        interrupted=ended["unknown"],
        timed_out=result["timed_out"],
        error=ended["error"],
        result=Result(
            text=result["tail"],
            run=RunResult(
                exit_code=ended["code"],
                signal=ended["signal"],
                log=result["log"],
                size=result["size"],
                sha256=result["sha256"],
            ),
        ),
    )
    if run.makes is None or ended["code"] != 0:
        return output
    if result["output"] is None:
        return output.model_copy(update={"problem": result["output_problem"]})
    if run.makes == "text":
        return output.model_copy(update={"text": result["output"]})
    try:
        return output.model_copy(update={"plan": read_plan(result["output"], "$PODCTL_OUTPUT")})
    except BadInput as error:
        return output.model_copy(update={"problem": f"what it wrote is no plan: {error}"[:_PROBLEM_LIMIT]})


#: Characters kept of what is wrong with a plan: the first mistakes say enough.
_PROBLEM_LIMIT = 3_000
