"""An instance is killed and started again while a page stays open: the page need not know."""

from __future__ import annotations

from pathlib import Path

import pytest
from frontend import Frontend
from page_prompts import Servers, run_and_see
from pictures import timed_graph
from processes import get, wait_for

MAX_RUNS = 8
RETURN_TIMEOUT_S = 120.0
MARK = "window.notReloaded = true"


def run_until_both_ran(frontend: Frontend, servers: Servers, directory: Path) -> list[str]:
    """Run prompts until both servers have had one; their ids."""
    prompt_ids: list[str] = []
    while not all(any(server.has_run(one) for one in prompt_ids) for server in servers):
        assert len(prompt_ids) < MAX_RUNS, "one server gets nothing"
        prompt_ids.append(run_and_see(frontend, directory))
    return prompt_ids


@pytest.mark.parametrize("victim", [0, 1], ids=["primary", "other"])
def test_an_open_page_outlives_an_instance_and_uses_it_again_without_a_reload(
    frontend: Frontend, servers: Servers, proxy_url: str, tmp_path: Path, victim: int
) -> None:
    """Killed and started again: before, meanwhile and after the page uploads, runs and sees.

    The killed one is the primary, from which the page itself came, or the other one.
    """
    frontend.open()
    frontend.js(MARK)
    frontend.show(timed_graph(0.5))
    frontend.press(".queue-tab-button")
    run_until_both_ran(frontend, servers, tmp_path)

    servers[victim].kill()
    try:
        frontend.screenshot(f"killed-{victim}")
        meanwhile = [run_and_see(frontend, tmp_path) for _ in range(3)]
        assert all(servers[1 - victim].has_run(prompt_id) for prompt_id in meanwhile)
        frontend.screenshot(f"meanwhile-{victim}")
    finally:
        servers[victim].start()

    wait_for(lambda: get(f"{proxy_url}/health"), RETURN_TIMEOUT_S)  # 503 while one is away
    run_until_both_ran(frontend, servers, tmp_path)
    frontend.screenshot(f"returned-{victim}")
    assert frontend.js("return window.notReloaded")
    assert frontend.heard("reconnecting") == []
    assert frontend.log.of_kind("Network.webSocketClosed") == []
    assert len(frontend.log.of_kind("Network.webSocketCreated")) == 1
    failed = {line for line in frontend.log.errors(proxy_url) if line.startswith(("5", "net::"))}
    assert failed == set()
