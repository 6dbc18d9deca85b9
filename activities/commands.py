"""Runs of ``command`` workstreams: a program on a GPU pod, started once however often the activity is tried."""

import asyncio
from typing import Any

from temporalio import activity
from temporalio.client import Client

from activities.support import heartbeating, pod_address, remote_errors
from domain.task.models import Result, RunResult
from remote.podlet import Podlet
from workflows import names
from workflows.messages import RunInput, RunOutput

#: Seconds between TERM and KILL for a run that exceeds its own time limit.
TIMEOUT_GRACE = 10.0


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
        }
        async with remote_errors(), heartbeating(lambda: progress):
            address = await pod_address(self._client, run.pod)
            try:
                async with (
                    asyncio.timeout(run.executor.timeout_seconds),
                    self._podlet.stream(address, "run", request) as lines,
                ):
                    async for line in lines:
                        if line["type"] == "result":
                            return _output(line["result"], timed_out=False)
                        progress.update(log_size=line.get("log_size"), members=line.get("members"))
            except TimeoutError:
                await self._podlet.call(address, "stop", {"id": run.run_id, "grace": TIMEOUT_GRACE})
                return _output(await self._podlet.call(address, "run", request), timed_out=True)
        raise AssertionError("a stream without a result raises")


def _output(result: dict[str, Any], *, timed_out: bool) -> RunOutput:
    ended = result.get("exit") or {}
    return RunOutput(
        interrupted=bool(ended.get("unknown")),
        timed_out=timed_out,
        result=Result(
            text=result.get("tail", "") if not ended.get("error") else str(ended["error"]),
            run=RunResult(
                exit_code=ended.get("code"),
                signal=ended.get("signal"),
                log=result.get("log", ""),
                size=result.get("size", 0),
                sha256=result.get("sha256", ""),
            ),
        ),
    )
