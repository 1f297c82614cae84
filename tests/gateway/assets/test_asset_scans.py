"""Scans are done by all instances, and the answers are one."""

from __future__ import annotations

from typing import Any

from assets_front import AssetServer
from rooms_harness import Client
from views_harness import front, get


async def post(client: Client, path: str) -> tuple[int, Any]:
    async with client.post(f"/api/assets/{path}", json={}) as answer:
        return answer.status, await answer.json()


async def test_all_scan(client: Client, one: AssetServer, two: AssetServer) -> None:
    """One that scans already does no harm; when all do it is a conflict."""
    two.scan = "RUNNING"
    assert await post(client, "seed") == (202, {"status": "started"})
    assert (one.asked("POST", "/api/assets/seed"), two.asked("POST", "/api/assets/seed")) == (1, 1)
    one.scan = "RUNNING"
    assert await post(client, "seed") == (409, {"status": "already_running"})


async def test_waiting_for_all_sums_what_was_found(client: Client) -> None:
    """With ``wait`` the counts come."""
    progress = {"scanned": 4, "total": 10, "created": 2, "skipped": 6}
    body = {"status": "completed", "progress": progress, "errors": ["one", "two"]}
    assert await post(client, "seed?wait=true") == (200, body)


async def test_the_state_is_that_of_the_busiest(
    client: Client, one: AssetServer, two: AssetServer
) -> None:
    """Whichever it is."""
    path = "/api/assets/seed/status"
    assert (await get(client, path))["state"] == "IDLE"
    two.scan = "PAUSED"
    assert (await get(client, path))["state"] == "PAUSED"
    one.scan = "RUNNING"
    assert (await get(client, path))["state"] == "RUNNING"
    one.scan = "something new"
    assert (await get(client, path))["state"] == "PAUSED"


async def test_cancelling_and_pruning(client: Client, two: AssetServer) -> None:
    """What is asked of all is answered for all."""
    assert await post(client, "seed/cancel") == (200, {"status": "idle"})
    assert await post(client, "prune") == (200, {"status": "completed", "marked": 4})
    two.scan = "RUNNING"
    assert await post(client, "seed/cancel") == (200, {"status": "cancelling"})
    assert (await post(client, "prune"))[0] == 409


async def test_who_is_away_or_has_no_assets_is_left_out(
    client: Client, one: AssetServer, two: AssetServer
) -> None:
    """It scans when it starts."""
    await two.stop()
    assert await post(client, "seed") == (202, {"status": "started"})
    async with AssetServer("old", enabled=None) as old, front(old.url, one.url) as (other, _):
        assert await post(other, "prune") == (200, {"status": "completed", "marked": 2})
        assert (await get(other, "/api/assets/seed/status"))["state"] == "IDLE"
