"""Assets in a directory that both instances have, whether ``SHARED_STORAGE`` says so or not."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from assets_front import AssetServer
from rooms_harness import Client
from views_harness import front, get


@pytest.fixture(params=[frozenset(), frozenset({"input", "output"})], ids=["unsaid", "said"])
async def client(
    one: AssetServer, two: AssetServer, request: pytest.FixtureRequest
) -> AsyncIterator[Client]:
    two.files = one.files
    async with front(one.url, two.url, shared_storage=request.param) as (client, _):
        yield client


async def create(client: Client, content: bytes) -> Any:
    form = aiohttp.FormData()
    form.add_field("file", io.BytesIO(content), filename="dog.png", content_type="image/png")
    form.add_field("tags", "input")
    form.add_field("name", "My dog.png")
    async with client.post("/api/assets", data=form) as answer:
        assert answer.status == 201
        return await answer.json()


async def names(client: Client, query: str = "") -> list[str]:
    listed = await get(client, f"/api/assets{query}")
    assert listed["total"] == len(listed["assets"])
    return [asset["name"] for asset in listed["assets"]]


async def test_an_upload_is_listed_once_and_deleted_for_both(
    client: Client, one: AssetServer, two: AssetServer
) -> None:
    """It is put there once, though a scan of the other one finds it too."""
    asset = await create(client, b"dog")
    assert (two.assets, two.asked("POST", "/upload/image")) == ({}, 0)
    assert await names(client) == ["My dog.png"]
    two.add(asset["display_name"], "input", content=b"dog", at=99, with_hash=False)
    assert await names(client) == ["My dog.png"]
    async with client.delete(f"/api/assets/{asset['id']}") as answer:
        assert answer.status == 204
    assert one.assets == two.assets == {}


async def test_one_database_for_both(client: Client, one: AssetServer, two: AssetServer) -> None:
    """An entry is no twin of itself: it is listed once, and its deletion succeeds."""
    two.assets = one.assets
    asset = await create(client, b"dog")
    assert await names(client) == ["My dog.png"]
    async with client.delete(f"/api/assets/{asset['id']}") as answer:
        assert answer.status == 204
    assert (one.assets, await names(client)) == ({}, [])


async def test_a_result_that_both_list(one: AssetServer, two: AssetServer) -> None:
    """It is one file where that is said; else it may be two pictures of one name."""
    two.files = one.files
    for number, server in enumerate((one, two)):
        server.add("r.png", content=b"result", at=number)
    for said, urls in (
        (frozenset({"output"}), ["/api/view?type=output&filename=r.png"]),
        (
            frozenset(),
            [
                "/api/view?type=output&filename=r.png&subfolder=%402",
                "/api/view?type=output&filename=r.png&subfolder=%401",
            ],
        ),
    ):
        async with front(one.url, two.url, shared_storage=said) as (client, _):
            listed = await get(client, "/api/assets")
            assert [asset["preview_url"] for asset in listed["assets"]] == urls
            for url in urls:
                async with client.get(url) as answer:
                    assert await answer.read() == b"result"
