"""What programs are told of their task."""

import json
import re
from pathlib import Path
from typing import Any

from domain.task.briefing import briefing_for_run
from domain.task.commands import CompleteWorkstream, FailWorkstream, GrantAction, RequestAction
from domain.task.config_file import read_config
from domain.task.models import CommandExecutor, Result, RunAction
from tests.unit.task.support import Driver, command, executing

DOCUMENT = (Path(__file__).parents[3] / "docs" / "agents.md").read_text(encoding="utf-8")


def documented(field: str) -> set[str]:
    """Return the names that the page of agents lists of a field."""
    [row] = re.findall(rf"^\| `{field}` \|(.*)\|$", DOCUMENT, re.MULTILINE)
    return set(re.findall(r"`(\w+)`", row))


def told_of(driver: Driver, run_id: str) -> dict[str, Any]:
    """Return what the program of a run reads."""
    told: dict[str, Any] = json.loads(json.dumps(briefing_for_run(driver.state, run_id)))
    return told


def test_a_workstream_is_told_what_it_is_and_what_it_depends_on_came_to() -> None:
    driver = executing("a", command("b", "a"))
    driver.do(CompleteWorkstream(ws_id="a", result=Result(text="found it", artifacts=("a.md",))))
    assert told_of(driver, "t1/b/1") == {
        "task": "t1",
        "title": "A task",
        "phase": "workstream_execution",
        "spec": {"revision": 1, "content": "build it", "requirements": [], "acceptance_criteria": []},
        "plan": {"revision": 1, "summary": ""},
        "feedback": {},
        "workstream": {
            "id": "b",
            "title": "B",
            "description": "",
            "attempt": 1,
            "dependencies": [
                {"id": "a", "title": "A", "status": "completed", "result": "found it", "artifacts": ["a.md"]}
            ],
        },
    }


def test_an_action_is_told_why_it_was_proposed_and_granted() -> None:
    driver = executing("a")
    action = RunAction(executor=CommandExecutor(argv=("publish",), pod="gpu1"))
    driver.do(RequestAction(action=action, reason="it is ready"))
    [action_id] = driver.state.actions
    driver.do(GrantAction(action_id=action_id, comment="go on"))
    told = told_of(driver, f"t1/_{action_id}/1")
    assert told["action"] == {"id": action_id, "reason": "it is ready", "comment": "go on"}


def test_a_run_that_is_no_longer_wanted_is_told_nothing() -> None:
    driver = executing(command("a"))
    assert briefing_for_run(driver.state, "t1/a/1") is not None
    driver.do(FailWorkstream(ws_id="a", error="no luck"))
    assert briefing_for_run(driver.state, "t1/a/1") is None


def test_the_page_of_agents_lists_every_field() -> None:
    reviewer = {"type": "command", "argv": ["review"], "pod": "gpu1"}
    driver = executing(command("a"), command("b", "a"), agents={"reviewer": reviewer})
    driver.do(CompleteWorkstream(ws_id="a", result=Result(text="found it")))
    told = told_of(driver, "t1/b/1")
    assert documented("workstream") == told["workstream"].keys() | told["workstream"]["dependencies"][0].keys()
    assert documented("spec") == told["spec"].keys()
    driver.do(CompleteWorkstream(ws_id="b"))
    told = told_of(driver, "t1/_reviewer-1/1")
    assert documented("agent") == told["agent"].keys() | told["agent"]["results"][0].keys()
    assert documented("plan") - {"null"} == told["plan"].keys()
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", DOCUMENT, re.MULTILINE)
    assert told.keys() <= set(re.findall(r"`(\w+)`", " ".join(rows)))


def test_the_settings_of_the_page_of_agents_can_be_used() -> None:
    [settings] = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)
    config = read_config(settings, "agents.md").model_dump()
    driver = Driver(None, None, **config)
    assert [agent.agent_id for agent in driver.state.agents.values()] == ["spec-writer-1"]
