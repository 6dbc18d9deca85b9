"""`podctl agents`: who works on a task from outside reports, asks, is talked to, and is ended."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.workflow.cli.support import CommandLine
from tests.workflow.support import eventually

PLAN = """
workstreams:
  - {id: first, title: First, executor: signal}
  - {id: second, title: Second, executor: signal}
"""
CONFIG = "agents: {spec_writer: signal, planner: signal, reviewer: signal}\n"


@pytest.fixture
async def task(podctl: CommandLine, unique: Callable[[str], str], tmp_path: Path) -> str:
    """A task without spec or plan, whose writers work outside."""
    name = unique("task")
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    await podctl("task", "create", "A title", "--id", name, "--config", str(config), "--as", "ann")
    return name


async def agents(podctl: CommandLine, task: str) -> dict[str, Any]:
    return {agent["agent_id"]: agent for agent in await podctl.json("agents", "list", task)}


async def test_agents_outside_write_spec_plan_and_report(podctl: CommandLine, task: str, tmp_path: Path) -> None:
    [(writer, record)] = (await agents(podctl, task)).items()
    assert (record["agent_type"], record["status"]) == ("spec_writer", "running")
    # What its inbox says to type is what is typed.

    async def listed() -> list[dict[str, Any]]:
        return [row for row in await podctl.json("inbox", "--as", "ann") if row["task"] == task]

    [item] = await eventually(listed, "the server's list has it")
    assert item["command"] == f"podctl agents done {task} {writer} --file FILE"
    assert f"said to {writer}" in (await podctl("agents", "message", task, writer, "she wants it short")).output
    spec = tmp_path / "spec.md"
    spec.write_text("# What is wanted\n\nA leaflet.\n")
    report = await podctl.json("agents", "done", task, writer, "--file", str(spec), "--as", writer)
    assert (report["signal"], report["status"]) == ("agent-result", "accepted")
    late = await podctl("agents", "fail", task, writer, "too late", status=1)
    assert late.errors.startswith("error: agent_not_running: ")
    await podctl("signal", "approve-spec", task)

    planner = next(name for name, agent in (await agents(podctl, task)).items() if agent["status"] == "running")
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN.replace("id: second", "id: first"))
    assert f"{plan}:4:" in (await podctl("agents", "done", task, planner, "--plan", str(plan), status=2)).errors
    plan.write_text(PLAN)
    await podctl("agents", "done", task, planner, "--plan", str(plan))
    await podctl("signal", "approve-plan", task)
    for name in ("first", "second"):
        await podctl("signal", "workstream-result", task, name)

    reviewer = next(name for name, agent in (await agents(podctl, task)).items() if agent["status"] == "running")
    await podctl("agents", "done", task, reviewer, "--text", "All of it is there.")
    shown = await podctl.json("task", "show", task)
    assert shown["review"]["report"] == "All of it is there."
    await podctl("signal", "approve-review", task)
    assert (await podctl.json("task", "show", task))["phase"] == "completed"
    assert "completed" in (await podctl("agents", "list", task)).output


async def test_an_agent_that_fails_or_is_interrupted_is_tried_again(podctl: CommandLine, task: str) -> None:
    [writer] = await agents(podctl, task)
    await podctl("agents", "interrupt", task, writer, "--reason", "wrong model", "--as", "bob")
    ended = (await agents(podctl, task))[writer]
    assert ended["status"] == "interrupted"
    assert "interrupted by bob: wrong model" in ended["error"]
    await podctl("agents", "restart", task, writer, "--instructions", "use the large one")
    await podctl("task", "evaluate", task)
    again = next(name for name, agent in (await agents(podctl, task)).items() if agent["status"] == "running")
    assert again != writer
    assert (await agents(podctl, task))[again]["instructions"] == "use the large one"
    busy = await podctl("agents", "unregister", task, again, status=1)
    assert busy.errors.startswith("error: agent_running: ")
    await podctl("agents", "fail", task, again, "no idea")
    assert (await agents(podctl, task))[again]["status"] == "failed"
    await podctl("agents", "unregister", task, writer)
    assert writer not in await agents(podctl, task)
    unknown = await podctl("agents", "restart", task, "nobody", status=1)
    assert unknown.errors.startswith("error: agent_not_found: ")
    assert again in unknown.errors


async def test_an_agent_registers_for_a_workstream(
    podctl: CommandLine, unique: Callable[[str], str], tmp_path: Path
) -> None:
    task = unique("task")
    spec, plan = tmp_path / "spec.md", tmp_path / "plan.yaml"
    spec.write_text("do it")
    plan.write_text(PLAN)
    given = ("--spec", str(spec), "--plan", str(plan), "--gates", "spec=auto,plan=auto")
    await podctl("task", "create", "A title", "--id", task, *given)
    assert "has no agents" in (await podctl("agents", "list", task)).output
    await podctl("agents", "register", task, "coder-1", "--workstream", "first", "--as", "coder-1")
    assert (await podctl.json("workstream", "show", task, "first"))["agent_id"] == "coder-1"
    for arguments, code, status in (
        (("coder-1", "--workstream", "first"), "duplicate_agent", 1),
        (("coder-2", "--workstream", "first"), "agent_running", 1),
        (("coder-2",), "wrong_agent_type", 1),
        (("coder-2", "--type", "planner"), "invalid_phase", 1),
        (("a/b", "--workstream", "second"), "agent_id", 2),
        (("coder-2", "--workstream", "gone"), "workstream_not_found", 1),
    ):
        refused = await podctl("agents", "register", task, *arguments, status=status)
        assert code in refused.errors, arguments
    await podctl("agents", "done", task, "coder-1", "--text", "written")
    view = await podctl.json("workstream", "show", task, "first")
    assert (view["status"], view["result"]["text"]) == ("completed", "written")
    await podctl("agents", "register", task, "coder-2", "--workstream", "second")
    await podctl("agents", "interrupt", task, "coder-2")
    assert (await podctl.json("workstream", "show", task, "second"))["status"] == "failed"
