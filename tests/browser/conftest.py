"""A browser before the proxy before two real ComfyUI servers (scripts/test-browser)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import chromium
from frontend import Frontend
from processes import LiveServer, proxy


@pytest.fixture(scope="session")
def servers() -> tuple[LiveServer, LiveServer]:
    """Both servers. One of them is killed: they must be nobody else's."""
    found = []
    for number in (1, 2):
        url = os.environ.get(f"COMFY_LIVE_{number}")
        directory = os.environ.get(f"COMFY_LIVE_DIR_{number}")
        if not url or not directory:
            pytest.skip(f"COMFY_LIVE_{number} is not set: run scripts/test-browser")
        found.append(LiveServer(url, Path(directory)))
    return found[0], found[1]


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    """Where screenshots go: to BROWSER_SCREENSHOTS, or where pytest keeps its files."""
    directory = Path(os.environ.get("BROWSER_SCREENSHOTS") or tmp_path / "screenshots")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@pytest.fixture
def proxy_url(servers: tuple[LiveServer, LiveServer], tmp_path: Path) -> Iterator[str]:
    """The proxy before both servers, which have nothing to do."""
    for server in servers:
        server.become_idle()
    with proxy(servers, tmp_path) as url:
        yield url


@pytest.fixture
def frontend(proxy_url: str, screenshots: Path) -> Iterator[Frontend]:
    """The page of the proxy in a browser of its own; a picture of it when the test ends."""
    with chromium() as driver:
        page = Frontend(driver, proxy_url, screenshots)
        yield page
        page.screenshot("last")
