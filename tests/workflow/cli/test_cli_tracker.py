"""`podctl tracker` and `podctl action`: a board of deliverables, and what happens only after a person's yes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workflow.cli.support import CommandLine
from tests.workflow.support import eventually

PLAN = """
workstreams:
  - {id: api, title: The API, executor: signal}
  - {id: docs, title: The docs, executor: signal}
"""
BOARD = """
phases:
  - phase_id: alpha
    name: First release
    summary: What the first users get.
    items:
      - {item_id: endpoints, summary: All endpoints, workstream_id: api}
      - {item_id: party, summary: A party}
  - {phase_id: beta, name: Second release, eta: in spring}
"""


@pytest.fixture
async def task(podctl: CommandLine, unique: Callable[[str], str], tmp_path: Path) -> str:
    """A task whose plan has the workstreams api and docs."""
    name = unique("task")
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN)
    await podctl("task", "create", "A title", "--id", name, "--plan", str(plan), "--as", "ann")
    return name


@pytest.fixture
async def tracked(podctl: CommandLine, task: str, tmp_path: Path) -> str:
    """That task with a board."""
    board = tmp_path / "board.yaml"
    board.write_text(BOARD)
    done = await podctl("tracker", "create", task, str(board), "--as", "ann")
    assert done.output == f"task {task}: the tracker is begun, by ann\n"
    return task


async def test_a_board_shows_owners_and_progress(podctl: CommandLine, tracked: str) -> None:
    await podctl("tracker", "status", tracked, "endpoints", "wip", "--workstream", "api")
    await podctl("tracker", "status", tracked, "party", "done")
    await podctl("tracker", "comment", tracked, "endpoints", "half of them are there", "--as", "bob")
    await podctl("tracker", "eta", tracked, "alpha", "next week")
    shown = (await podctl("tracker", "show", tracked)).output
    assert "1 of 2 done" in shown
    assert "alpha  First release, 1 of 2 done, expected: next week" in shown
    assert "What the first users get." in shown
    assert "endpoints  wip     api    All endpoints (bob: half of them are there)" in shown
    assert "party      done    -      A party" in shown
    assert "beta  Second release, 0 of 0 done, expected: in spring" in shown
    assert max(len(line) for line in shown.splitlines()) <= 80
    view = await podctl.json("tracker", "show", tracked)
    assert (view["done"], view["total"]) == (1, 2)
    assert view["phases"][0]["items"][0]["workstream_id"] == "api"


async def test_what_has_an_owner_is_changed_by_it_alone(podctl: CommandLine, tracked: str) -> None:
    refused = await podctl("tracker", "status", tracked, "endpoints", "done", "--workstream", "docs", status=1)
    assert refused.errors.startswith("error: not_owner: ")
    assert "--workstream" in refused.errors


async def test_without_a_board_it_says_how_to_begin_one(podctl: CommandLine, task: str) -> None:
    for arguments in (("show", task), ("status", task, "x", "done"), ("remove", task, "x")):
        refused = await podctl("tracker", *arguments, status=1)
        assert refused.errors.startswith("error: no_tracker: ")
        assert f"podctl tracker create {task}" in refused.errors


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("phases:\n  - {phase_id: a, name: A, colour: red}\n", ":2:28: phases[0].colour: there is no such field"),
        ("phases: no\n", ":1:1: phases: "),
        ("phases:\n  - {phase_id: ../a, name: A}\n", ":2:6: phases[0].phase_id: "),
        ("", "the file is empty"),
    ],
)
async def test_a_mistake_in_the_file_is_told_with_its_place(
    podctl: CommandLine, task: str, tmp_path: Path, text: str, says: str
) -> None:
    board = tmp_path / "board.yaml"
    board.write_text(text)
    refused = await podctl("tracker", "create", task, str(board), status=2)
    assert f"error: {board}" in refused.errors
    assert says in refused.errors


async def test_items_come_change_and_go_after_a_grant(podctl: CommandLine, tracked: str) -> None:
    proposed = await podctl(
        "tracker", "add", tracked, "beta", "film", "A film", "--reason", "for the web", "--as", "bob"
    )
    assert proposed.output == (
        f"task {tracked}: action-1 is proposed, by bob\n  to let it happen: podctl action grant {tracked} action-1\n"
    )
    (listed,) = await podctl.json("action", "list", tracked)
    assert (listed["status"], listed["requested_by"]) == ("requested", "bob")
    assert listed["description"] == "add item film (A film) to phase beta"
    shown = (await podctl("action", "show", tracked, "action-1")).output
    assert "for the web" in shown
    assert f"podctl action grant {tracked} action-1" in shown
    done = await podctl("action", "grant", tracked, "action-1", "--comment", "good", "--as", "carol")
    assert done.output == f"task {tracked}: action-1 is granted and done, by carol\n"
    second = await podctl("action", "grant", tracked, "action-1", "--as", "dave", status=1)
    assert second.errors.startswith("error: already_approved: ")
    assert "by carol" in second.errors
    await podctl("tracker", "update", tracked, "film", "--summary", "A short film", "--phase", "alpha")
    await podctl("signal", "approve", tracked, "--message", "m-2", "--choice", "grant")
    await podctl("tracker", "remove", tracked, "party")
    await podctl("action", "reject", tracked, "action-3", "--comment", "we want it", "--as", "carol")
    board = await podctl.json("tracker", "show", tracked)
    items = {phase["phase_id"]: [item["item_id"] for item in phase["items"]] for phase in board["phases"]}
    assert items == {"alpha": ["endpoints", "party", "film"], "beta": []}
    table = (await podctl("action", "list", tracked)).output
    assert [line.split()[1] for line in table.splitlines()[1:]] == ["done", "done", "rejected"]
    rejected = (await podctl("action", "show", tracked, "action-3")).output
    assert "rejected by  carol" in rejected
    assert "we want it" in rejected


async def test_a_granted_program_runs_once_and_shows_what_it_said(podctl: CommandLine, task: str, gpu_pod: str) -> None:
    program = ("sh", "-c", 'echo "run $PODCTL_ACTION"; echo ran >> runs; cat runs')
    await podctl("action", "request", task, "--pod", gpu_pod, "--reason", "to see", "--", *program)
    shown = (await podctl("action", "show", task, "action-1")).output
    assert f'run on pod {gpu_pod}: sh -c \'echo "run $PODCTL_ACTION"' in shown
    await podctl("action", "grant", task, "action-1")

    async def ended() -> dict[str, object] | None:
        view: dict[str, object] = await podctl.json("action", "show", task, "action-1")
        return view if view["status"] not in ("requested", "granted") else None

    view = await eventually(ended, "the action has ended")
    assert view["status"] == "done"
    assert (await podctl("task", "logs", task, "action-1")).output == "run action-1\nran\n"
    assert "run action-1" in (await podctl("action", "show", task, "action-1")).output
    told = [name for name in await _event_types(podctl, task) if name.startswith("action_")]
    assert told == ["action_approval_requested", "action_approval_granted", "action_approval_completed"]


async def test_a_program_that_hangs_is_ended(podctl: CommandLine, task: str, gpu_pod: str) -> None:
    await podctl("action", "request", task, "--pod", gpu_pod, "--", "sleep", "1002")
    await podctl("action", "grant", task, "action-1")
    shown = (await podctl("action", "show", task, "action-1")).output
    assert f"podctl action interrupt {task} action-1" in shown
    done = await podctl("action", "interrupt", task, "action-1", "--reason", "too slow", "--as", "dave")
    assert done.output == f"task {task}: action-1 is interrupted, by dave\n"

    async def stopped() -> bool:
        return "run_stopped" in await _event_types(podctl, task)

    await eventually(stopped, "the program is stopped")
    assert "too slow" in (await podctl("action", "show", task, "action-1")).output


async def test_a_program_that_fails_is_put_before_a_person(podctl: CommandLine, task: str, gpu_pod: str) -> None:
    action = {"type": "run", "executor": {"type": "command", "argv": ["false"], "pod": gpu_pod}}
    await podctl("action", "request", task, "--json", json.dumps(action))
    await podctl("action", "grant", task, "action-1")

    async def failed() -> bool:
        return bool((await podctl.json("action", "show", task, "action-1"))["status"] == "failed")

    await eventually(failed, "the action has failed")
    assert "exit code 1" in (await podctl("action", "show", task, "action-1")).output
    items = [
        item for item in (await podctl.json("task", "show", task))["inbox"].values() if "action-1" in item["preview"]
    ]
    assert [item["kind"] for item in items] == ["blocker_raised"]


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ((), 2, "either a program"),
        (("--json", "{}", "--", "true"), 2, "either a program"),
        (("--json", "{"), 2, "not JSON"),
        (("--json", '{"type": "dance"}'), 2, "add_item"),
        (("--json", '{"type": "remove_item"}'), 2, "remove_item.item_id"),
        (("--json", '{"type": "merge"}', "--pod", "x"), 2, "for a program"),
        (("--json", '{"type": "merge"}'), 1, "no_pull_request"),
        (("--", "true"), 1, "no_pod"),
        (("--pod", "../x", "--", "true"), 2, "pod"),
    ],
)
async def test_what_cannot_be_proposed_is_told(
    podctl: CommandLine, task: str, arguments: tuple[str, ...], status: int, says: str
) -> None:
    refused = await podctl("action", "request", task, *arguments, status=status)
    assert says in refused.errors


async def test_the_merge_of_a_pull_request_by_whoever_keeps_the_repository(podctl: CommandLine, task: str) -> None:
    await podctl("task", "send", task, "open_draft_pull_request", "--title", "Add it", "--branch", "topic")
    waits = (await podctl.json("task", "show", task))["waits_for"]
    assert any(f"podctl task send {task} record_external_state --state draft --url URL" in reason for reason in waits)
    url = "https://example.org/pull/7"
    await podctl("task", "send", task, "record_external_state", "--state", "draft", "--url", url, "--number", "7")
    await podctl("task", "send", task, "request_merge", "--reason", "green")
    assert f"merge the pull request {url}" in (await podctl("action", "show", task, "action-1")).output
    await podctl("action", "grant", task, "action-1")
    await podctl("task", "send", task, "merge_pull_request")
    await podctl("task", "send", task, "record_external_state", "--state", "merged")
    assert (await podctl.json("action", "show", task, "action-1"))["status"] == "done"


async def _event_types(podctl: CommandLine, task: str) -> list[str]:
    lines = (await podctl("events", task, "-o", "json")).output.splitlines()
    return [str(json.loads(line)["type"]) for line in lines]
