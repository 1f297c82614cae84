"""The dashboard for everybody: axe-core finds nothing, at any width, dark and light."""

from __future__ import annotations

from pathlib import Path

import pytest
from dashboard_page import NARROW, WIDE, Dashboard
from embedded_pair import EmbeddedServer, submit

RUN_AXE = """
  const done = arguments[arguments.length - 1];
  axe.run().then(found => done(found.violations.flatMap(one =>
    one.nodes.map(node => `${one.id}: ${node.target} ${node.failureSummary}`))))"""


def violations(dashboard: Dashboard) -> list[str]:
    found: list[str] = dashboard.driver.execute_async_script(RUN_AXE)
    return found


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_anybody_can_use_it(
    dashboard: Dashboard,
    servers: tuple[EmbeddedServer, EmbeddedServer],
    photograph: Path,
    axe: str,
    width: int,
    dark: bool,
) -> None:
    """At rest, at work with an error, with a picture chosen and with an instance down."""
    dashboard.look(width, dark=dark)
    dashboard.open()
    dashboard.js(axe)
    found = violations(dashboard)
    submit(dashboard.url, "failing", photograph)
    dashboard.until_text("#queue", "1 failed")
    for number in range(8):
        submit(dashboard.url, "showing", photograph, salt=number, seconds=100)
    dashboard.until("return document.querySelector('#instances img.preview')")
    dashboard.drop(photograph)
    dashboard.until_text("#before-size", "(600 × 400)")
    found += violations(dashboard)
    servers[1].kill()
    dashboard.until_status("degraded")
    found += violations(dashboard)
    assert found == []
    assert dashboard.overflowing() == []
