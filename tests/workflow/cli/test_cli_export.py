"""`podctl export`, `replay`, `task archive`, `task delete`: a task's history in a file, and off the server."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest

from podctl.client import NotFound, PodctlClient
from podctl.deletion import archived, deletable
from podctl.export import export_task
from tests.workflow.cli.support import CommandLine
from tests.workflow.support import eventually

PLAN = "workstreams: [{id: one, title: One, executor: signal}]"


@pytest.fixture
async def finished(podctl: CommandLine, unique: Callable[[str], str], tmp_path: Path) -> str:
    """A completed task."""
    name = unique("task")
    (tmp_path / "spec.md").write_text("build it")
    (tmp_path / "plan.yaml").write_text(PLAN)
    files = ("--spec", str(tmp_path / "spec.md"), "--plan", str(tmp_path / "plan.yaml"))
    await podctl("task", "create", "A title", "--id", name, *files, "--as", "ann")
    for words in (("approve-spec",), ("approve-plan",), ("workstream-result",), ("approve-review",)):
        more = ("one",) if words == ("workstream-result",) else ()
        await podctl("signal", *words, name, *more, "--as", "ann")
    return name


def edited(file: Path, **changes: Any) -> Path:  # noqa: ANN401 - any JSON
    """Return a copy of an export in which some parts say something else."""
    document = {**json.loads(file.read_text()), **changes}
    copy = file.with_name("edited.json")
    copy.write_text(json.dumps(document))
    return copy


async def test_an_export_replays_to_the_same_state_and_events(
    podctl: CommandLine, working: PodctlClient, finished: str, tmp_path: Path
) -> None:
    file = tmp_path / "task.json"
    written = await podctl.json("export", finished, "-f", str(file))
    assert written["runs"] == 1
    assert written["closed"] is True
    assert (file.stat().st_mode & 0o777) == 0o600
    document = json.loads(file.read_text())
    assert (document["format"], document["version"], document["task"]) == ("podctl-task", 1, finished)
    assert document["state"]["phase"] == "completed"
    log = await working.log(f"task-pod/{finished}")
    assert document["events"] == [event.model_dump(mode="json") for event in log.events]
    assert (await podctl("replay", str(file))).output.startswith(f"{file}: the same state and {len(log.events)} events")
    assert "exists already" in (await podctl("export", finished, "-f", str(file), status=2)).errors
    printed = json.loads((await podctl("export", finished, "-f", "-")).output)
    assert printed["runs"] == document["runs"]


async def test_the_first_difference_is_named(podctl: CommandLine, finished: str, tmp_path: Path) -> None:
    file = tmp_path / "task.json"
    await podctl("export", finished, "-f", str(file))
    document = json.loads(file.read_text())
    other = {**document["state"], "title": "Another title"}
    said = (await podctl("replay", str(edited(file, state=other)), status=1)).errors
    assert 'state.title: "Another title" in the file, "A title" with this podctl' in said
    events = document["events"]
    changed = [*events[:2], {**events[2], "by": "mallory"}, *events[3:]]
    assert "events[2].by" in (await podctl("replay", str(edited(file, events=changed)), status=1)).errors
    fewer = (await podctl("replay", str(edited(file, events=events[:-1])), status=1)).errors
    assert f"{len(events) - 1} in the file, {len(events)} with this podctl" in fewer
    history = json.loads(json.dumps(document["runs"][0]["history"]))
    [update] = [e for e in history["events"] if "workflowExecutionStartedEventAttributes" in e]
    update["workflowExecutionStartedEventAttributes"]["workflowType"]["name"] = "Other"
    broken = edited(file, runs=[{**document["runs"][0], "history": history}])
    await podctl("replay", str(broken), status=1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not what podctl export writes"),
        ('{"format": "podctl-task", "version": 99, "podctl": "9.9"}', "podctl 9.9"),
        ('{"format": "podctl-task", "version": 1}', "Field required"),
    ],
)
async def test_a_file_that_is_no_export_is_told_as_such(
    podctl_without_worker: CommandLine, tmp_path: Path, text: str, says: str
) -> None:
    file = tmp_path / "task.json"
    file.write_text(text)
    assert says in (await podctl_without_worker("replay", str(file), status=2)).errors
    file.unlink()
    assert "task.json cannot be read" in (await podctl_without_worker("replay", str(file), status=2)).errors


async def test_a_live_task_is_exported_and_neither_archived_nor_deleted(
    podctl: CommandLine, unique: Callable[[str], str], tmp_path: Path
) -> None:
    name = unique("task")
    await podctl("task", "create", "A title", "--id", name, "--as", "ann")
    assert "it goes on" in (await podctl("export", name, "-f", str(tmp_path / "live.json"))).output
    await podctl("replay", str(tmp_path / "live.json"))
    for command in ("archive", "delete"):
        refused = await podctl("task", command, name, "--yes", status=1)
        assert f"podctl task cancel {name}" in refused.errors
    assert (await podctl.json("task", "show", name))["title"] == "A title"


async def test_a_task_that_no_worker_has_taken_up_is_exported_as_it_is(
    podctl_without_worker: CommandLine, unique: Callable[[str], str], tmp_path: Path
) -> None:
    name = unique("task")
    await podctl_without_worker("task", "create", "A title", "--id", name, "--as", "ann")
    written = await podctl_without_worker.json("export", name, "-f", str(tmp_path / "new.json"))
    assert (written["events"], written["closed"], written["missing_through"]) == (0, False, 0)
    assert (await podctl_without_worker.json("replay", str(tmp_path / "new.json")))["events"] == 0
    assert "there is no task" in (await podctl_without_worker("export", unique("other"), status=1)).errors


async def test_archiving_leaves_the_file_and_nothing_else(
    podctl: CommandLine, working: PodctlClient, finished: str, tmp_path: Path
) -> None:
    file = tmp_path / "archive.json"
    await closed(working, finished)
    asked = await podctl("task", "archive", finished, "-f", str(file), status=2)
    assert "say --yes" in asked.errors
    assert not file.exists()
    done = await podctl("task", "archive", finished, "-f", str(file), "--yes")
    assert "removes it" in done.errors
    await podctl("replay", str(file))
    await gone(working, finished)
    assert "there is no task" in (await podctl("task", "show", finished, status=1)).errors
    assert "there is no task" in (await podctl("export", finished, status=1)).errors
    assert "there is no task" in (await podctl("task", "delete", finished, "--yes", status=1)).errors


async def test_what_a_reset_left_beside_the_runs_is_archived_with_them(
    podctl: CommandLine, working: PodctlClient, unique: Callable[[str], str], tmp_path: Path
) -> None:
    name = unique("task")
    await podctl("task", "create", "A title", "--id", name, "--as", "ann")
    await podctl("signal", "message", name, "before")
    handle = working.temporal.get_workflow_handle(f"task-pod/{name}")
    history = await handle.fetch_history()
    done = EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
    reset = await working.temporal.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=working.temporal.namespace,
            workflow_execution=WorkflowExecution(workflow_id=handle.id),
            reason="a person made a mistake",
            workflow_task_finish_event_id=next(event.event_id for event in history.events if event.event_type == done),
            request_id="reset",
        )
    )
    await podctl("task", "cancel", name, "--reason", "enough")
    await closed(working, name)
    assert (await working.log(handle.id)).run_id == reset.run_id

    async def both_listed() -> bool:
        return len((await deletable(working, name)).runs) == 2

    await eventually(both_listed, "the server lists both runs")
    file = tmp_path / "archive.json"
    assert "1 run that a reset left beside" in (await podctl("task", "archive", name, "-f", str(file), status=2)).errors
    await podctl("task", "archive", name, "-f", str(file), "--yes")
    document = json.loads(file.read_text())
    assert [run["run_id"] for run in document["runs"]] == [reset.run_id]
    assert [run["run_id"] for run in document["beside"]] == [history.run_id]
    await podctl("replay", str(file))
    await gone(working, name)


async def test_only_what_stands_in_the_file_is_deleted(working: PodctlClient, finished: str) -> None:
    await closed(working, finished)
    export = await export_task(working, finished)
    assert archived(export) == await deletable(working, finished)
    assert archived(export.model_copy(update={"runs": ()})).runs == ()


async def test_deleting_says_what_it_does_and_asks(podctl: CommandLine, working: PodctlClient, finished: str) -> None:
    await closed(working, finished)
    asked = await podctl("task", "delete", finished, status=2)
    assert "say --yes" in asked.errors
    assert (await podctl.json("task", "show", finished))["phase"] == "completed"
    assert "(1 run) are deleted" in (await podctl("task", "delete", finished, "--yes")).output


async def closed(client: PodctlClient, task: str) -> None:
    async def is_closed() -> bool:
        return (await client.log(f"task-pod/{task}")).closed

    await eventually(is_closed, "the task is over")


async def gone(client: PodctlClient, task: str) -> None:
    async def is_gone() -> bool:
        try:
            await client.describe_task(task)
        except NotFound:
            return True
        return False

    # The server waits for its own queues before it deletes anything.
    await eventually(is_gone, "the task is deleted", patience=180)
