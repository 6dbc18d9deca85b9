"""A whole task driven past podctl, by the Temporal CLI and the Web UI, and the same one by podctl: the same events."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue

from domain.entity import Event
from domain.ids import task_workflow_id
from domain.task.commands import UpdatePlan
from domain.task.plan_file import read_plan
from domain.task.tracker_file import read_tracker
from podctl.client import new_command_id
from tests.system.web_ui import Page, Site, temporal, temporal_signal
from tests.workflow.cli.support import CommandLine
from tests.workflow.support import Task

TITLE = "A leaflet about kitchen timers"
SPEC = "# A leaflet\n\nAbout kitchen timers.\n"
BETTER_SPEC = SPEC + "\nIn two colours.\n"
PLAN = """
summary: write and print
workstreams:
  - {id: text, title: The text, executor: signal}
"""
BETTER_PLAN = """
summary: write, draw and print
workstreams:
  - {id: text, title: The text, executor: signal}
  - {id: drawing, title: The drawing, executor: signal}
  - {id: print, title: Printing, depends_on: [text, drawing], executor: signal}
  - {id: post, title: Posting, depends_on: [print], executor: signal}
"""
TRACKER = """
phases:
  - phase_id: paper
    name: On paper
    items: [{item_id: leaflet, summary: The leaflet}, {item_id: poster, summary: A poster}]
"""


class ByTemporal:
    """Drives a task with nothing of podctl: as many signals as can be by the Web UI, the rest by the Temporal CLI."""

    def __init__(self, site: Site, page: Page, task: Task) -> None:
        self._site = site
        self._page = page
        self._task = task

    async def create(self, spec: str, plan: str) -> None:
        draft = read_plan(plan, "plan").model_dump(mode="json")
        create: dict[str, JsonValue] = {"task_id": self._task.id, "title": TITLE, "by": "ann", "spec": spec}
        given = {"create": {**create, "command_id": new_command_id(), "plan": draft}}
        await temporal(
            *(self._site, "workflow", "start", "--type", "TaskPodWorkflow", "--task-queue", "podctl"),
            *("--workflow-id", self._task.workflow_id, "--input", json.dumps(given)),
        )

    async def in_web_ui(self, name: str, **payload: JsonValue) -> None:
        await self._page.signal(self._task, name, {"by": "ann", **payload})

    async def signal(self, name: str, **payload: JsonValue) -> None:
        await temporal_signal(self._site, self._task, name, "--input", json.dumps({"by": "ann", **payload}))

    async def update(self, command: str, **fields: JsonValue) -> None:
        envelope = {"command_id": new_command_id(), "by": "ann", "command": {"type": command, **fields}}
        await temporal(
            *(self._site, "workflow", "update", "execute", "--name", "execute"),
            *("--workflow-id", self._task.workflow_id, "--input", json.dumps(envelope)),
        )


async def by_temporal(site: Site, page: Page, task: Task) -> None:
    """Carry the task from wish to completed past podctl."""
    say = ByTemporal(site, page, task)
    await say.create(SPEC, PLAN)
    await say.signal("reject", gate="spec", comment="how many colours?")
    await say.update("update_spec", content=BETTER_SPEC, base_revision=1)
    await say.in_web_ui("approve-spec", revision=2, comment="two it is")
    await page.task_shows(task, "user-metadata", "spec revision 2", "two it is", "plan revision 1 waits for approval")
    plan = UpdatePlan(plan=read_plan(BETTER_PLAN, "plan"), base_revision=1).model_dump(mode="json")
    await say.update("update_plan", plan=plan["plan"], base_revision=1)
    await say.in_web_ui("approve-plan", revision=2)
    await page.task_shows(task, "user-metadata", "workstream execution · 0 of 4 workstreams done")
    await say.in_web_ui("message", content="which paper?", type="question", workstream="print")
    await say.signal("message", content="thick one", thread_id="m-2")
    await say.update("set_priority", ws_id="print", priority="high")
    tracker = read_tracker(TRACKER, "tracker").model_dump(mode="json")
    await say.update("create_tracker", phases=tracker["phases"])
    await say.update("set_item_status", item_id="leaflet", status="wip")
    await say.update("request_action", action={"type": "remove_item", "item_id": "poster"}, reason="no money")
    await say.update("grant_action", action_id="action-1", comment="a pity")
    await say.in_web_ui(
        "workstream-result", workstream="text", status="completed", result="two pages", artifacts=["t.md"]
    )
    await say.signal("workstream-result", workstream="drawing", status="failed", result="no ink")
    failed = await open_question(task)
    await page.task_shows(task, "user-metadata", "no ink", f"podctl signal approve {task.id} --message {failed}")
    await say.in_web_ui("approve", message_id=failed, choice="retry", comment="there is ink now")
    await say.signal("workstream-result", workstream="drawing", status="completed")
    await say.update("skip_workstream", ws_id="post", reason="handed out instead")
    await say.update("mark_read", ids=["completed/text/1"])
    await say.signal("workstream-result", workstream="print", status="completed")
    await say.in_web_ui("approve-review", revision=1, comment="well done")
    await page.task_shows(task, "user-metadata", "completed · 4 of 4 workstreams done", "well done")


async def by_podctl(podctl: CommandLine, task: Task, folder: Path) -> None:
    """Do the same with podctl alone."""

    def file(name: str, text: str) -> str:
        (folder / name).write_text(text)
        return str(folder / name)

    async def do(*words: str) -> None:
        await podctl(*words, "--as", "ann")

    spec, plan = file("spec.md", SPEC), file("plan.yaml", PLAN)
    await do("task", "create", TITLE, "--id", task.id, "--spec", spec, "--plan", plan)
    await do("signal", "reject", task.id, "--gate", "spec", "--comment", "how many colours?")
    await do("spec", "set", task.id, file("spec.md", BETTER_SPEC))
    await do("signal", "approve-spec", task.id, "--comment", "two it is")
    await do("plan", "set", task.id, file("plan.yaml", BETTER_PLAN))
    await do("signal", "approve-plan", task.id)
    await do("signal", "message", task.id, "which paper?", "--type", "question", "--workstream", "print")
    await do("signal", "message", task.id, "thick one", "--reply-to", "m-2")
    await do("workstream", "priority", task.id, "print", "high")
    await do("tracker", "create", task.id, file("tracker.yaml", TRACKER))
    await do("tracker", "status", task.id, "leaflet", "wip")
    await do("tracker", "remove", task.id, "poster", "--reason", "no money")
    await do("action", "grant", task.id, "action-1", "--comment", "a pity")
    await do("signal", "workstream-result", task.id, "text", "--result", "two pages", "--artifact", "t.md")
    await do("signal", "workstream-result", task.id, "drawing", "--status", "failed", "--result", "no ink")
    failed = await open_question(task)
    await do("signal", "approve", task.id, "--message", failed, "--choice", "retry", "--comment", "there is ink now")
    await do("signal", "workstream-result", task.id, "drawing")
    await do("workstream", "skip", task.id, "post", "--reason", "handed out instead")
    await do("inbox", "read", task.id, "completed/text/1")
    await do("signal", "workstream-result", task.id, "print")
    await do("signal", "approve-review", task.id, "--comment", "well done")


async def open_question(task: Task) -> str:
    """Return the id of the one question that waits."""
    state = await task.until(lambda state: [*state.open_approvals()], "a question waits")
    [question] = state.open_approvals()
    return question.message_id


def told(event: Event, task: Task) -> tuple[str, str, Mapping[str, Any]]:
    """Return an event as both tasks tell it: without its task's id, and without digests, which cover times."""
    text = json.dumps(event.payload).replace(task.id, "TASK")
    payload = json.loads(text)
    if event.type.startswith("review_"):
        payload = {name: value for name, value in payload.items() if name != "digest"}
    return event.type, event.by, payload


@pytest.fixture
def unique_tasks(site: Site, unique: Callable[[str], str]) -> tuple[Task, Task]:
    return Task(site.podctl, unique("past-podctl")), Task(site.podctl, unique("by-podctl"))


async def test_past_podctl_and_by_podctl_a_whole_task_has_the_same_events(
    site: Site, page: Page, unique_tasks: tuple[Task, Task], tmp_path: Path
) -> None:
    past, by = unique_tasks
    await by_temporal(site, page, past)
    await by_podctl(CommandLine(site.server.address, site.paths), by, tmp_path)
    logs: list[list[tuple[str, str, Mapping[str, Any]]]] = []
    for task in (past, by):
        state = await task.reaches("completed")
        assert not state.refusals
        events = (await site.podctl.log(task_workflow_id(task.id))).events
        assert [event.sequence for event in events] == [*range(1, len(events) + 1)]
        logs.append([told(event, task) for event in events])
    assert logs[0] == logs[1]
    assert len(logs[0]) > 40
