"""Plans and settings that docs/tasks.md and docs/examples show are ones that podctl takes, and so are the commands."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from cli.main import app
from domain.task.config_file import read_config
from domain.task.models import CommandExecutor, TaskConfig
from domain.task.plan_file import read_plan
from domain.task.tracker_file import read_tracker

DOCS = Path(__file__).parents[3] / "docs"
PAGES = ("tasks.md", "programs.md", "tracker.md", "../README.md")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def test_the_settings_and_the_plan_of_the_page_are_taken() -> None:
    config, plan = blocks("tasks.md", "yaml")
    settings = read_config(config, "config.yaml")
    assert settings.escalate_to == "carl"
    assert isinstance(settings.agents.planner, CommandExecutor)
    assert {field for field in TaskConfig.model_fields if field not in config} == set(), "every setting is shown"
    assert [draft.id for draft in read_plan(plan, "plan.yaml").workstreams] == ["review", "publish"]


def test_the_files_of_the_examples_are_taken() -> None:
    for path in (DOCS / "examples").glob("*.yaml"):
        read = read_tracker if path.stem == "tracker" else read_plan
        assert read(path.read_text(encoding="utf-8"), path.name)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_a_page_shows_is_one(page: str) -> None:
    root = typer.main.get_command(app)
    lines = [line for block in blocks(page, "sh") for line in block.splitlines() if line.startswith("podctl ")]
    assert lines or page == "tracker.md"
    for line in lines:
        words = shlex.split(line.partition(" | ")[0], comments=True)[1:]
        command = root
        while hasattr(command, "commands") and words and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        assert command is not root, line
        options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        given = words[: words.index("--")] if "--" in words else words
        unknown = [
            word for word in given if word.startswith("-") and len(word) > 1 and word not in {*options, "--help"}
        ]
        assert unknown == [], line
