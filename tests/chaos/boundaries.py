"""The boundaries of a task's activities, found in the histories of a run that nobody disturbed."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from temporalio.client import Client, WorkflowHistory

#: Watches last as long as what they look at, and a machine is looked at as often as it changes: their number is chance.
#: Workers die in them in test_worker_killed.py.
_LOOKS = frozenset({"watch_pod", "inspect_pod"})


def label(argument: Mapping[str, Any]) -> str:
    """Return what an activity is about, from its one argument."""
    server = argument.get("server")
    if isinstance(server, Mapping):
        return str(server["name"])
    return str(argument.get("run_id") or argument.get("launch_id") or argument.get("name") or argument.get("pod"))


async def boundaries(client: Client, *workflow_ids: str) -> list[tuple[str, str, str]]:
    """Return (activity, what it is about, before or after) of every activity that these workflows have had done."""
    found: dict[tuple[str, str], None] = {}
    for workflow_id in workflow_ids:
        history = await client.get_workflow_handle(workflow_id).fetch_history()
        found |= dict.fromkeys(_activities(history))
    return [(activity, about, when) for activity, about in found for when in ("before", "after")]


def _activities(history: WorkflowHistory) -> Iterator[tuple[str, str]]:
    for event in history.events:
        if event.HasField("activity_task_scheduled_event_attributes"):
            scheduled = event.activity_task_scheduled_event_attributes
            if scheduled.activity_type.name not in _LOOKS:
                [payload] = scheduled.input.payloads
                yield scheduled.activity_type.name, label(json.loads(payload.data))
