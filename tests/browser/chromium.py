"""Chromium without a window, and what it writes down: its console and its network."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1600,900",
)


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """A browser with a profile of its own; gone with the profile at the end.

    Raises FileNotFoundError without Debian's ``chromium`` and ``chromium-driver``.
    """
    browser, driver_path = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver_path is None:
        raise FileNotFoundError("chromium or chromedriver is missing: run scripts/test-browser")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        options.add_argument(f"--user-data-dir={profile}")
        driver = webdriver.Chrome(options=options, service=Service(driver_path))
        try:
            yield driver
        finally:
            driver.quit()


class Log:
    """What one tab's console and network have told since the last ``clear``."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver
        self._messages: list[dict[str, Any]] = []

    def clear(self) -> None:
        self.network()
        self._driver.get_log("browser")
        self._messages.clear()

    def network(self) -> list[dict[str, Any]]:
        """All events of the DevTools protocol, oldest first."""
        for entry in self._driver.get_log("performance"):
            self._messages.append(json.loads(entry["message"])["message"])
        return self._messages

    def of_kind(self, method: str) -> list[dict[str, Any]]:
        """The parameters of the events of one method, such as ``Network.webSocketClosed``."""
        return [one["params"] for one in self.network() if one["method"] == method]

    def answers(self, url: str) -> list[str]:
        """The ids of the requests to ``url`` whose answer has come whole."""
        begun = {
            one["requestId"]
            for one in self.of_kind("Network.responseReceived")
            if one["response"]["url"] == url
        }
        ended = self.of_kind("Network.loadingFinished")
        return [one["requestId"] for one in ended if one["requestId"] in begun]

    def errors(self, origin: str) -> set[str]:
        """Errors and warnings of the console and failures of the network, comparable.

        Of another server of the same pages only ``origin`` differs: it is left out, and so is
        what is random in an address. Other servers of the internet do not concern us.
        """
        console = {
            f"{one['level']} {one['source']} {one['message']}"
            for one in self._driver.get_log("browser")
            if one["level"] in ("SEVERE", "WARNING")
        }
        return {
            _comparable(line, origin)
            for line in console | self._failures()
            if (address := _ADDRESS.search(line)) is None or address[0] == origin
        }

    def _failures(self) -> set[str]:
        failures: set[str] = set()
        requests: dict[str, str] = {}
        for message in self.network():
            params = message["params"]
            request = requests.get(params.get("requestId", ""), "")
            match message["method"]:
                case "Network.requestWillBeSent":
                    asked = params["request"]
                    requests[params["requestId"]] = f"{asked['method']} {asked['url']}"
                case "Network.responseReceived" if params["response"]["status"] >= 400:
                    failures.add(f"{params['response']['status']} {request}")
                # The page gives up requests itself: when depends on chance. Those that were not
                # seen to begin are Chromium's own.
                case "Network.loadingFailed" if (
                    request and params["errorText"] != "net::ERR_ABORTED"
                ):
                    failures.add(f"{params['errorText']} {request}")
                case "Network.webSocketFrameError":
                    failures.add(f"WebSocket: {params['errorMessage']}")
        return failures


_ADDRESS = re.compile(r"\bhttps?://[^\s/'\"]+")


def _comparable(line: str, origin: str) -> str:
    line = line.replace(origin, "<origin>").replace(origin.replace("http", "ws", 1), "<origin>")
    return re.sub(r"\brand=[\d.]+", "rand=…", line)
