"""What programs are told of their task."""

from domain.task.briefing import briefing_for_run
from domain.task.commands import CompleteWorkstream, FailWorkstream, GrantAction, RequestAction
from domain.task.models import CommandExecutor, Result, RunAction
from tests.unit.task.support import command, executing


def test_a_workstream_is_told_what_it_is_and_what_it_depends_on_came_to() -> None:
    driver = executing("a", command("b", "a"))
    driver.do(CompleteWorkstream(ws_id="a", result=Result(text="found it", artifacts=("a.md",))))
    told = briefing_for_run(driver.state, "t1/b/1")
    assert told == {
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
    told = briefing_for_run(driver.state, f"t1/_{action_id}/1")
    assert told is not None
    assert told["action"] == {"id": action_id, "reason": "it is ready", "comment": "go on"}


def test_a_run_that_is_no_longer_wanted_is_told_nothing() -> None:
    driver = executing(command("a"))
    assert briefing_for_run(driver.state, "t1/a/1") is not None
    driver.do(FailWorkstream(ws_id="a", error="no luck"))
    assert briefing_for_run(driver.state, "t1/a/1") is None
