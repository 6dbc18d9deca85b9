"""The tracker: owners say how far their items are; items come, change and go by action approval only."""

import re
from pathlib import Path
from typing import Any

import pytest

from domain.task.commands import (
    CommentItem,
    CreateTracker,
    GrantAction,
    RecordExternalState,
    RequestAction,
    SetEta,
    SetItemStatus,
)
from domain.task.models import ItemStatus, TaskState, TrackerPhase
from domain.task.plan_file import read_plan
from domain.task.tracker import COMMENTS_KEPT, ITEM_LIMIT, find_item, progress
from domain.task.tracker_file import read_tracker
from podctl.actions import read_action
from tests.unit.task.support import Driver, executing, plan

DOCS = Path(__file__).parents[3] / "docs"


def phase(name: str, *items: str | dict[str, Any]) -> TrackerPhase:
    """Return a phase; an item is its id, or all of it."""
    listed = [{"summary": "Do it", **({"item_id": item} if isinstance(item, str) else item)} for item in items]
    return TrackerPhase.model_validate({"phase_id": name, "name": name.title(), "items": listed})


def tracked() -> Driver:
    """Return a task with workstreams a and b, and a board: api (of a), docs (of b), party (of nobody)."""
    driver = executing("a", "b")
    items: list[str | dict[str, Any]] = [{"item_id": "api", "workstream_id": "a"}]
    driver.do(
        CreateTracker(
            phases=(phase("alpha", *items), phase("beta", {"item_id": "docs", "workstream_id": "b"}, "party"))
        )
    )
    return driver


def status(state: TaskState, item_id: str) -> ItemStatus:
    return find_item(state, item_id).status


def propose(driver: Driver, action: dict[str, Any]) -> str:
    """Propose an action and return its id."""
    driver.do(RequestAction.model_validate({"action": action}), by="bob")
    return list(driver.state.actions)[-1]


def board(state: TaskState) -> dict[str, list[str]]:
    assert state.tracker is not None
    return {phase.phase_id: [item.item_id for item in phase.items] for phase in state.tracker.phases}


def test_without_a_tracker_nothing_can_be_said_of_items() -> None:
    driver = executing("a")
    message = driver.refused("no_tracker", SetItemStatus(item_id="api", status="done"))
    assert "podctl tracker create t1" in message
    driver.refused("no_tracker", CommentItem(item_id="api", content="x"))
    driver.refused("no_tracker", SetEta(phase_id="alpha", eta="soon"))
    driver.refused("no_tracker", RequestAction.model_validate({"action": {"type": "remove_item", "item_id": "api"}}))


def test_a_task_has_one_tracker() -> None:
    driver = tracked()
    assert "action approval" in driver.refused("tracker_exists", CreateTracker(phases=(phase("again"),)))


def test_a_board_names_each_thing_once_and_known_owners() -> None:
    driver = executing("a")
    driver.refused("content_empty", CreateTracker(phases=()))
    driver.refused("too_many_phases", CreateTracker(phases=tuple(phase(f"p{number}") for number in range(51))))
    driver.refused("duplicate_item", CreateTracker(phases=(phase("alpha", "x"), phase("beta", "x"))))
    driver.refused("duplicate_phase", CreateTracker(phases=(phase("alpha"), phase("alpha"))))
    unknown = phase("alpha", {"item_id": "x", "workstream_id": "z"})
    assert "there are a" in driver.refused("workstream_not_found", CreateTracker(phases=(unknown,)))
    many = phase("alpha", *[f"i{number}" for number in range(ITEM_LIMIT + 1)])
    driver.refused("too_many_items", CreateTracker(phases=(many,)))
    driver.refused("content_too_long", CreateTracker(phases=(phase("a").model_copy(update={"summary": "x" * 2_001}),)))
    forged = {"comment_id": "c-1", "author": "eve", "content": "x", "posted_at": driver.now}
    commented = phase("alpha", {"item_id": "x", "comments": [forged]})
    driver.refused("comments_not_allowed", CreateTracker(phases=(commented,)))


def test_the_owner_alone_says_how_far_an_item_is() -> None:
    driver = tracked()
    message = driver.refused("not_owner", SetItemStatus(item_id="api", status="wip"))
    assert "'a'" in message
    driver.refused("not_owner", SetItemStatus(item_id="api", status="wip", workstream_id="b"))
    driver.refused("workstream_not_found", SetItemStatus(item_id="party", status="wip", workstream_id="z"))
    driver.do(SetItemStatus(item_id="api", status="wip", workstream_id="a"))
    assert status(driver.state, "api") == "wip"
    assert driver.events[-1].payload == {"item": "api", "before": "todo", "status": "wip", "workstream": "a"}


def test_a_workstream_that_is_only_planned_speaks_for_its_items() -> None:
    driver = Driver(plan("a"))
    driver.do(CreateTracker(phases=(phase("alpha", {"item_id": "api", "workstream_id": "a"}),)))
    driver.refused("not_owner", SetItemStatus(item_id="api", status="wip"))
    driver.do(SetItemStatus(item_id="api", status="wip", workstream_id="a"))
    assert status(driver.state, "api") == "wip"


def test_an_item_without_owner_may_be_changed_by_anyone() -> None:
    driver = tracked()
    driver.do(SetItemStatus(item_id="party", status="done"), by="carol")
    assert status(driver.state, "party") == "done"
    assert driver.state.tracker is not None
    assert progress(driver.state.tracker) == (1, 3)


def test_an_item_whose_owner_the_plan_has_dropped_is_nobodys() -> None:
    driver = tracked()
    assert driver.state.plan is not None
    rest = {"a": driver.state.plan.workstreams["a"]}
    driver.state = driver.state.model_copy(update={"plan": driver.state.plan.model_copy(update={"workstreams": rest})})
    driver.apply(SetItemStatus(item_id="docs", status="blocked"), by="carol")
    assert status(driver.state, "docs") == "blocked"


def test_a_status_that_holds_already_is_no_news() -> None:
    driver = tracked()
    assert driver.do(SetItemStatus(item_id="party", status="todo")) == ()


def test_unknown_items_are_named_beside_those_there_are() -> None:
    driver = tracked()
    assert "there are api, docs, party" in driver.refused("item_not_found", SetItemStatus(item_id="x", status="done"))
    assert "there are alpha, beta" in driver.refused("tracker_phase_not_found", SetEta(phase_id="x", eta="soon"))


def test_comments_are_kept_and_bounded() -> None:
    driver = tracked()
    driver.refused("content_empty", CommentItem(item_id="api", content=" \n"))
    driver.refused("content_too_long", CommentItem(item_id="api", content="x" * 2_001))
    for number in range(COMMENTS_KEPT + 2):
        driver.do(CommentItem(item_id="api", content=f"remark {number}"), by="carol")
    comments = find_item(driver.state, "api").comments
    assert [comment.content for comment in comments] == [f"remark {n}" for n in range(2, COMMENTS_KEPT + 2)]
    assert len({comment.comment_id for comment in comments}) == COMMENTS_KEPT
    assert comments[-1].author == "carol"


def test_an_eta_is_set_and_taken_back() -> None:
    driver = tracked()
    driver.do(SetEta(phase_id="beta", eta="next week"))
    assert driver.state.tracker is not None
    assert driver.state.tracker.phases[1].eta == "next week"
    driver.do(SetEta(phase_id="beta", eta=""))
    assert [e.payload["eta"] for e in driver.events if e.type == "tracker_eta_set"] == ["next week", ""]


def test_items_are_added_changed_moved_and_removed_once_that_is_granted() -> None:
    driver = tracked()
    adding = {"type": "add_item", "phase_id": "beta", "item": {"item_id": "film", "summary": "A film"}}
    action = propose(driver, adding)
    assert board(driver.state) == {"alpha": ["api"], "beta": ["docs", "party"]}
    driver.do(GrantAction(action_id=action, comment="yes"))
    assert board(driver.state)["beta"] == ["docs", "party", "film"]
    assert driver.state.actions[action].status == "done"
    changing = {"type": "update_item", "item_id": "film", "summary": "A short film", "workstream_id": "b"}
    driver.do(GrantAction(action_id=propose(driver, {**changing, "phase_id": "alpha"})))
    assert board(driver.state) == {"alpha": ["api", "film"], "beta": ["docs", "party"]}
    film = find_item(driver.state, "film")
    assert (film.summary, film.workstream_id) == ("A short film", "b")
    driver.do(GrantAction(action_id=propose(driver, {"type": "remove_item", "item_id": "docs"})))
    assert board(driver.state) == {"alpha": ["api", "film"], "beta": ["party"]}


def test_a_change_of_an_item_keeps_what_it_does_not_name() -> None:
    driver = tracked()
    driver.do(SetItemStatus(item_id="api", status="wip", workstream_id="a"))
    driver.do(CommentItem(item_id="api", content="begun"))
    driver.do(GrantAction(action_id=propose(driver, {"type": "update_item", "item_id": "api", "phase_id": "beta"})))
    api = find_item(driver.state, "api")
    assert (api.status, api.workstream_id, api.comments[0].content) == ("wip", "a", "begun")


@pytest.mark.parametrize(
    ("code", "action"),
    [
        ("item_not_found", {"type": "update_item", "item_id": "x", "summary": "y"}),
        ("item_not_found", {"type": "remove_item", "item_id": "x"}),
        ("nothing_to_change", {"type": "update_item", "item_id": "api"}),
        ("nothing_to_change", {"type": "update_item", "item_id": "api", "phase_id": "alpha"}),
        ("tracker_phase_not_found", {"type": "update_item", "item_id": "api", "phase_id": "x"}),
        ("workstream_not_found", {"type": "update_item", "item_id": "api", "workstream_id": "z"}),
        ("duplicate_item", {"type": "add_item", "phase_id": "beta", "item": {"item_id": "api", "summary": "x"}}),
        ("tracker_phase_not_found", {"type": "add_item", "phase_id": "x", "item": {"item_id": "n", "summary": "x"}}),
    ],
)
def test_what_cannot_be_done_is_not_even_proposed(code: str, action: dict[str, Any]) -> None:
    driver = tracked()
    driver.refused(code, RequestAction.model_validate({"action": action}))


def test_the_board_of_the_docs_fits_the_plan_of_the_docs() -> None:
    driver = Driver(read_plan((DOCS / "examples" / "plan.yaml").read_text(), "plan.yaml"))
    driver.do(read_tracker((DOCS / "examples" / "tracker.yaml").read_text(), "tracker.yaml"))
    assert board(driver.state) == {"first": ["changelog", "party"], "later": []}


def test_the_actions_of_the_docs_can_be_proposed_and_granted_one_after_the_other() -> None:
    driver = Driver(read_plan((DOCS / "examples" / "plan.yaml").read_text(), "plan.yaml"))
    driver.do(read_tracker((DOCS / "examples" / "tracker.yaml").read_text(), "tracker.yaml"))
    driver.do(RecordExternalState(state="open", url="https://example.org/pull/7"))
    (shown,) = re.findall(r"```json\n(.*?)```", (DOCS / "tracker.md").read_text(), re.DOTALL)
    for line in shown.splitlines():
        driver.do(RequestAction(action=read_action(line)))
        driver.do(GrantAction(action_id=list(driver.state.actions)[-1]))
    statuses = [action.status for action in driver.state.actions.values()]
    assert statuses == ["granted", "done", "done", "done", "granted"]
