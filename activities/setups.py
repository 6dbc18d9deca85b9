"""Steps of a setup: each is a launch on the machine, started once however often the activity is tried."""

import errno
from functools import cache
from importlib import resources
from typing import Any

from temporalio import activity
from temporalio.client import Client

from activities.support import DEFINITE_REFUSALS, heartbeating, pod_address, remote_errors
from domain.gpu.commands import SetupStepDone, SetupStepFailed
from domain.gpu.setup import LIMITS
from remote.errors import PodletError
from remote.podlet import Podlet
from workflows import names
from workflows.messages import SetupStepInput, SetupStepOutput

_REPEAT = "look at the last lines of its log, then repeat the setup"


class SetupActivities:
    """Carries out what is done on the machine."""

    def __init__(self, client: Client, podlet: Podlet) -> None:
        self._client = client
        self._podlet = podlet

    @activity.defn(name=names.SETUP_STEP)
    async def setup_step(self, step: SetupStepInput) -> SetupStepOutput:
        """Do a step, or find the step of this id again, and return how it ended; heartbeats carry its last line.

        Cancelling ends the watching only: what the step does on the machine goes on, and is found again.
        """
        progress: dict[str, Any] = {"step": step.step}
        request = {
            "id": step.launch_id,
            "step": step.step,
            "program": _program(),
            "mount": list(step.mount),
            "models_path": step.models_path,
            "spec": step.spec,
            "version": step.version,
            "timeout": LIMITS[step.step],
        }
        async with remote_errors(), heartbeating(lambda: progress):
            address = await pod_address(self._client, step.pod)
            try:
                async with self._podlet.stream(address, "setup_step", request) as lines:
                    async for line in lines:
                        if line["type"] == "result":
                            return SetupStepOutput(report=_report(step, line["result"]))
                        progress.update(last_line=line.get("last_line"), log_size=line.get("log_size"))
            except PodletError as error:
                if error.code not in DEFINITE_REFUSALS:
                    raise
                return SetupStepOutput(report=_failed(step, error.code, error.message, _REPEAT))
        raise AssertionError("a stream without a result raises")


def _report(step: SetupStepInput, result: dict[str, Any]) -> SetupStepDone | SetupStepFailed:
    """Return what a step's launch came to: what it says of itself, or, where it said nothing, how its process ended."""
    ended, outcome, tail = result["exit"], result["outcome"], result["tail"]
    if outcome is not None and "problem" in outcome:
        return _failed(step, outcome["problem"], outcome["message"], outcome["advice"], tail)
    if outcome is not None and ended["code"] == 0:
        return SetupStepDone(
            launch_id=step.launch_id,
            message=outcome["message"],
            version=outcome.get("version"),
            program=outcome.get("program"),
            models_path=outcome.get("models_path"),
        )
    if ended["code"] == errno.ENOSPC:  # not even its result could be written down
        advice = "free some space there (df -h shows how much there is), then repeat the setup"
        return _failed(step, "disk_full", "there is no space left on the machine's disk", advice, tail)
    if result["timed_out"]:
        minutes = LIMITS[step.step] / 60
        return _failed(step, "timed_out", f"it took more than {minutes:.0f} minutes and was ended", _REPEAT, tail)
    if ended["unknown"]:
        return _failed(step, "interrupted", "nobody saw how it ended: the machine was restarted", _REPEAT, tail)
    how = f"signal {ended['signal']}" if ended["signal"] else f"exit code {ended['code']}"
    return _failed(step, "crashed", ended["error"] or f"it ended with {how} and said nothing of why", _REPEAT, tail)


def _failed(step: SetupStepInput, code: str, message: str, advice: str, tail: str = "") -> SetupStepFailed:
    return SetupStepFailed(launch_id=step.launch_id, code=code, message=message, advice=advice, log_tail=tail)


@cache
def _program() -> str:
    return resources.files("podlet").joinpath("setup_steps.py").read_text(encoding="utf-8")
