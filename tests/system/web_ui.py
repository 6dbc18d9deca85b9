"""The Temporal Web UI in a real browser, beside what `podctl up` runs, and the Temporal CLI."""

import asyncio
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import pytest
from pydantic import JsonValue
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from podctl.client import PodctlClient
from podctl.embedded import temporal_program
from podctl.paths import PodctlPaths
from podctl.run_file import ServerProcess
from tests.workflow.support import Task
from tools.system_programs import PROGRAMS

#: Seconds until a page that does not show what it should is a failure.
PATIENCE = 60.0
#: Seconds that one loaded page is looked at: some of what it shows it asks for once only, perhaps a moment too early.
LOOK = 8.0
#: The Web UI renders our Markdown in frames of its own origin.
VISIBLE_TEXT = """
const frames = Array.from(document.querySelectorAll("iframe"), frame => frame.contentDocument?.body?.innerText ?? "");
return [document.body?.innerText ?? "", ...frames].join("\\n");
"""
LINK = """
const links = Array.from(document.querySelectorAll("iframe")).flatMap(
  frame => Array.from(frame.contentDocument?.querySelectorAll("a") ?? []));
return links.find(link => link.innerText === arguments[0])?.href;
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

    async def follow(self, words: str, *texts: str) -> None:
        """Go where the link with these words leads, in the Markdown that is shown, and wait for every text there."""
        address = await asyncio.to_thread(self._browser.execute_script, LINK, words)
        assert address, f"there is no link {words!r}"
        await self._shows(address, texts)

    async def signal(self, task: Task, name: str, payload: Mapping[str, JsonValue]) -> None:
        """Send a signal as a person does: *More Actions*, *Send a Signal*, a name and JSON."""
        await asyncio.to_thread(self._signal, task, name, json.dumps(payload))

    def _signal(self, task: Task, name: str, payload: str) -> None:
        self._browser.get(f"{self._workflows}/{quote(task.workflow_id, safe='')}")
        self._click("button", "More Actions")
        self._click("[role=menuitem]", "Send a Signal")
        self._click("[data-testid=signal-select-button]")
        self._click("#signal-select-select [role=option]", "Custom")
        dialog = self._one("#signal-confirmation-modal")
        [field] = [field for field in dialog.find_elements(By.TAG_NAME, "input") if _is_text(field)]
        field.send_keys(name)
        editor = self._one("#signal-confirmation-modal [role=textbox]")
        editor.click()
        # As one piece, as from the clipboard: the editor completes what is typed. Left, it breaks the text into lines,
        # and the dialog grows: a button that is being clicked then would get away.
        self._browser.execute_script("document.execCommand('insertText', false, arguments[0])", payload)
        self._browser.execute_script("document.activeElement.blur()")
        WebDriverWait(self._browser, PATIENCE).until(lambda _: "\n" in editor.text)
        self._click("#signal-confirmation-modal [data-testid=confirm-modal-button]")
        WebDriverWait(self._browser, PATIENCE).until(lambda _: not dialog.is_displayed())

    def _click(self, selector: str, words: str = "") -> None:
        self._one(selector, words).click()

    def _one(self, selector: str, words: str = "") -> WebElement:
        """Wait for the element that is shown, can be used, and has these words."""

        def found(browser: Chrome) -> WebElement | Literal[False]:
            elements = browser.find_elements(By.CSS_SELECTOR, selector)
            return next((e for e in elements if e.is_displayed() and e.is_enabled() and words in e.text), False)

        # The page is drawn anew while it loads: what was found a moment ago may be gone.
        waiting = WebDriverWait(self._browser, PATIENCE, ignored_exceptions=[StaleElementReferenceException])
        return waiting.until(found, f"{selector} {words!r} is not there; the page shows:\n{self._text()}")


def _is_text(field: WebElement) -> bool:
    kind = field.get_attribute("type")
    return kind in {"text", "", None} and field.is_displayed() and field.is_enabled()


async def temporal(site: Site, *arguments: str) -> None:
    """Run the Temporal CLI."""
    process = await asyncio.create_subprocess_exec(
        temporal_program(),
        *arguments[:2],
        "--address",
        site.server.address,
        *arguments[2:],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


async def temporal_signal(site: Site, task: Task, name: str, *arguments: str) -> None:
    """Send a signal with the Temporal CLI."""
    await temporal(site, "workflow", "signal", "--workflow-id", task.workflow_id, "--name", name, *arguments)


def program(title: str) -> str:
    names, package = PROGRAMS[title]
    for name in names:
        if found := shutil.which(name):
            return str(Path(found).absolute())
    pytest.fail(f"{title} is missing (Debian, Ubuntu: apt-get install {package})")


def quiet(_message: str) -> None:
    """Say nothing."""
