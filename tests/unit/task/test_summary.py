"""What the Temporal Web UI and list view show of a task."""

import json

from domain.entity import record_refusal
from domain.errors import Rejected
from domain.task.commands import (
    ApprovePlan,
    ApproveSpec,
    CancelTask,
    CreateTracker,
    FailWorkstream,
    GiveApproval,
    MarkRead,
    PostMessage,
    RegisterAgent,
    Reject,
    RequestAction,
    RequestApproval,
)
from domain.task.details import summary_markdown
from domain.task.models import AgentType, ModelServerDraft, RemoveItem, TrackerItem, TrackerPhase
from domain.task.schedule import WakeAt
from domain.task.summary import listed_items, memo, search_values
from tests.unit.task.support import START, Driver, command, executing, plan, serving


def test_the_memo_says_what_waits_without_a_worker() -> None:
    driver = Driver(plan("a", "b"))
    assert memo(driver.state) == {
        "title": "A task",
        "phase": "spec_clarification",
        "spec_revision": 1,
        "plan_revision": 1,
        "review_revision": 0,
        "waits_for": [],
        "inbox": [
            {
                "item": "approve/spec/1/0",
                "recipient": "ann",
                "kind": "needs_approval",
                "preview": "spec revision 1 waits for approval",
                "command": "podctl signal approve-spec t1",
                "created_at": "2026-03-01T12:00:00+00:00",
            }
        ],
        "inbox_count": 1,
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
        "inbox": (),
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
    assert "| a | A | in progress | 1 |  | gpu1 |" in shown
    assert "| b | B | pending |  | a |  |" in shown
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


def test_the_memo_lists_the_most_urgent_items_and_at_least_one_for_each_recipient() -> None:
    driver = executing("a", escalate_after_seconds=60, escalate_to="boss")
    driver.do(PostMessage(content="question 0", message_type="question"))
    driver.later(61)
    for number in range(1, 15):
        driver.do(PostMessage(content=f"question {number}", message_type="question"))
    driver.do(PostMessage(content="are you sure?", message_type="question", thread_id="m-2"), by="bob")
    driver.do(PostMessage(content="is it?", message_type="question", thread_id="m-16"), by="eve")
    listed = listed_items(driver.state)
    assert len(listed) == 10
    assert [item.recipient for item in listed if item.escalated_at] == ["boss"]
    assert listed[0].recipient == "boss"
    assert {item.recipient for item in listed} == {"boss", "ann", "bob"}
    assert memo(driver.state)["inbox_count"] == len(driver.state.inbox) == 15
    assert set(search_values(driver.state).inbox) == {"boss", "ann", "bob"}


def test_news_takes_little_room_in_the_memo_and_the_newest_stays() -> None:
    driver = executing(*[f"w{number}" for number in range(9)])
    driver.complete(*[f"w{number}" for number in range(8)])
    listed = listed_items(driver.state)
    assert [item.workstream_id for item in listed] == ["w5", "w6", "w7"]
    assert memo(driver.state)["inbox_count"] == 8
    driver.do(MarkRead(ids=("completed/w7/1",)))
    assert [item.workstream_id for item in listed_items(driver.state)] == ["w4", "w5", "w6"]


def test_what_is_read_comes_after_what_is_not() -> None:
    driver = Driver(plan("a"))
    driver.do(PostMessage(content="really?", message_type="question"))
    driver.do(MarkRead(ids=("approve/spec/1/0",)))
    assert [(item.kind.value, item.read) for item in listed_items(driver.state)] == [
        ("question_asked", False),
        ("needs_approval", True),
    ]


def test_a_search_attribute_never_outgrows_what_temporal_takes() -> None:
    servers = tuple(
        ModelServerDraft(name=f"s{n}", model=f"org/{'m' * 60}-{n:03}", pod=f"{'p' * 50}-{n:03}") for n in range(45)
    )
    driver = Driver(plan("a").model_copy(update={"model_servers": servers}))
    values = search_values(driver.state)
    for value in (values.models, values.gpu_pods):
        assert 1_900 < len(json.dumps(value)) <= 2_048


def test_the_summary_says_who_decided_what_with_which_comment_and_links_pods() -> None:
    driver = Driver(plan(command("a", server="coder"), servers=["coder"]))
    driver.do(Reject(gate="spec", comment="say | how"), by="bob")
    assert "| spec revision 1 | sent back | bob | 2026-03-01 12:00:00 | say \\| how |" in summary_markdown(driver.state)
    driver.do(ApproveSpec(revision=1, comment="now it is clear"), by="eve")
    driver.do(ApprovePlan(), by="ann")
    driver.do(RequestApproval(content="red or blue?", options=("red", "blue")), by="bob")
    driver.do(GiveApproval(message_id="m-2", choice="blue", comment="like the sky"), by="ann")
    shown = summary_markdown(driver.state, "some space")
    for line in (
        "| spec revision 1 | approved | eve | 2026-03-01 12:00:00 | now it is clear |",
        "| plan revision 1, not named | approved | ann | 2026-03-01 12:00:00 |  |",
        "| m-2: red or blue? | blue | ann | 2026-03-01 12:00:00 | like the sky |",
        "| coder | org/model | [gpu1](/namespaces/some%20space/workflows/gpu-pod%2Fgpu1) | wanted |",
    ):
        assert line in shown


def test_the_summary_shows_agents_tracker_and_actions() -> None:
    driver = executing("a")
    driver.do(RegisterAgent(agent_id="writer", agent_type=AgentType.WORKSTREAM, workstream_id="a"), by="writer")
    item = TrackerItem(item_id="leaflet", summary="A leaflet", status="wip")
    driver.do(CreateTracker(phases=(TrackerPhase(phase_id="p1", name="Print", eta="May", items=(item,)),)))
    driver.do(RequestAction(action=RemoveItem(item_id="leaflet"), reason="no money"))
    shown = summary_markdown(driver.state)
    for line in (
        "| writer | workstream of a | running |  |",
        "| Print | 0 of 1 | May | leaflet |",
        "| action-1 | remove item (no money) | requested |  |",
    ):
        assert line in shown


def test_a_timer_says_what_it_is_for() -> None:
    driver = Driver(plan("a"), escalate_after_seconds=60)
    assert [action.reason for action in driver.actions() if isinstance(action, WakeAt)] == [
        "approve/spec/1/0 is escalated"
    ]
    driver = executing(command("a"), failure_cooldown_seconds=(5.0,))
    driver.do(FailWorkstream(ws_id="a", error="it broke", recoverable=True, attempt=1), by="podctl")
    assert [action.reason for action in driver.actions() if isinstance(action, WakeAt)] == ["a is tried again"]
