"""`podctl explain` and `podctl task send`: any command, as it is."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workflow.cli.support import CommandLine


@pytest.fixture
async def task(podctl: CommandLine, unique: Callable[[str], str]) -> str:
    name = unique("task")
    await podctl("task", "create", "A title", "--id", name, "--as", "ann")
    return name


async def test_the_example_that_explain_gives_works_as_it_stands(podctl: CommandLine, task: str) -> None:
    page = (await podctl("explain", "update_spec")).output
    assert "content <text> -required-" in page
    assert "stale_revision" in page
    [line] = [line for line in page.splitlines() if "podctl task send" in line]
    given = line.split("--json '")[1].removesuffix("'")
    done = await podctl("task", "send", task, "update_spec", "--json", given, "--as", "ann")
    assert done.output == f"task {task}: update_spec is carried out, by ann\n"
    assert (await podctl.json("task", "show", task))["spec"]["revision"] == 1


async def test_a_command_is_sent_with_options_or_from_a_file(podctl: CommandLine, task: str, tmp_path: Path) -> None:
    await podctl(
        "task", "send", task, "post_message", "--content", "hello", "--message-type", "question", "--as", "ann"
    )
    file = tmp_path / "command.json"
    file.write_text(json.dumps({"content": "from a file"}))
    report = await podctl.json("task", "send", task, "post_message", "-f", str(file), "--as", "bob")
    assert (report["command"], report["status"]) == ("post_message", "accepted")
    said = [(m["author"], m["content"]) for m in (await podctl.json("task", "show", task))["messages"].values()]
    assert said == [("ann", "hello"), ("bob", "from a file")]


async def test_what_cannot_be_sent_is_told_before_and_what_is_refused_after(podctl: CommandLine, task: str) -> None:
    assert "did you mean" in (await podctl("task", "send", task, "aprove_spec", status=2)).errors
    assert "not a person's" in (await podctl("task", "send", task, "run_stopped", "--run-id", "x", status=2)).errors
    refused = await podctl("task", "send", task, "approve_spec", status=1)
    assert refused.errors.startswith("error: spec_empty: ")
    assert "not_allowed" in (await podctl("task", "send", task, "evaluate", "--as", "podctl", status=1)).errors


async def test_explain_lists_every_command(podctl: CommandLine) -> None:
    rows = (await podctl("explain")).output.splitlines()
    listed = await podctl.json("explain")
    assert len(rows) == len(listed) + 1
    assert {"who", "phases"} & set(rows[0].lower().split())
    assert (await podctl.json("explain", "evaluate"))["senders"] == ["person"]
    assert "podctl explain lists them" in (await podctl("explain", "nothing", status=2)).errors
