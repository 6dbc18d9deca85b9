"""What the Web UI shows in one line stays within what Temporal takes, whatever people call things."""

from collections.abc import Callable

import pytest

from domain.task.models import TaskInput
from domain.task.plan_file import read_plan
from podctl.client import PodctlClient, new_command_id
from tests.workflow.support import Task, Tasks
from workflows.summaries import SUMMARY_LIMIT, fitted


@pytest.mark.parametrize("text", ["", "short", "x" * 1_000, "計" * 200, "é\N{GRINNING FACE}" * 100])
def test_a_summary_is_cut_only_where_it_must_be(text: str) -> None:
    shown = fitted(text)
    assert len(shown.encode()) <= SUMMARY_LIMIT
    assert shown == text or (shown.endswith("…") and text.startswith(shown[:-1]))


async def test_the_longest_title_names_and_senders_do_not_wedge_a_task(
    podctl: PodctlClient, tasks: Tasks, unique: Callable[[str], str]
) -> None:
    assert tasks
    plan = f"""
model_servers: [{{name: {"s" * 60}, model: {"計" * 255}, pod: {"p" * 60}}}]
workstreams: [{{id: {"w" * 60}, title: {"計" * 200}, executor: {{type: command, argv: [make], server: {"s" * 60}}}}}]
"""
    task = Task(podctl, unique("long"))
    await podctl.create_task(
        TaskInput(
            task_id=task.id,
            title="計" * 200,
            by="計" * 200,
            command_id=new_command_id(),
            spec="x",
            plan=read_plan(plan, "plan"),
        )
    )
    await task.work_begins()
    state = await task.reaches("workstream_execution")
    assert state.title == "計" * 200
    await task.until(lambda state: "s" * 60 in state.servers, "its model server is wanted")
    described = await task.handle.describe()
    assert (await described.static_summary() or "").startswith("計")
