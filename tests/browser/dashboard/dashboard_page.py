"""The dashboard in a browser: what a person does there, and what a person sees."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from chromium import Log
from processes import wait_for
from selenium.webdriver import ActionChains, Chrome, Keys

WIDE, NARROW = 1280, 390

FOCUSED = """
  const one = document.activeElement;
  const style = getComputedStyle(one), box = one.getBoundingClientRect();
  return {id: one.id, tag: one.tagName, outline: style.outlineStyle === 'none' ? 0 :
          parseFloat(style.outlineWidth), visible: box.bottom > 0 && box.top < innerHeight}"""
OVERFLOWING = """
  const wide = arguments[0], visible = one => one.getBoundingClientRect().right <= wide + 1;
  return [...document.querySelectorAll('body *')]
    .filter(one => !visible(one) && (innerWidth > wide || !one.closest('.scroll')))
    .map(one => one.outerHTML.slice(0, 200))"""
SPOKEN = """
  window.spoken = [];
  for (const region of document.querySelectorAll('[role=status]'))
    new MutationObserver(() => spoken.push([region.id, region.textContent]))
      .observe(region, {childList: true, characterData: true, subtree: true})"""


class Dashboard:
    """One tab with the dashboard of ``url``; pictures of it are saved in ``screenshots``."""

    def __init__(self, driver: Chrome, url: str, screenshots: Path) -> None:
        self.driver = driver
        self.url = url
        self.log = Log(driver)
        self._screenshots = screenshots
        self.look(WIDE)

    def look(self, width: int, *, dark: bool = False) -> None:
        """How large the window is, and what the person's system prefers."""
        self._width = width
        cdp = self.driver.execute_cdp_cmd
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        cdp("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        cdp("Emulation.setEmulatedMedia", {"features": [scheme]})

    def open(self, query: str = "") -> None:
        """Load the page and wait for its first state."""
        self.log.clear()
        self.driver.get(f"{self.url}/dashboard{query}")
        self.until_status("healthy")
        self.js(SPOKEN)

    # --- what a person does ------------------------------------------------------------------

    def drop(self, path: Path, selector: str = "#drop") -> None:
        """Drag a file from the desktop and let it go over an element."""
        self.js(f"document.querySelector('{selector}').scrollIntoView({{block: 'center'}})")
        box = self.js(f"return document.querySelector('{selector}').getBoundingClientRect()")
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        where = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        for kind in ("dragEnter", "dragOver", "drop"):
            event = {"type": kind, "data": data, **where}
            self.driver.execute_cdp_cmd("Input.dispatchDragEvent", event)

    def press(self, *keys: str) -> None:
        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def tab_to(self, element_id: str, limit: int = 30) -> list[Any]:
        """Press Tab until that element has the focus; what had it on the way."""
        seen = []
        for _ in range(limit):
            self.press(Keys.TAB)
            seen.append(self.js(FOCUSED))
            if seen[-1]["id"] == element_id:
                return seen
        raise AssertionError(f"Tab does not lead to {element_id}: {seen}")

    def choose_by_keyboard(self, path: Path) -> None:
        """Open the file dialog of the focused input and choose there."""
        cdp = self.driver.execute_cdp_cmd
        cdp("Page.setInterceptFileChooserDialog", {"enabled": True})
        asked = len(self.log.of_kind("Page.fileChooserOpened"))
        self.press(Keys.SPACE)
        wait_for(lambda: len(self.log.of_kind("Page.fileChooserOpened")) > asked)
        node = self.log.of_kind("Page.fileChooserOpened")[-1]["backendNodeId"]
        cdp("DOM.setFileInputFiles", {"files": [str(path)], "backendNodeId": node})

    # --- what a person sees ------------------------------------------------------------------

    def js(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def until(self, script: str, *arguments: object) -> Any:
        """Wait until ``script`` returns something true; that."""
        return wait_for(lambda: self.js(script, *arguments))

    def text(self, selector: str) -> str:
        return str(self.js("return document.querySelector(arguments[0]).innerText", selector))

    def until_text(self, selector: str, part: str) -> None:
        """Wait until the first such element shows ``part``."""
        self.until(
            "return document.querySelector(arguments[0])?.innerText.includes(arguments[1])",
            selector,
            part,
        )

    def until_status(self, text: str) -> None:
        """Wait until the line at the top begins so."""
        self.until(
            "return document.getElementById('status').innerText.startsWith(arguments[0])", text
        )

    def picture(self, element_id: str) -> tuple[int, int] | None:
        """The width and height of a picture that is shown; None if there is none."""
        size = self.js(
            "const one = document.getElementById(arguments[0]);"
            "return one.checkVisibility() && one.complete && one.naturalWidth"
            "  ? [one.naturalWidth, one.naturalHeight] : null",
            element_id,
        )
        return size and (size[0], size[1])

    def beside(self, left: str, right: str) -> bool:
        """Whether two elements stand side by side, in that order, without touching."""
        return bool(
            self.js(
                "const [a, b] = arguments[0].map(id =>"
                "  document.getElementById(id).getBoundingClientRect());"
                "return a.right <= b.left && a.top < b.bottom && b.top < a.bottom",
                [left, right],
            )
        )

    def overflowing(self) -> list[str]:
        """What sticks out at the right; in the table's own scroller only what widens the page."""
        found: list[str] = self.js(OVERFLOWING, self._width)
        return found

    def spoken(self) -> list[list[str]]:
        """What a screen reader was made to say since the page was opened: [where, what]."""
        said: list[list[str]] = self.js("return spoken")
        return said

    def screenshot(self, name: str) -> None:
        """The whole page, from top to bottom."""
        size = self.js(
            "const one = document.documentElement; return [one.clientWidth, one.scrollHeight]"
        )
        clip = {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}
        options = {"format": "png", "captureBeyondViewport": True, "clip": clip}
        picture = self.driver.execute_cdp_cmd("Page.captureScreenshot", options)["data"]
        path = self._screenshots / f"dashboard-{name}.png"
        path.write_bytes(base64.b64decode(picture))
