"""A task in the Temporal Web UI, in a real browser, moved on by signals that the Temporal CLI sends past podctl."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from selenium.common.exceptions import TimeoutException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.wait import WebDriverWait

from podctl.client import PodctlClient
from podctl.connection import connect
from podctl.embedded import down, status, temporal_program, up
from podctl.paths import PodctlPaths
from podctl.processes import ProcessIdentity, free_ports
from podctl.run_file import ServerProcess
from tests.workflow.support import Task, Tasks, history_types
from tools.system_programs import PROGRAMS

#: Seconds until a page that does not show what it should is a failure.
PATIENCE = 60.0
#: Seconds that one loaded page is looked at: some of what it shows it asks for once only, perhaps a moment too early.
LOOK = 8.0
PLAN = """
workstreams:
  - {id: first, title: First, executor: signal}
  - {id: second, title: Second, depends_on: [first], executor: signal}
"""
#: The Temporal CLI's arguments for a signal that needs to say no more than who sends it.
YES = ("--input", '{"by": "ann"}')
#: The Web UI renders our Markdown in frames of its own origin.
VISIBLE_TEXT = """
const frames = Array.from(document.querySelectorAll("iframe"), frame => frame.contentDocument?.body?.innerText ?? "");
return [document.body?.innerText ?? "", ...frames].join("\\n");
"""


@dataclass(frozen=True)
class Site:
    """What `podctl up` runs: a Temporal server with its Web UI, and a worker."""

    paths: PodctlPaths
    server: ServerProcess
    podctl: PodctlClient


class Page:
    """A browser that looks at the Web UI."""

    def __init__(self, browser: Chrome, address: str) -> None:
        self._browser = browser
        self._workflows = f"{address}/namespaces/default/workflows"

    async def list_shows(self, query: str, *texts: str) -> None:
        """Wait until the list of the workflows that ``query`` finds shows every text."""
        await self._shows(f"{self._workflows}?query={quote(query)}", texts)

    async def task_shows(self, task: Task, tab: str, *texts: str) -> None:
        """Wait until the page of a task's workflow shows every text on a tab, named as in its address."""
        run_id = (await task.handle.describe()).run_id
        await self._shows(f"{self._workflows}/{quote(task.workflow_id, safe='')}/{run_id}/{tab}", texts)

    async def _shows(self, address: str, texts: tuple[str, ...]) -> None:
        await asyncio.to_thread(self._load_until_shown, address, texts)

    def _load_until_shown(self, address: str, texts: tuple[str, ...]) -> None:
        missing = list(texts)

        def all_there(_browser: Chrome) -> bool:
            shown = self._text()
            missing[:] = [text for text in texts if text not in shown]
            return not missing

        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            self._browser.get(address)
            try:
                WebDriverWait(self._browser, LOOK, poll_frequency=0.1).until(all_there)
            except TimeoutException:
                continue
            return
        raise AssertionError(f"{address} does not show {missing}; it shows:\n{self._text()}")

    def _text(self) -> str:
        lines = str(self._browser.execute_script(VISIBLE_TEXT)).splitlines()
        return "\n".join(line for line in lines if line.strip())


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    paths = PodctlPaths(config=folder / "config", data=folder / "data")
    port, ui_port = free_ports(2)
    try:
        started = await up(paths, _quiet, port=port, ui_port=ui_port)
        yield Site(paths, started.server, PodctlClient(await connect(paths)))
    finally:
        await down(paths, _quiet)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = _program("Chromium")
    for argument in (
        "--headless=new",
        "--no-sandbox",  # it does not work for root, nor in most containers; nothing but our own pages is loaded
        "--disable-dev-shm-usage",  # containers have little of it
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # the Web UI asks for news of Temporal
        "--window-size=1600,2400",  # text out of sight is left out of the page
        f"--user-data-dir={tmp_path_factory.mktemp('browser')}",
    ):
        options.add_argument(argument)
    # With the driver's path given, selenium looks for none and downloads nothing.
    browser = Chrome(options=options, service=Service(executable_path=_program("Chromium driver")))
    process = ProcessIdentity.of(browser.capabilities["goog:processID"])
    try:
        yield browser
    finally:
        browser.quit()
        if process is not None:
            process.end(grace=5.0)


@pytest.fixture
def page(site: Site, browser: Chrome) -> Page:
    return Page(browser, f"http://127.0.0.1:{site.server.ui_port}")


@pytest.fixture
async def task(site: Site, unique: Callable[[str], str]) -> Task:
    """A task whose plan waits for approval."""
    task = await Tasks(site.podctl, unique).create(PLAN)
    await temporal_signal(site, task, "approve-spec", *YES)
    return task


async def temporal_signal(site: Site, task: Task, name: str, *arguments: str) -> None:
    """Send a signal with the Temporal CLI."""
    command = ["workflow", "signal", "--address", site.server.address, "--workflow-id", task.workflow_id]
    process = await asyncio.create_subprocess_exec(
        temporal_program(),
        *command,
        "--name",
        name,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


def _program(title: str) -> str:
    names, package = PROGRAMS[title]
    for name in names:
        if found := shutil.which(name):
            return str(Path(found).absolute())
    pytest.fail(f"{title} is missing (Debian, Ubuntu: apt-get install {package})")


def _quiet(_message: str) -> None:
    pass


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
    assert (await history_types(site.podctl.temporal, task.workflow_id))["WORKFLOW_TASK_FAILED"] == 0


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
        await up(site.paths, _quiet)
    await page.task_shows(task, "memo", '"phase": "workstream_execution"', '"refused": 1')
