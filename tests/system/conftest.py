"""A worker in a process of its own; what `podctl up` runs, and a browser that looks at it."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from temporalio.client import Client

from podctl.client import PodctlClient
from podctl.connection import connect
from podctl.embedded import down, up
from podctl.paths import PodctlPaths
from podctl.processes import ProcessIdentity, free_ports
from tests.chaos.support import WorkerProcess, kill
from tests.system.web_ui import Page, Site, program, quiet
from tests.workflow.support import Tasks


@pytest.fixture
async def podctl(client: Client, task_queue: str, tmp_path: Path) -> AsyncIterator[PodctlClient]:
    """A client whose workflows run on one worker, a process of its own."""
    worker = WorkerProcess(client.service_client.config.target_host, task_queue, tmp_path)
    try:
        yield PodctlClient(client, task_queue)
    finally:
        kill(worker.process)


@pytest.fixture
def tasks(podctl: PodctlClient, unique: Callable[[str], str]) -> Tasks:
    return Tasks(podctl, unique)


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    paths = PodctlPaths(config=folder / "config", data=folder / "data")
    port, ui_port = free_ports(2)
    try:
        started = await up(paths, quiet, port=port, ui_port=ui_port)
        yield Site(paths, started.server, PodctlClient(await connect(paths)))
    finally:
        await down(paths, quiet)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = program("Chromium")
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
    browser = Chrome(options=options, service=Service(executable_path=program("Chromium driver")))
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
