"""What `podctl replay` says of files whose histories mean something else to today's code."""

import json
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowHistory

from podctl.events import replay_runs
from podctl.export import Export, ReplayDiffers, read_export, replay_export

HISTORY = Path(__file__).parent / "histories" / "task-pod.json"


async def exported(**changes: Any) -> Export:  # noqa: ANN401 - any JSON
    """Return the recorded task as an export, in which some parts say something else."""
    run = WorkflowHistory.from_json("task-pod", HISTORY.read_text(encoding="utf-8"))
    log = await replay_runs([run])
    document = {
        "format": "podctl-task",
        "version": 1,
        "podctl": "0",
        "exported_at": "2026-01-01T00:00:00Z",
        "task": "kitchen-timer",
        "closed": log.closed,
        "missing_through": 0,
        "state": log.state.model_dump(mode="json"),
        "events": [event.model_dump(mode="json") for event in log.events],
        "runs": [{"run_id": "r", "history": run.to_json_dict()}],
    }
    return read_export(json.dumps({**document, **changes}), "a file")


async def test_the_recorded_task_replays() -> None:
    replayed = await replay_export(await exported())
    assert (replayed.task, replayed.runs, replayed.closed) == ("kitchen-timer", 1, True)
    assert replayed.events > 20


async def test_a_run_that_goes_another_way_is_named_with_what_it_does_there() -> None:
    [run] = (await exported()).model_dump(mode="json")["runs"]
    text = json.dumps(run).replace('"attach_server"', '"make_coffee"', 1)
    assert "make_coffee" in text
    with pytest.raises(ReplayDiffers, match=r"run 1 of 1 goes another way.*make_coffee"):
        await replay_export(await exported(runs=[json.loads(text)]))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"state": {"task_id": "kitchen-timer"}}, r"state\.rules: not in the file, 1 with this podctl"),
        ({"events": []}, "events: 0 in the file, .* the first that only this podctl has is"),
        ({"missing_through": 7}, "missing_through: 7 in the file, 0 with this podctl"),
        ({"closed": False}, "closed: false in the file, true with this podctl"),
    ],
)
async def test_the_first_difference_is_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ReplayDiffers, match=says):
        await replay_export(await exported(**changes))
