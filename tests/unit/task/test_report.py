"""The review's report: written while the work is judged, and part of what an approval is of."""

import pytest

from domain.errors import Rejected
from domain.task.change import Change
from domain.task.commands import ApproveReview, ApproveTransition, Evaluate, RequestTransition
from domain.task.documents import REPORT_LIMIT, write_report
from domain.task.models import Phase
from tests.unit.task.support import Driver, executing


def report(driver: Driver, text: str, by: str = "rita") -> None:
    change = Change(driver.state, command_id="report", by=by, now=driver.now)
    write_report(change, text)
    driver.state = change.state
    driver.events.extend(change.events)


def reviewing() -> Driver:
    driver = executing("a")
    driver.complete("a")
    assert driver.phase() is Phase.REVIEW
    return driver


def test_a_report_is_written_and_the_approval_is_of_it() -> None:
    driver = reviewing()
    without = driver.state.review.digest
    report(driver, "# Fine")
    written = driver.state.review
    assert (written.report, written.reported_by, written.revision, written.report_revision) == ("# Fine", "rita", 2, 1)
    assert written.digest != without
    report(driver, "# Fine indeed")
    assert driver.state.review.report_revision == 2
    assert driver.events[-1].payload["bytes"] == len("# Fine indeed")
    driver.refused("stale_revision", ApproveReview(revision=2))
    driver.do(ApproveReview(revision=3))
    approved = next(event for event in driver.events if event.type == "review_approved")
    assert approved.payload["digest"] == driver.state.review.digest


def test_another_review_begins_without_a_report() -> None:
    driver = reviewing()
    report(driver, "# Missing tests")
    driver.do(RequestTransition(to=Phase.WORKSTREAM_EXECUTION, reason="tests are missing"))
    driver.do(ApproveTransition())
    driver.do(Evaluate())
    assert driver.phase() is Phase.REVIEW
    assert (driver.state.review.report, driver.state.review.report_revision) == ("", 1)
    assert driver.state.review.revision == 3


@pytest.mark.parametrize(
    ("text", "code"), [(" \n", "report_empty"), ("x" * (REPORT_LIMIT + 1), "content_too_long")], ids=["empty", "long"]
)
def test_what_is_no_report_is_refused(text: str, code: str) -> None:
    with pytest.raises(Rejected) as caught:
        report(reviewing(), text)
    assert caught.value.code == code


def test_there_is_no_report_outside_of_a_review() -> None:
    with pytest.raises(Rejected, match="invalid_phase"):
        report(executing("a"), "# Fine")
