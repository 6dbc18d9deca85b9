"""`podctl workstream`, `podctl task move` and `evaluate`: one part of a task's work at a time."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from podctl.client import PodctlClient
from tests.workflow.cli.support import CommandLine

PLAN = """
summary: three parts
workstreams:
  - {id: first, title: First, executor: signal, description: Do this first}
  - {id: second, title: Second, depends_on: [first], executor: signal}
  - id: third
    title: Third
    depends_on: [second]
    executor: {type: command, argv: [echo, hello there], pod: nowhere}
"""


@pytest.fixture
async def task(podctl: CommandLine, unique: Callable[[str], str], tmp_path: Path) -> str:
    name = unique("task")
    spec, plan = tmp_path / "spec.md", tmp_path / "plan.yaml"
    spec.write_text("do it")
    plan.write_text(PLAN)
    await podctl("task", "create", "A title", "--id", name, "--spec", str(spec), "--plan", str(plan), "--as", "ann")
    return name


@pytest.fixture
async def working_task(podctl: CommandLine, task: str) -> str:
    """The task while the first of its workstreams is being done."""
    await podctl("signal", "approve-spec", task)
    await podctl("signal", "approve-plan", task)
    return task


async def statuses(podctl: CommandLine, task: str) -> dict[str, str]:
    return {view["id"]: view["status"] for view in await podctl.json("workstream", "list", task)}


async def test_before_the_plan_is_approved_they_are_planned(podctl: CommandLine, task: str) -> None:
    assert await statuses(podctl, task) == {"first": "planned", "second": "planned", "third": "planned"}
    shown = (await podctl("workstream", "show", task, "third")).output
    assert "echo 'hello there' on pod nowhere" in shown
    refused = await podctl("workstream", "start", task, "first", status=1)
    assert refused.errors.startswith("error: invalid_phase: ")
    unknown = await podctl("workstream", "show", task, "fourth", status=1)
    assert unknown.errors.startswith("error: workstream_not_found: ")
    assert "there are first, second, third" in unknown.errors


async def test_what_is_shown_of_them(podctl: CommandLine, working: PodctlClient, working_task: str) -> None:
    task = working_task
    assert await statuses(podctl, task) == {"first": "in_progress", "second": "pending", "third": "pending"}
    table = (await podctl("workstream", "list", task)).output
    assert "First" in table
    shown = (await podctl("workstream", "show", task, "first")).output
    assert "Do this first" in shown
    assert f"podctl signal workstream-result {task} first" in shown
    assert "waits for first" in (await podctl("workstream", "show", task, "second")).output
    await podctl("signal", "workstream-result", task, "first", "--result", "well\nthen", "--artifact", "a.txt")
    history = await working.temporal.get_workflow_handle(f"task-pod/{task}").fetch_history()
    signals = [event.workflow_execution_signaled_event_attributes for event in history.events]
    [report] = [json.loads(s.input.payloads[0].data) for s in signals if s.signal_name == "workstream-result"]
    assert report["attempt"] == 1, "the attempt that podctl saw is named"
    view = await podctl.json("workstream", "show", task, "first")
    assert (view["status"], view["result"]["text"], view["missing"]) == ("completed", "well\nthen", [])
    shown = (await podctl("workstream", "show", task, "first")).output
    assert "a.txt" in shown
    assert "then" in shown


async def test_they_are_interrupted_retried_and_left_out(podctl: CommandLine, working_task: str) -> None:
    task = working_task
    done = await podctl("workstream", "interrupt", task, "first", "--reason", "wrong way", "--as", "bob")
    assert done.output.startswith(f"task {task}: workstream first is interrupted")
    assert ", by bob\n" in done.output
    view = await podctl.json("workstream", "show", task, "first")
    assert view["status"] == "failed"
    assert "wrong way" in view["error"]
    assert (await statuses(podctl, task))["second"] == "blocked"
    report = await podctl.json("workstream", "retry", task, "first", "--as", "bob")
    assert (report["command"], report["by"], report["status"]) == ("retry_workstream", "bob", "accepted")
    assert (await podctl.json("workstream", "show", task, "first"))["attempt"] == 2
    stale = await podctl("signal", "workstream-result", task, "first", "--attempt", "1", status=1)
    assert stale.errors.startswith("error: stale_attempt: ")
    await podctl("workstream", "skip", task, "first", "--with-dependents", "--reason", "not now")
    assert await statuses(podctl, task) == dict.fromkeys(("first", "second", "third"), "skipped")
    again = await podctl("workstream", "skip", task, "first", status=1)
    assert again.errors.startswith("error: invalid_phase: ")
    assert "the task is in review" in again.errors


async def test_one_is_added_and_its_priority_changed(podctl: CommandLine, working_task: str) -> None:
    task = working_task
    add = ("workstream", "add", task)
    await podctl(*add, "fourth", "A fourth", "--after", "first", "--hours", "2", "--description", "More", "--as", "bob")
    view = await podctl.json("workstream", "show", task, "fourth")
    assert (view["depends_on"], view["estimated_hours"], view["executor"]) == (["first"], 2.0, {"type": "signal"})
    await podctl(
        *add, "fifth", "A fifth", "--after", "fourth", "--pod", "gpu1", "--timeout", "5", "--", "sh", "-c", "x"
    )
    executor = (await podctl.json("workstream", "show", task, "fifth"))["executor"]
    assert (executor["argv"], executor["pod"], executor["timeout_seconds"]) == (["sh", "-c", "x"], "gpu1", 5.0)
    await podctl("workstream", "priority", task, "fifth", "high")
    assert (await podctl.json("workstream", "show", task, "fifth"))["priority"] == "high"

    for arguments, code, status in (
        ((*add, "first", "Again"), "duplicate_workstream", 1),
        ((*add, "sixth", "S", "--after", "gone"), "unknown_dependency", 1),
        ((*add, "sixth", "S", "--pod", "gpu1"), "for a program", 2),
        ((*add, "../x", "S"), "id: ", 2),
        ((*add, "sixth", ""), "title: ", 2),
        (("workstream", "priority", task, "gone", "high"), "workstream_not_found", 1),
        (("workstream", "retry", task, "fourth"), "workstream_not_finished", 1),
        (("workstream", "start", task, "fourth"), "dependencies_not_satisfied", 1),
        (("workstream", "start", task, "first"), "workstream_not_pending", 1),
        (("workstream", "interrupt", task, "third"), "workstream_not_", 1),
    ):
        assert code in (await podctl(*arguments, status=status)).errors, arguments


async def test_a_task_is_moved_when_somebody_approves(podctl: CommandLine, working_task: str) -> None:
    task = working_task
    moved = await podctl("task", "move", task, "planning", "--reason", "the plan is wrong", "--as", "ann")
    assert "asked to move to planning; it does when somebody approves, by" in moved.output
    again = await podctl("task", "move", task, "planning", status=1)
    assert again.errors.startswith("error: transition_pending: ")
    await podctl("signal", "approve", task, "--as", "bob")
    assert (await podctl.json("task", "show", task))["phase"] == "planning"
    # The move back is not undone by the scheduler: somebody has to approve the plan again.
    assert "looked at again; it waits, by " in (await podctl("task", "evaluate", task)).output
    refused = await podctl("task", "move", task, "review", status=1)
    assert refused.errors.startswith("error: invalid_phase: ")
    assert "spec_clarification" in refused.errors
    assert (await podctl("task", "move", task, "nowhere", status=2)).errors
