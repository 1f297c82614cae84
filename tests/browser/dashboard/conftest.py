"""A browser before the proxy before two embedded workers.

``python -m pytest tests/browser/dashboard -o addopts=`` (with BROWSER_SCREENSHOTS to keep them).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import chromium
from dashboard_page import Dashboard
from embedded_pair import EmbeddedServer, write_workflows
from processes import proxy

PHOTOGRAPHS = Path(__file__).parents[3] / "comfy_proxy/embedded/pictures"


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[EmbeddedServer, EmbeddedServer]]:
    """Two workers that a test may kill."""
    pair = (EmbeddedServer(tmp_path / "one", "one"), EmbeddedServer(tmp_path / "two", "two"))
    try:
        for server in pair:
            server.start()
        yield pair
    finally:
        for server in pair:
            server.kill()


@pytest.fixture
def proxy_url(
    servers: tuple[EmbeddedServer, EmbeddedServer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """The proxy before both; an outage is noticed within a second or two."""
    monkeypatch.setenv("WORKFLOW_DIRECTORY", str(write_workflows(tmp_path / "workflows")))
    monkeypatch.setenv("HEALTH_CHECK_INTERVAL", "500")
    monkeypatch.setenv("HEALTH_CHECK_TIMEOUT", "3000")
    monkeypatch.setenv("SHUTDOWN_TIMEOUT", "0")
    with proxy(servers, tmp_path) as url:
        yield url


@pytest.fixture
def dashboard(proxy_url: str, screenshots: Path) -> Iterator[Dashboard]:
    """The dashboard's tab, not yet opened."""
    with chromium() as driver:
        yield Dashboard(driver, proxy_url, screenshots)


@pytest.fixture(scope="session")
def photograph() -> Path:
    """A real one, of a cup of coffee, 600 × 400."""
    return PHOTOGRAPHS / "coffee.png"


@pytest.fixture
def axe() -> str:
    """The source of axe-core, which is not ours: AXE_CORE names its ``axe.min.js``."""
    path = os.environ.get("AXE_CORE")
    if not path:
        pytest.skip("AXE_CORE is not set: npm install axe-core, then name its axe.min.js")
    return Path(path).read_text()
