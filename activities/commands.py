"""Runs of ``command`` workstreams: a program on a GPU pod, started once however often the activity is tried."""

from typing import Any

from temporalio import activity
from temporalio.client import Client

from activities.support import heartbeating, pod_address_for, remote_errors
from domain.task.models import Result, RunResult
from remote.podlet import Podlet
from workflows import names
from workflows.messages import RunInput, RunOutput


class CommandActivities:
    """Carries out ``command`` workstreams."""

    def __init__(self, client: Client, podlet: Podlet) -> None:
        self._client = client
        self._podlet = podlet

    @activity.defn(name=names.RUN_COMMAND)
    async def run_command(self, run: RunInput) -> RunOutput:
        """Run the program, or find the run of this id again, and return how it ended.

        Cancelling ends the watching only: what runs on the pod is ended by ``stop_launch``.
        """
        progress: dict[str, Any] = {}
        request = {
            "id": run.run_id,
            "kind": "run",
            "argv": list(run.executor.argv),
            "environment": {
                **run.executor.environment,
                "PODCTL_TASK": run.task_id,
                "PODCTL_WORKSTREAM": run.workstream_id,
            },
            "workspace": f"{run.task_id}/{run.workstream_id}",
            "server": run.server_launch,
            "timeout": run.executor.timeout_seconds,
        }
        async with remote_errors(), heartbeating(lambda: progress):
            address = await pod_address_for(self._client, run.pod, run.task_queue)
            async with self._podlet.stream(address, "run", request) as lines:
                async for line in lines:
                    if line["type"] == "result":
                        return _output(line["result"])
                    progress.update(log_size=line.get("log_size"), members=line.get("members"))
        raise AssertionError("a stream without a result raises")


def _output(result: dict[str, Any]) -> RunOutput:
    ended = result["exit"]
    return RunOutput(
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
