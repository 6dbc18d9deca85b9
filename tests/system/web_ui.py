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
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    NoSuchElementException,
    StaleElementReferenceException,
    TimeoutException,
    WebDriverException,
)
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.expected_conditions import invisibility_of_element
from selenium.webdriver.support.wait import WebDriverWait

from podctl.client import PodctlClient
from podctl.embedded import temporal_program
from podctl.paths import PodctlPaths
from podctl.run_file import ServerProcess
from tests.workflow.support import Task
from tools.system_programs import PROGRAMS

#: Seconds until a page that does not show what it should is a failure.
PATIENCE = 180.0
#: Seconds that one loaded page is looked at: some of what it shows it asks for once only, perhaps a moment too early.
#: Each time twice as long, for a machine on which that moment takes longer.
LOOK = 8.0
#: The Web UI renders our Markdown in frames of its own origin.
#: The page is drawn anew while it loads: what was found a moment ago may be gone, or moved under something else.
DRAWN_ANEW: tuple[type[WebDriverException], ...] = (
    StaleElementReferenceException,
    ElementClickInterceptedException,
    ElementNotInteractableException,
)
SIGNAL_FORM = "#signal-confirmation-modal"
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

        deadline, look = time.monotonic() + PATIENCE, LOOK
        while time.monotonic() < deadline:
            self._browser.get(address)
            try:
                WebDriverWait(self._browser, look, poll_frequency=0.1).until(all_there)
            except TimeoutException:
                look *= 2
                continue
            return
        raise AssertionError(f"{address} does not show {missing}; it shows:\n{self._text()}")

    def _text(self) -> str:
        lines = str(self._browser.execute_script(VISIBLE_TEXT)).splitlines()
        return "\n".join(line for line in lines if line.strip())

    async def follow(self, words: str, *texts: str) -> None:
        """Go where the link with these words leads, in the Markdown that is shown, and wait for every text there."""
        await self._shows(await asyncio.to_thread(self._link, words), texts)

    def _link(self, words: str) -> str:
        def address(browser: Chrome) -> str | Literal[False]:
            return browser.execute_script(LINK, words) or False

        return self._wait(PATIENCE).until(address, f"there is no link {words!r}; the page shows:\n{self._text()}")

    async def signal(self, task: Task, name: str, payload: Mapping[str, JsonValue]) -> None:
        """Send a signal as a person does: *More Actions*, *Send a Signal*, a name and JSON."""
        await asyncio.to_thread(self._signal, task, name, json.dumps(payload))

    def _signal(self, task: Task, name: str, payload: str) -> None:
        self._browser.get(f"{self._workflows}/{quote(task.workflow_id, safe='')}")
        self._choose(("button", "More Actions"), ("[role=menuitem]", "Send a Signal"))
        self._choose(("[data-testid=signal-select-button]", ""), ("#signal-select-select [role=option]", "Custom"))
        self._wait(PATIENCE).until(self._only_text_field, "there is no field for the signal's name").send_keys(name)
        self._click(f"{SIGNAL_FORM} [role=textbox]")
        # As one piece, as from the clipboard: the editor completes what is typed. Left, it breaks the text into lines,
        # and the dialog grows: a button that is being clicked then would get away.
        self._browser.execute_script("document.execCommand('insertText', false, arguments[0])", payload)
        self._browser.execute_script("document.activeElement.blur()")
        self._wait(PATIENCE).until(lambda _: "\n" in self._find(f"{SIGNAL_FORM} [role=textbox]").text)
        form = self._find(SIGNAL_FORM)
        self._click(f"{SIGNAL_FORM} [data-testid=confirm-modal-button]")
        self._wait(PATIENCE).until(invisibility_of_element(form), "the signal is not sent")

    def _choose(self, menu: tuple[str, str], item: tuple[str, str]) -> None:
        """Open a menu and click one of its items; a page that is drawn anew has its menus closed."""
        deadline, look = time.monotonic() + PATIENCE, LOOK
        while True:
            self._click(*menu)
            try:
                self._click(*item, patience=look)
            except TimeoutException:
                look *= 2
                if time.monotonic() > deadline:
                    raise
            else:
                return

    def _click(self, selector: str, words: str = "", patience: float = PATIENCE) -> None:
        """Wait for the element that is shown, can be used, and has these words, and click it."""

        def clicked(_browser: Chrome) -> bool:
            self._find(selector, words).click()
            return True

        self._wait(patience).until(clicked, f"{selector} {words!r} is not there; the page shows:\n{self._text()}")

    def _find(self, selector: str, words: str = "") -> WebElement:
        """Return the element that is shown, can be used, and has these words now."""
        elements = self._browser.find_elements(By.CSS_SELECTOR, selector)
        for element in elements:
            if element.is_displayed() and element.is_enabled() and words in element.text:
                return element
        raise NoSuchElementException(f"{selector} {words!r}")

    def _only_text_field(self, browser: Chrome) -> WebElement | Literal[False]:
        fields = [field for field in browser.find_elements(By.CSS_SELECTOR, f"{SIGNAL_FORM} input") if _is_text(field)]
        return fields[0] if len(fields) == 1 else False

    def _wait(self, patience: float) -> WebDriverWait[Chrome]:
        return WebDriverWait(self._browser, patience, ignored_exceptions=DRAWN_ANEW)


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
