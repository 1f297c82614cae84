"""Counts of tags are sums, and an input that stands in several databases counts once."""

from __future__ import annotations

from assets_front import AssetServer
from rooms_harness import Client
from views_harness import get


async def test_counts_are_summed(client: Client, one: AssetServer, two: AssetServer) -> None:
    """The most used first, or by name; the pages are cut from the sums."""
    for server in (one, two):
        server.add("in.png", "input", content=b"same")
        server.add("c.png")
    two.add("d.png", tags=["output", "rare"])
    rows = [("output", 3), ("uploaded", 3), ("input", 1), ("rare", 1)]
    whole = await get(client, "/api/tags")
    assert [(row["name"], row["count"]) for row in whole["tags"]] == rows
    assert (whole["total"], whole["has_more"]) == (4, False)
    page = await get(client, "/api/tags?limit=2&offset=1&order=name_asc")
    assert [row["name"] for row in page["tags"]] == ["output", "rare"]
    assert (page["total"], page["has_more"]) == (4, True)


async def test_a_histogram_follows_the_filters(
    client: Client, one: AssetServer, two: AssetServer
) -> None:
    """A hidden twin is taken off where the filters would let it pass."""
    for server in (one, two):
        server.add("in.png", "input", content=b"same")
        server.add("c.png")
    found = await get(client, "/api/assets/tags/refine?include_tags=input")
    assert found == {"tag_counts": {"input": 1, "uploaded": 1}}
    found = await get(client, "/api/assets/tags/refine?exclude_tags=input")
    assert found == {"tag_counts": {"output": 2, "uploaded": 2}}
    assert await get(client, "/api/assets/tags/refine?limit=1") == {"tag_counts": {"uploaded": 3}}


async def test_odd_numbers_are_refused_by_comfyui(client: Client) -> None:
    """Its own 400."""
    async with client.get("/api/tags?limit=0") as answer:
        assert answer.status == 400
