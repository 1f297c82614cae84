"""The page comes through the proxy as it comes from a ComfyUI."""

from __future__ import annotations

from pathlib import Path

from chromium import chromium
from frontend import Frontend
from processes import LiveServer, proxy


def load_twice(url: str, screenshots: Path, name: str) -> tuple[set[str], set[str]]:
    """Errors of the first load ever, with its dialogs, and of a reload."""
    with chromium() as driver:
        page = Frontend(driver, url, screenshots)
        page.open()
        page.screenshot(f"load-{name}")
        first = page.log.errors(url)
        page.reload()
        page.screenshot(f"reload-{name}")
        return first, page.log.errors(url)


def test_the_page_loads_without_an_error_that_a_direct_load_does_not_give(
    servers: tuple[LiveServer, LiveServer], screenshots: Path, tmp_path: Path
) -> None:
    """Console and network, first load and reload: nothing that one ComfyUI does not give too."""
    for server in servers:
        server.forget_settings()
    direct = load_twice(servers[0].url, screenshots, "direct")
    for server in servers:
        server.forget_settings()
    with proxy(servers, tmp_path) as url:
        proxied = load_twice(url, screenshots, "proxy")
    assert all(direct), "even a direct load has errors; were none seen, none could be compared"
    known = set.union(*direct)  # Chromium asks for the favicon at one of the two loads
    assert [ours - known for ours in proxied] == [set(), set()]
