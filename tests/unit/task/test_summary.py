"""What the Temporal Web UI and list view show of a task."""

from domain.entity import record_refusal
from domain.errors import Rejected
from domain.task.commands import CancelTask, FailWorkstream
from domain.task.summary import memo, search_values, summary_markdown
from tests.unit.task.support import START, Driver, command, executing, plan, serving


def test_the_memo_says_what_waits_without_a_worker() -> None:
    driver = Driver(plan("a", "b"))
    assert memo(driver.state) == {
        "title": "A task",
        "phase": "spec_clarification",
        "spec_revision": 1,
        "plan_revision": 1,
        "review_revision": 0,
        "waits_for": ["spec revision 1 waits for approval: podctl signal approve-spec t1"],
        "needs_approval": True,
        "progress": "0/2",
        "refused": 0,
    }


def test_search_values_name_phase_pods_and_models() -> None:
    driver = serving(command("a", server="coder"), "b")
    values = search_values(driver.state)
    assert values.model_dump() == {
        "phase": "workstream_execution",
        "needs_approval": False,
        "gpu_pods": ("gpu1",),
        "models": ("org/model",),
    }
    driver.do(FailWorkstream(ws_id="a", error="it broke"))
    assert search_values(driver.state).needs_approval


def test_the_summary_shows_phase_waits_workstreams_servers_and_refusals() -> None:
    driver = serving(command("a", server="coder"), "b: a")
    state, _ = record_refusal(
        driver.state, Rejected("spec_empty", "no | spec"), command_id="x", command="approve-spec", by="bob", now=START
    )
    shown = summary_markdown(state)
    assert "**workstream execution** · 0 of 2 workstreams done" in shown
    assert "- workstream a runs on pod gpu1 (attempt 1): `podctl task logs t1 a -f`" in shown
    assert "| a | A | in progress | 1 |  |" in shown
    assert "| b | B | pending |  | a |" in shown
    assert "| coder | org/model | gpu1 | ready |" in shown
    assert "`spec_empty` `no | spec`" in shown


def test_a_cancelled_task_says_who_and_why() -> None:
    driver = executing("a")
    driver.do(CancelTask(reason="*enough*"), by="bob")
    assert "Cancelled by bob: \\*enough\\*" in summary_markdown(driver.state)


def test_hundreds_of_workstreams_are_counted_not_listed() -> None:
    driver = executing(*[f"w{number}" for number in range(300)])
    shown = summary_markdown(driver.state)
    assert "297 pending, 3 in progress" in shown
    assert "and 240 more: `podctl task show t1`" in shown
    assert len(shown) < 10_000
