"""The model servers of a task: attached when work begins, waited for, released when nobody needs them."""

import pytest

from domain.task.commands import (
    Approve,
    ApprovePlan,
    ApproveReview,
    ApproveTransition,
    CancelTask,
    FailWorkstream,
    ReleaseServer,
    ReopenPlan,
    RequestTransition,
    RetryWorkstream,
    ServerAttached,
    ServerAttachFailed,
    ServerChanged,
    ServerReleased,
    StartWorkstream,
    UpdatePlan,
)
from domain.task.models import Phase, Result, RunResult, ServerStatus
from domain.task.schedule import AttachServer, DetachServer, is_settled
from domain.task.waits import waits_for
from tests.unit.task.support import Driver, command, executing, plan, serving

EXITED = Result(run=RunResult(exit_code=2))


def server_status(driver: Driver) -> str:
    return driver.state.servers["coder"].status.value


def test_a_plans_servers_are_attached_when_work_begins() -> None:
    driver = executing(command("a", server="coder"), "b", servers=["coder"])
    (attach,) = (action for action in driver.actions() if isinstance(action, AttachServer))
    assert (attach.key, attach.server.model, attach.server.pod) == ("attach/coder", "org/model", "gpu1")
    assert driver.statuses() == {"a": "pending", "b": "in_progress"}
    driver.do(ServerAttached(name="coder"))
    assert driver.wanted() == []
    assert any("model server coder on pod gpu1 (attached)" in reason for reason in waits_for(driver.state))


def test_a_command_starts_only_when_its_server_is_ready() -> None:
    driver = executing(command("a", server="coder"), servers=["coder"])
    driver.server("loading")
    assert "loading" in driver.refused("server_not_ready", StartWorkstream(ws_id="a"))
    driver.server("ready")
    assert driver.wanted() == ["run/t1/a/1"]
    driver.server("unreachable")
    assert driver.wanted() == ["run/t1/a/1"]


def test_what_the_pod_says_is_newer_than_the_attachments_outcome() -> None:
    driver = executing(command("a", server="coder"), servers=["coder"])
    driver.server("ready")
    driver.do(ServerAttached(name="coder"))
    assert server_status(driver) == "ready"


def test_every_change_is_an_event_and_a_repetition_is_none() -> None:
    driver = executing("a", servers=["coder"])
    driver.server("loading")
    driver.server("loading")
    driver.server("ready")
    told = [event for event in driver.event_types() if event.startswith("model_server")]
    assert told == ["model_server_wanted", "model_server_loading", "model_server_ready"]


@pytest.mark.parametrize("down", ["failed", "stopped", "lost", "memory_unexplained"])
def test_a_server_that_is_down_is_asked_about_once(down: str) -> None:
    driver = executing(command("a", server="coder"), servers=["coder"])
    driver.server(down, detail="CUDA out of memory")
    driver.server(down, detail="CUDA out of memory, still")
    (message,) = driver.state.messages.values()
    assert "CUDA out of memory" in message.content
    assert any("--choice retry" in reason for reason in waits_for(driver.state))
    driver.do(Approve(choice="retry"))
    assert server_status(driver) == "wanted"
    assert driver.wanted() == ["attach/coder"]


def test_a_server_that_comes_back_ends_the_question() -> None:
    driver = executing(command("a", server="coder"), servers=["coder"])
    driver.server("failed")
    driver.server("loading")
    assert not list(driver.state.open_approvals())


def test_an_attachment_that_is_refused_is_asked_about() -> None:
    driver = executing(command("a", server="coder"), servers=["coder"])
    driver.do(ServerAttachFailed(name="coder", code="unknown_pod", message="there is no pod gpu1"))
    assert "there is no pod gpu1 (unknown_pod)" in waits_for(driver.state)[0]
    driver.do(Approve(choice="cancel"))
    assert driver.phase() is Phase.CANCELLED


def test_reports_have_to_fit() -> None:
    driver = executing("a", servers=["coder"])
    ready = ServerStatus.READY
    assert "coder" in driver.refused("server_not_found", ServerChanged(name="x", pod="gpu1", status=ready))
    driver.refused("server_not_found", ServerChanged(name="coder", pod="gpu2", status=ready))
    driver.refused("invalid_status", ServerChanged(name="coder", pod="gpu1", status=ready))
    released = ServerChanged(name="coder", pod="gpu1", status=ServerStatus.RELEASED)
    driver.refused("invalid_status", released)


def test_servers_are_released_when_the_work_is_done() -> None:
    driver = serving(command("a", server="coder"))
    driver.complete("a")
    assert driver.phase() is Phase.REVIEW
    assert "detach/coder" in driver.wanted()
    driver.do(ServerReleased(name="coder"))
    driver.server("stopped")
    assert server_status(driver) == "released"
    assert not driver.state.messages
    driver.do(ApproveReview())
    assert driver.phase() is Phase.COMPLETED


def test_a_released_server_is_wanted_again_for_work_that_is_taken_up_again() -> None:
    driver = serving(command("a", server="coder"))
    driver.complete("a")
    driver.stopped()
    driver.do(ServerReleased(name="coder"))
    driver.do(RequestTransition(to=Phase.WORKSTREAM_EXECUTION))
    driver.do(ApproveTransition())
    assert server_status(driver) == "released"
    driver.do(RetryWorkstream(ws_id="a"))
    assert "attach/coder" in driver.wanted()


def test_a_release_under_way_when_work_is_taken_up_again_does_not_lose_the_server() -> None:
    driver = serving(command("a", server="coder"))
    driver.complete("a")
    assert "detach/coder" in driver.wanted()
    driver.stopped()
    driver.do(RequestTransition(to=Phase.WORKSTREAM_EXECUTION))
    driver.do(ApproveTransition())
    driver.do(RetryWorkstream(ws_id="a"))
    driver.do(ServerReleased(name="coder"))
    assert server_status(driver) == "wanted"


def test_a_server_that_is_being_released_is_written_down_as_that_and_no_attempt_starts_with_it() -> None:
    driver = serving(command("a", server="coder"))
    driver.do(FailWorkstream(ws_id="a", attempt=1, error="exit code 2", result=EXITED))
    assert server_status(driver) == "releasing"
    assert driver.wanted() == ["detach/coder"]
    # The pod may have let go of it already, and tells the task of it no more: what it told before does not count.
    driver.do(RetryWorkstream(ws_id="a"))
    driver.server("ready")
    assert server_status(driver) == "releasing"
    assert driver.wanted() == ["detach/coder"]
    assert "releasing" in driver.refused("server_not_ready", StartWorkstream(ws_id="a"))
    assert any("model server coder on pod gpu1 is being released" in reason for reason in waits_for(driver.state))
    driver.do(ServerReleased(name="coder"))
    assert (server_status(driver), driver.wanted()) == ("wanted", ["attach/coder"])
    driver.server("ready")
    assert driver.wanted() == ["run/t1/a/2"]


def test_a_server_is_released_as_often_as_it_was_wanted() -> None:
    driver = serving(command("a", server="coder"))
    for attempt in (1, 2, 3):
        driver.do(FailWorkstream(ws_id="a", attempt=attempt, error="exit code 2", result=EXITED))
        assert driver.wanted() == ["detach/coder"]
        driver.do(ServerReleased(name="coder"))
        driver.do(RetryWorkstream(ws_id="a"))
        driver.server("ready")
    assert driver.event_types().count("model_server_releasing") == 3


def test_a_release_that_has_not_begun_cannot_have_ended() -> None:
    driver = serving(command("a", server="coder"))
    driver.do(ServerReleased(name="coder"))
    assert server_status(driver) == "ready"
    driver.refused("server_in_use", ReleaseServer(name="coder"))


def test_the_servers_of_a_cancelled_task_are_released() -> None:
    driver = serving(command("a", server="coder"))
    driver.do(CancelTask())
    assert set(driver.wanted()) == {"stop-run/t1/a/1", "detach/coder"}
    driver.stopped()
    assert not is_settled(driver.state)
    driver.do(ServerReleased(name="coder"))
    assert is_settled(driver.state)
    assert not driver.wanted()


def test_a_server_that_the_new_plan_describes_otherwise_is_released_first() -> None:
    driver = serving("a", command("b", "a", server="coder"))
    driver.do(RequestTransition(to=Phase.PLANNING))
    driver.do(ApproveTransition())
    assert not [action for action in driver.actions() if isinstance(action, DetachServer)]
    changed = plan("a", command("b", "a", server="coder"), model_servers=[_server(model="org/other")])
    driver.do(UpdatePlan(plan=changed))
    driver.do(ApprovePlan())
    assert "detach/coder" in driver.wanted()
    assert "attach/coder" not in driver.wanted()
    driver.complete("a")
    assert driver.statuses()["b"] == "pending"
    driver.do(ServerReleased(name="coder"))
    (attach,) = (action for action in driver.actions() if isinstance(action, AttachServer))
    assert attach.server.model == "org/other"


def test_a_server_that_the_new_plan_leaves_out_is_released() -> None:
    driver = serving("a")
    driver.do(RequestTransition(to=Phase.PLANNING))
    driver.do(ApproveTransition())
    driver.do(UpdatePlan(plan=plan("a")))
    assert driver.wanted() == ["detach/coder"]
    driver.do(ServerReleased(name="coder"))
    assert not driver.state.servers


def test_a_released_server_is_forgotten_once_no_plan_names_it() -> None:
    driver = serving("a")
    driver.complete("a")
    driver.do(ServerReleased(name="coder"))
    assert driver.state.servers["coder"].status is ServerStatus.RELEASED
    driver.do(ReopenPlan())
    driver.do(UpdatePlan(plan=plan("a")))
    assert not driver.state.servers


def _server(**fields: str) -> dict[str, str]:
    return {"name": "coder", "model": "org/model", "pod": "gpu1", **fields}
