"""A task in the Temporal Web UI, in a real browser, moved on by signals that the Temporal CLI sends past podctl."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from podctl.embedded import status, up
from tests.system.web_ui import Page, Site, quiet, temporal_signal
from tests.workflow.support import Task, Tasks, failed_workflow_tasks, pod_input

PLAN = """
workstreams:
  - {id: first, title: First, executor: signal}
  - {id: second, title: Second, depends_on: [first], executor: signal}
"""
#: The Temporal CLI's arguments for a signal that needs to say no more than who sends it.
YES = ("--input", '{"by": "ann"}')
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0zzbfDtYQbsPFyPdBzgMbKLU5Fy3eXx4WmTHW8GWr8"


@pytest.fixture
async def task(site: Site, unique: Callable[[str], str]) -> Task:
    """A task whose plan waits for approval."""
    task = await Tasks(site.podctl, unique).create(PLAN)
    await temporal_signal(site, task, "approve-spec", *YES)
    return task


async def test_it_shows_a_task_and_a_plan_approved_with_the_temporal_cli_moves_it_on(
    site: Site, page: Page, task: Task
) -> None:
    await page.task_shows(
        task,
        "user-metadata",
        f"Task pod {task.id}: Title of {task.id}\n",
        "Created by ann.",
        "planning · 0 of 2 workstreams done",
        f"plan revision 1 waits for approval: podctl signal approve-plan {task.id}",
    )
    await page.task_shows(task, "memo", '"phase": "planning"', f'"title": "Title of {task.id}"', '"progress": "0/2"')
    await page.task_shows(task, "search-attributes", '"PodctlPhase": "planning"', '"PodctlNeedsApproval": true')
    await page.list_shows('PodctlPhase="planning" AND PodctlNeedsApproval=true', task.workflow_id)

    await temporal_signal(site, task, "approve-plan", *YES)
    await page.task_shows(
        task,
        "user-metadata",
        "workstream execution · 0 of 2 workstreams done",
        f"podctl signal workstream-result {task.id} first --status completed",
    )
    await page.task_shows(task, "memo", '"phase": "workstream_execution"')
    await page.task_shows(
        task, "search-attributes", '"PodctlPhase": "workstream_execution"', '"PodctlNeedsApproval": false'
    )
    await page.list_shows('PodctlPhase="workstream_execution"', task.workflow_id)


async def test_its_page_leads_to_the_gpu_pods_that_it_uses(
    site: Site, page: Page, unique: Callable[[str], str]
) -> None:
    pod = unique("pod")
    await site.podctl.register_pod(pod_input(pod, "ssh -p 1 nobody@127.0.0.1", HOST_KEY))
    task = await Tasks(site.podctl, unique).create(f"""
model_servers: [{{name: coder, model: org/tiny, pod: {pod}}}]
workstreams: [{{id: work, title: Work, executor: {{type: command, argv: [make], server: coder}}}}]
""")
    await task.work_begins()
    await page.task_shows(task, "user-metadata", "Model servers", pod)
    await page.follow(pod, f"gpu-pod/{pod}", "GpuPodWorkflow")


@dataclass(frozen=True)
class Malformed:
    """A signal that is none, as the Temporal CLI sends it."""

    name: str
    arguments: tuple[str, ...]
    code: str
    message: str


#: What is no JSON has to be said to be something else: the CLI itself checks what it calls JSON.
MALFORMED = (
    Malformed(
        "approve-plan", (*YES, "--input-meta", "encoding=something/else"), "wrong_payload", "the payload is not JSON"
    ),
    Malformed("approve-plan", ("--input", "yes", "--input-meta", "encoding=binary/plain"), "wrong_payload", ""),
    Malformed("approve-plan", (), "wrong_argument_count", "approve-plan came with 0 arguments"),
    Malformed("approve-plan", (*YES, *YES), "wrong_argument_count", "approve-plan came with 2 arguments"),
    Malformed("approve-plan", ("--input", '{"who": "ann"}'), "wrong_payload", "approve-plan: who: Extra inputs are"),
    Malformed("aprove-plan", YES, "unknown_signal", "there is no signal"),
)


async def test_malformed_signals_of_the_temporal_cli_are_shown_as_refused_and_the_task_completes(
    site: Site, page: Page, task: Task
) -> None:
    for sent in MALFORMED:
        await temporal_signal(site, task, sent.name, *sent.arguments)
    state = await task.until(lambda state: len(state.refusals) >= len(MALFORMED), "every one of them is refused")
    assert [(refusal.command, refusal.code) for refusal in state.refusals] == [(m.name, m.code) for m in MALFORMED]
    # The page has room for the last five.
    told = [f"{sent.name} by unknown: {sent.code} {sent.message}" for sent in MALFORMED[-5:]]
    await page.task_shows(task, "user-metadata", "planning · 0 of 2 workstreams done", "Refused", *told)
    await page.task_shows(task, "memo", '"phase": "planning"', f'"refused": {len(MALFORMED)}')

    await temporal_signal(site, task, "approve-plan", *YES)
    for workstream in ("first", "second"):
        result = f'{{"by": "ann", "workstream": "{workstream}", "status": "completed"}}'
        await temporal_signal(site, task, "workstream-result", "--input", result)
    await temporal_signal(site, task, "approve-review", *YES)
    await page.task_shows(task, "user-metadata", "COMPLETED", "completed · 2 of 2 workstreams done", *told)
    assert not await failed_workflow_tasks(site.podctl.temporal, task.workflow_id)


async def test_without_a_worker_it_still_shows_the_phase_and_what_is_sent_then_is_not_lost(
    site: Site, page: Page, task: Task
) -> None:
    await task.reaches("planning")
    worker = status(site.paths).worker
    assert worker is not None
    assert worker.process.end(grace=20.0) is not None
    try:
        await temporal_signal(site, task, "approve-plan")
        await temporal_signal(site, task, "approve-plan", *YES)
        await page.task_shows(task, "memo", '"phase": "planning"', f'"title": "Title of {task.id}"')
    finally:
        await up(site.paths, quiet)
    await page.task_shows(task, "memo", '"phase": "workstream_execution"', '"refused": 1')
