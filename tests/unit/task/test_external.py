"""The pull request outside: asked for, merged only after a grant, and told of by whoever keeps the repository."""

from typing import Any

import pytest

from domain.task.commands import (
    CancelTask,
    GrantAction,
    InterruptAction,
    MergePullRequest,
    OpenDraftPullRequest,
    RecordExternalState,
    RejectAction,
    RequestMerge,
)
from domain.task.models import InboxItem, SyncState
from tests.unit.task.support import Driver, executing

URL = "https://example.org/pull/7"


def requested() -> Driver:
    """Return a task whose merge is proposed."""
    driver = executing("a")
    driver.do(OpenDraftPullRequest(title="Add it", branch="topic"))
    driver.do(RecordExternalState(state="draft", url=URL, number=7), by="keeper")
    driver.do(RequestMerge(reason="it is green"), by="bob")
    return driver


def waiting(driver: Driver) -> list[InboxItem]:
    return [item for item in driver.state.inbox.values() if item.waits]


def sync_state(driver: Driver) -> SyncState:
    return driver.state.external_sync.state


def tell(driver: Driver, state: Any, **fields: Any) -> None:  # noqa: ANN401 - any field
    driver.do(RecordExternalState(state=state, **fields), by="keeper")


def test_a_draft_is_asked_of_whoever_keeps_the_repository() -> None:
    driver = executing("a")
    driver.do(OpenDraftPullRequest(title="Add it", body="All of it.", branch="topic"))
    (item,) = waiting(driver)
    assert "from branch topic" in item.preview
    assert item.command == "podctl task send t1 record_external_state --state draft --url URL"
    assert "draft requested" in driver.refused("pull_request_exists", OpenDraftPullRequest(title="Another"))
    tell(driver, "draft", url=URL, number=7)
    sync = driver.state.external_sync
    assert (sync.state, sync.url, sync.number, sync.updated_by) == ("draft", URL, 7, "keeper")
    assert not waiting(driver)


def test_the_placeholder_of_the_inbox_is_no_address() -> None:
    driver = executing("a")
    driver.do(OpenDraftPullRequest(title="Add it"))
    assert "'URL'" in driver.refused("invalid_url", RecordExternalState(state="draft", url="URL"))
    driver.refused("invalid_url", RecordExternalState(state="draft", url="javascript:alert(1)"))


def test_what_is_asked_for_is_bounded() -> None:
    driver = executing("a")
    driver.refused("content_empty", OpenDraftPullRequest(title=" "))
    driver.refused("content_too_long", OpenDraftPullRequest(title="x" * 201))
    driver.refused("content_too_long", OpenDraftPullRequest(title="x", body="x" * 10_001))
    driver.refused("content_too_long", OpenDraftPullRequest(title="x", branch="x" * 201))
    driver.refused("content_too_long", RecordExternalState(state="open", url="x" * 2_001))
    driver.refused("content_too_long", RecordExternalState(state="open", detail="x" * 2_001))


def test_a_merge_needs_a_pull_request_a_grant_and_is_begun_by_one() -> None:
    driver = executing("a")
    driver.refused("no_pull_request", RequestMerge())
    driver.refused("merge_not_granted", MergePullRequest())
    driver = requested()
    assert sync_state(driver) == "merge_requested"
    driver.refused("merge_already_requested", RequestMerge())
    assert "action-1" in driver.refused("merge_not_granted", MergePullRequest())
    driver.do(GrantAction(action_id="action-1"), by="carol")
    (item,) = waiting(driver)
    assert item.command == "podctl task send t1 merge_pull_request"
    driver.do(MergePullRequest(), by="keeper")
    assert "keeper" in driver.refused("already_merging", MergePullRequest(), by="another")
    (item,) = waiting(driver)
    assert item.command == "podctl task send t1 record_external_state --state merged"
    tell(driver, "merged")
    assert sync_state(driver) == "merged"
    assert driver.state.actions["action-1"].status == "done"
    assert not waiting(driver)
    driver.refused("already_merged", RecordExternalState(state="open"))


def test_a_rejected_merge_leaves_the_pull_request_as_it_was() -> None:
    driver = requested()
    driver.do(RejectAction(action_id="action-1", comment="not yet"))
    assert sync_state(driver) == "draft"
    driver.do(RequestMerge())
    assert sync_state(driver) == "merge_requested"


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("state", ["closed", "merged"])
def test_what_happens_outside_ends_a_granted_merge(begun: bool, state: str) -> None:
    driver = requested()
    driver.do(GrantAction(action_id="action-1"))
    if begun:
        driver.do(MergePullRequest())
    tell(driver, state, detail="by hand")
    assert sync_state(driver) == state
    assert driver.state.actions["action-1"].status == ("done" if state == "merged" else "failed")
    assert not waiting(driver)


def test_a_merge_that_did_not_succeed_may_be_asked_for_again() -> None:
    driver = requested()
    driver.do(GrantAction(action_id="action-1"))
    driver.do(MergePullRequest())
    tell(driver, "open", detail="conflicts")
    failed = driver.state.actions["action-1"]
    assert (failed.status, failed.error) == ("failed", "the pull request is open: conflicts")
    driver.do(RequestMerge())
    driver.do(GrantAction(action_id="action-2"))
    assert driver.state.actions["action-2"].status == "granted"


def test_a_proposal_to_merge_stands_while_the_pull_request_is_open() -> None:
    driver = requested()
    tell(driver, "open")
    assert sync_state(driver) == "merge_requested"
    driver.do(RejectAction(action_id="action-1"))
    assert sync_state(driver) == "open"


def test_a_proposal_to_merge_what_is_merged_already_is_withdrawn() -> None:
    driver = requested()
    tell(driver, "merged")
    assert driver.state.actions["action-1"].status == "rejected"
    assert not waiting(driver)
    assert not list(driver.state.open_approvals())


def test_the_same_told_twice_is_no_news() -> None:
    driver = requested()
    tell(driver, "open", url=URL)
    count = len(driver.events)
    tell(driver, "open", url=URL)
    assert len(driver.events) == count


def test_a_closed_pull_request_may_be_followed_by_another() -> None:
    driver = requested()
    tell(driver, "closed")
    driver.do(OpenDraftPullRequest(title="Once more"))
    sync = driver.state.external_sync
    assert (sync.state, sync.url, sync.number) == ("draft_requested", "", None)


def test_cancelling_ends_a_granted_merge() -> None:
    driver = requested()
    driver.do(GrantAction(action_id="action-1"))
    driver.do(CancelTask())
    assert driver.state.actions["action-1"].status == "interrupted"
    assert sync_state(driver) == "draft"


def test_a_granted_merge_that_nobody_does_may_be_ended() -> None:
    driver = requested()
    driver.do(GrantAction(action_id="action-1"))
    driver.do(InterruptAction(action_id="action-1"))
    assert sync_state(driver) == "draft"
    assert not waiting(driver)
    driver.do(RequestMerge())
