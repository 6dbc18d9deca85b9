"""The list queries of docs/web-ui.md, asked of a real server: each finds what its words say."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from domain.task.commands import CancelTask
from domain.task.models import TaskConfig
from podctl.client import PodctlClient
from tests.workflow.support import Task, Tasks, eventually, pod_input

PAGE = Path(__file__).parents[2] / "docs" / "web-ui.md"
PLAN = """
model_servers: [{name: coder, model: Qwen/Qwen3-8B, pod: gpu1}]
workstreams: [{id: work, title: Work, executor: {type: command, argv: [make], server: coder}}]
"""
BY_SIGNAL = "workstreams: [{id: docs, title: Docs, executor: signal}]"


def queries() -> dict[str, str]:
    """Return the page's queries by what they look for."""
    rows = re.findall(r"^\| ([^|]+) \| `([^`]+)` \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) >= 10
    return dict(rows)


async def found(podctl: PodctlClient, query: str, among: Iterable[str]) -> set[str]:
    ours = {*among}
    return {w.id async for w in podctl.temporal.list_workflows(query) if w.id in ours}


async def test_each_finds_what_it_says(tasks: Tasks, podctl: PodctlClient, unique: Callable[[str], str]) -> None:
    writing = await tasks.create()
    planning = await tasks.create(PLAN)
    await planning.ok("approve-spec")
    working = await tasks.create(BY_SIGNAL, config=TaskConfig())
    await working.work_begins()
    cancelled = await tasks.create(BY_SIGNAL)
    await podctl.execute_task(cancelled.id, CancelTask(), by="ann")
    pod = unique("pod")
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0zzbfDtYQbsPFyPdBzgMbKLU5Fy3eXx4WmTHW8GWr8"
    await podctl.register_pod(pod_input(pod, "ssh -p 1 nobody@127.0.0.1", key))
    gpu_pod = f"gpu-pod/{pod}"
    ours = [writing.workflow_id, planning.workflow_id, working.workflow_id, cancelled.workflow_id, gpu_pod]

    def of(*wanted: Task) -> set[str]:
        return {task.workflow_id for task in wanted}

    expected = {
        "tasks that need a person's approval": of(writing, planning),
        "the inbox of ann": of(writing, planning),
        "everybody's inbox": of(writing, planning),
        "tasks that are being planned": of(planning),
        "tasks at work": of(working),
        "tasks that were cancelled": of(cancelled),
        "tasks under way": of(writing, planning, working),
        "one task, all its runs": set[str](),
        "tasks that use GPU pod gpu1": of(planning),
        "tasks and GPU pods with a model": of(planning),
        "GPU pods": {gpu_pod},
        "GPU pods that do not answer": {gpu_pod},
    }
    assert queries().keys() == expected.keys()
    for what, query in queries().items():

        async def right(query: str = query, what: str = what) -> bool:
            return await found(podctl, query, ours) == expected[what]

        await eventually(right, f"{what}: {query}")
    named = queries()["one task, all its runs"].replace("task-pod/leaflet", working.workflow_id)
    assert await found(podctl, named, ours) == of(working)


def test_the_page_names_commands_and_settings_that_exist() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for setting in ("notify", "escalate_after_seconds", "escalate_to"):
        assert f"`{setting}`" in text
        assert setting in TaskConfig.model_fields
