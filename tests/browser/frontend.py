"""ComfyUI's web frontend in a browser: what a person does there, and what a person sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from chromium import Log
from processes import TIMEOUT_S, wait_for
from selenium.common.exceptions import ElementClickInterceptedException, JavascriptException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

LOAD_TIMEOUT_S = 90.0
QUIET_S = 2.0

READY = """
  return !!(window.app?.graph && app.api?.clientId && app.extensionManager
            && document.querySelector('[data-testid=queue-button]'))"""
LISTEN = """
  window.heard = [];
  for (const kind of ['status', 'progress', 'executing', 'executed', 'execution_start',
                      'execution_success', 'execution_error', 'execution_interrupted',
                      'reconnecting', 'reconnected'])
    app.api.addEventListener(kind, event => heard.push([kind, event.detail ?? null]))"""
QUIET = """
  const entries = performance.getEntriesByType('resource');
  const last = Math.max(0, ...entries.map(one => one.responseEnd || one.startTime));
  return performance.now() - last"""
NODE = "const node = app.graph._nodes.find(one => one.type === arguments[0]);"
SET_WIDGET = (
    NODE
    + """
  const widget = node.widgets.find(one => one.name === arguments[1]);
  widget.value = arguments[2];
  widget.callback?.(arguments[2])"""
)
PICTURE = (
    NODE
    + """
  const image = node?.imgs?.[0];
  if (!image?.complete || !image.naturalWidth) return null;
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext('2d');
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  return {width: canvas.width, height: canvas.height,
          pixels: Array.from(pixels).filter((_, index) => index % 4 < 3)}"""
)
FIRST_PICTURE = """
  const image = document.querySelector('.task-item .task-output-image');
  return image?.complete && image.naturalWidth ? image.src : null"""


class Frontend:
    """One tab with the page of ``url``; pictures of it are saved in ``screenshots``."""

    def __init__(self, driver: Chrome, url: str, screenshots: Path) -> None:
        self.driver = driver
        self.url = url
        self.log = Log(driver)
        self._screenshots = screenshots

    def open(self) -> None:
        """Load the page, until nothing more is asked for."""
        self.log.clear()
        self.driver.get(self.url + "/")
        self.arrive()

    def reload(self) -> None:
        self.log.clear()
        self.driver.refresh()
        self.arrive()

    def arrive(self) -> None:
        """Wait until the page can be used, its dialog of templates put away."""
        self.until(READY, timeout_s=LOAD_TIMEOUT_S)
        self.until(f"{QUIET} > {QUIET_S * 1000}", timeout_s=LOAD_TIMEOUT_S)
        if self.driver.find_elements(By.CSS_SELECTOR, "[role=dialog]"):
            self.press("[role=dialog] button:has(.pi-times)")
            self.until("return !document.querySelector('[role=dialog]')")
        self.js(LISTEN)

    # --- what a person does ------------------------------------------------------------------

    def show(self, graph: dict[str, Any]) -> None:
        """Open a workflow in the form of *Export (API)*."""
        self.js("app.loadApiJson(arguments[0], 'test')", graph)

    def choose_file(self, path: Path) -> str:
        """Upload by LoadImage's button and its file dialog; the name that the node then has."""
        cdp = self.driver.execute_cdp_cmd
        cdp("Page.setInterceptFileChooserDialog", {"enabled": True})
        dialogs, uploads = "Page.fileChooserOpened", f"{self.url}/api/upload/image"
        asked, answered = len(self.log.of_kind(dialogs)), len(self.log.answers(uploads))
        press = "app.graph._nodes.find(one => one.type === 'LoadImage')"
        press += ".widgets.find(one => one.name === 'upload').callback()"
        # A file dialog opens only for a gesture of the user.
        cdp("Runtime.evaluate", {"expression": press, "userGesture": True})
        wait_for(lambda: len(self.log.of_kind(dialogs)) > asked)
        node = self.log.of_kind(dialogs)[-1]["backendNodeId"]
        cdp("DOM.setFileInputFiles", {"files": [str(path)], "backendNodeId": node})
        wait_for(lambda: len(self.log.answers(uploads)) > answered)
        answer = cdp("Network.getResponseBody", {"requestId": self.log.answers(uploads)[-1]})
        name: str = json.loads(answer["body"])["name"]
        wait_for(lambda: self.widget("LoadImage", "image") == name)
        return name

    def set_widget(self, node_type: str, name: str, value: object) -> None:
        self.js(SET_WIDGET, node_type, name, value)

    def press(self, selector: str) -> None:
        """Click the first visible element, as soon as no toast or dialog covers it."""

        def click() -> bool:
            try:
                self.until_found(selector).click()
            except ElementClickInterceptedException:
                return False
            return True

        wait_for(click)

    def press_run(self) -> None:
        self.press("[data-testid=queue-button] button")

    def post(self) -> None:
        """Press Run and wait until the prompt was taken."""
        url = f"{self.url}/api/prompt"
        before = len(self.log.answers(url))
        self.press_run()
        wait_for(lambda: len(self.log.answers(url)) > before)

    def run(self) -> str:
        """Press Run with an empty queue and wait until the prompt begins; its id."""
        before = len(self.heard("execution_start"))
        self.post()
        return self.until_started(before + 1)[-1]

    def save_as(self, name: str) -> None:
        """*Save as* of the workflow's menu, and its dialog."""
        self.js("app.extensionManager.command.execute('Comfy.SaveWorkflowAs')")
        field = self.until_found("[role=dialog] input")
        field.clear()
        field.send_keys(name, Keys.ENTER)
        self.until("return document.title.includes(arguments[0])", name)

    # --- what a person sees ------------------------------------------------------------------

    def widget(self, node_type: str, name: str) -> Any:
        return self.js(
            NODE + "return node.widgets.find(one => one.name === arguments[1]).value",
            node_type,
            name,
        )

    def picture_source(self, node_type: str) -> str | None:
        """The address of the picture that the node shows."""
        source: str | None = self.js(NODE + "return node?.imgs?.[0]?.src ?? null", node_type)
        return source

    def picture(self, node_type: str, *, other_than: str | None = None) -> dict[str, Any]:
        """``width``, ``height`` and ``pixels`` (RGB) of the node's picture, as it is drawn.

        ``other_than`` is the address of one that is still there from before.
        """

        def new() -> dict[str, Any] | None:
            if self.picture_source(node_type) in (None, other_than):
                return None
            found: dict[str, Any] | None = self.js(PICTURE, node_type)
            return found

        found: dict[str, Any] = wait_for(new)
        return found

    def until_newest(self, picture: dict[str, str]) -> None:
        """Wait until the queue's panel begins with that file, loaded."""

        def first() -> bool:
            address = self.js(FIRST_PICTURE)
            return bool(address) and dict(parse_qsl(urlsplit(address).query)) == picture

        wait_for(first)

    def until_queue(self, *, running: int, pending: int) -> None:
        """Wait until the queue's panel shows so many."""
        self.until(
            "return arguments[0].every(([word, count]) => "
            "[...document.querySelectorAll('.task-item .p-tag')]"
            ".filter(tag => tag.innerText.trim() === word).length === count)",
            [["Running", running], ["Pending", pending]],
        )

    def heard(self, kind: str, prompt_id: str | None = None) -> list[Any]:
        """The details of the events of that kind, of one prompt or of all."""
        events = json.loads(self.js("return JSON.stringify(heard)"))
        details = [detail for name, detail in events if name == kind]
        if prompt_id is None:
            return details
        return [detail for detail in details if detail["prompt_id"] == prompt_id]

    def until_started(self, count: int) -> list[str]:
        """The ids of the prompts that have begun, when they are so many."""

        def ids() -> list[str] | None:
            started = [detail["prompt_id"] for detail in self.heard("execution_start")]
            return started if len(started) >= count else None

        started: list[str] = wait_for(ids)
        return started

    def until_ended(self, prompt_id: str, how: str = "execution_success") -> None:
        """Wait for that end. Raises AssertionError if it is another one."""
        ends = {"execution_success", "execution_error", "execution_interrupted"}

        def ended() -> set[str]:
            return {kind for kind in ends if self.heard(kind, prompt_id)}

        told = wait_for(ended)
        assert told == {how}, (told, self.heard("execution_error", prompt_id))

    def until_found(self, selector: str) -> Any:
        def visible() -> Any:
            found = self.driver.find_elements(By.CSS_SELECTOR, selector)
            return next((one for one in found if one.is_displayed()), None)

        return wait_for(visible)

    def until(self, script: str, *arguments: object, timeout_s: float = TIMEOUT_S) -> Any:
        """Wait until ``script`` returns something true; that is the result."""

        def asked() -> Any:
            try:
                return self.js(script, *arguments)
            except JavascriptException:
                return None  # the page is on its way

        return wait_for(asked, timeout_s)

    def js(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def screenshot(self, name: str) -> None:
        self.driver.save_screenshot(str(self._screenshots / f"{name}.png"))
