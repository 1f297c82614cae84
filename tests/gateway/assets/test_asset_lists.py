"""The assets of all instances are one list, with one order and one cursor."""

from __future__ import annotations

from threading import current_thread, main_thread
from typing import Any
from unittest.mock import Mock
from urllib.parse import quote

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from assets_front import AssetServer
from rooms_harness import Client
from views_harness import front, get

from comfy_proxy.gateway.assets import lists, twins
from comfy_proxy.gateway.assets.asking import AssetAsking
from comfy_proxy.gateway.exchange.context import CONTEXT, RequestContext
from comfy_proxy.gateway.gateway import Gateway

Json = dict[str, Any]
ORDERS = [
    f"sort={sort}&order={order}"
    for sort in ("name", "created_at", "updated_at", "size")
    for order in ("asc", "desc")
]


def fill(one: AssetServer, two: AssetServer) -> None:
    """Results of equal names and times at both, and an input that stands in both."""
    for number in range(7):
        one.add(f"c_{number:05}_.png", at=number * 2)
    for number in range(5):
        two.add(f"c_{number:05}_.png", at=number * 3, content=b"longer" * number)
    one.add("in.png", "input", at=20, content=b"same")
    two.add("in.png", "input", at=30, content=b"same")


async def walk(client: Client, query: str) -> list[Json]:
    """All pages by the cursor."""
    assets: list[Json] = []
    after = ""
    while True:
        page = await get(client, f"/api/assets?{query}{after}")
        assets += page["assets"]
        assert page["has_more"] == ("next_cursor" in page)
        if not page["has_more"]:
            return assets
        after = f"&after={quote(page['next_cursor'], safe='')}"


@pytest.mark.long
@pytest.mark.parametrize("order", ORDERS)
async def test_one_cursor_over_all(
    client: Client, one: AssetServer, two: AssetServer, order: str
) -> None:
    """Every asset once, in one order, whatever the length of a page."""
    fill(one, two)
    whole = await get(client, f"/api/assets?{order}&limit=500")
    assert (len(whole["assets"]), whole["total"], whole["has_more"]) == (13, 13, False)
    sort, _, descending = order.removeprefix("sort=").partition("&order=")
    keys = [(asset[sort], asset["id"]) for asset in whole["assets"]]
    assert keys == sorted(keys, reverse=descending == "desc")
    for limit in (1, 2, 5):
        assert await walk(client, f"{order}&limit={limit}") == whole["assets"]


async def test_offsets_count_over_all(client: Client, one: AssetServer, two: AssetServer) -> None:
    """Also in the order that has no cursor."""
    fill(one, two)
    order = "sort=last_access_time"
    whole = await get(client, f"/api/assets?{order}&limit=500")
    pages = [await get(client, f"/api/assets?{order}&limit=4&offset={at}") for at in (0, 4, 8, 12)]
    assert [asset for page in pages for asset in page["assets"]] == whole["assets"]
    assert [page["has_more"] for page in pages] == [True, True, True, False]
    assert all(page["total"] == 13 and "next_cursor" not in page for page in pages)


async def test_long_lists_are_read_page_by_page(
    client: Client, one: AssetServer, two: AssetServer
) -> None:
    """More than an instance gives at once, one after the other and by an offset."""
    for number in range(1100):
        one.add(f"{number}.png", at=number)
    two.add("last.png", at=1200)
    assert len(await walk(client, "limit=500")) == 1101
    page = await get(client, "/api/assets?offset=1099&limit=5")
    assert [asset["name"] for asset in page["assets"]] == ["1.png", "0.png"]


async def test_what_comes_and_goes_between_two_pages_shifts_nothing(
    client: Client, one: AssetServer, two: AssetServer
) -> None:
    """New assets stand before the cursor, and the last one that was shown has been deleted."""
    fill(one, two)
    whole = await get(client, "/api/assets?limit=500")
    page = await get(client, "/api/assets?limit=3")
    for server in (one, two):
        server.add("new.png", at=99)
        server.assets.pop(page["assets"][-1]["id"], None)
    rest = await walk(client, f"limit=500&after={page['next_cursor']}")
    assert [asset["id"] for asset in rest] == [asset["id"] for asset in whole["assets"][3:]]


async def test_an_upload_is_seen_once(client: Client, one: AssetServer, two: AssetServer) -> None:
    """The one that was made first; what only has the same bytes, or the same name, is another."""
    copy = one.add("in.png", "input", content=b"same", at=2)
    own = two.add("in.png", "input", content=b"same", at=1, name="My dog.png")
    others = [
        one.add("in.png", "output", content=b"same"),
        two.add("in.png", "output", content=b"same"),
        two.add("b.png", "input", content=b"same"),
        one.add("c.png", "input", content=b"1111"),
        two.add("c.png", "input", content=b"2222"),
    ]
    page = await get(client, "/api/assets")
    expected = {asset["id"] for asset in (own, *others)}
    assert ({asset["id"] for asset in page["assets"]}, page["total"]) == (expected, 6)
    named = await get(client, "/api/assets?name_contains=MY DOG&include_tags=input")
    assert [asset["id"] for asset in named["assets"]] == [own["id"]]
    hidden = await get(client, "/api/assets?name_contains=in.png&tags_any=input")
    assert (hidden["assets"], hidden["total"]) == ([], 0)
    del two.assets[own["id"]]
    page = await get(client, "/api/assets?include_tags=input")
    assert copy["id"] in {asset["id"] for asset in page["assets"]}


async def test_a_scanned_input_without_a_hash_is_the_same_file(
    client: Client, one: AssetServer, two: AssetServer
) -> None:
    """Hashes are made late or never; a model has none and stands at both too."""
    for server in (one, two):
        server.add("in.png", "input", content=b"same", with_hash=server is two)
        server.add("x.safetensors", "models", content=b"model", with_hash=False)
    page = await get(client, "/api/assets")
    assert (len(page["assets"]), page["total"]) == (2, 2)


async def test_the_total_is_right_by_any_filter(
    client: Client, one: AssetServer, two: AssetServer
) -> None:
    """Also by one that only the instance can judge."""
    for server in (one, two):
        server.add("a.png", "input", content=b"a", user_metadata={"x": 1})
        server.add("b.png", "input", content=b"b")
    for query, total in (
        ("metadata_filter=%7B%22x%22%3A1%7D", 1),
        ("exclude_tags=input", 0),
        ("tags_none=other&tags_all=input,uploaded", 2),
        ("name_contains=A.P", 1),
    ):
        page = await get(client, f"/api/assets?{query}")
        assert (len(page["assets"]), page["total"]) == (total, total), query


async def test_twins_are_read_anew_only_when_something_has_changed(
    client: Client, one: AssetServer, two: AssetServer
) -> None:
    """A list asks each instance for its page and for what was changed last, no more."""
    for number in range(600):
        for server in (one, two):
            server.add(f"{number}.png", "input", at=number, content=b"%d" % number)
    assert (await get(client, "/api/assets"))["total"] == 600
    before = len(one.requests)
    assert (await get(client, "/api/assets"))["total"] == 600
    assert len(one.requests) - before == 2
    for server in (one, two):
        server.add("late.png", "input", at=700, content=b"late")
    assert (await get(client, "/api/assets"))["total"] == 601
    one.assets.clear()
    assert (await get(client, "/api/assets"))["total"] == 601


async def test_an_instance_that_was_away_is_read_anew(
    client: Client, gateway: Gateway, one: AssetServer, two: AssetServer
) -> None:
    """It may have come back with another database, of as many entries."""
    for server in (one, two):
        server.add("a.png", "input", content=b"same")
    assert (await get(client, "/api/assets"))["total"] == 1
    instance = gateway.cluster.instances[1]
    for hear in instance.on_interruption:
        hear(instance)
    before = len(two.requests)
    assert (await get(client, "/api/assets"))["total"] == 1
    assert len(two.requests) - before == 2


async def test_half_a_list_is_503(client: Client, one: AssetServer, two: AssetServer) -> None:
    """And says why."""
    fill(one, two)
    await two.stop()
    for path in ("/api/assets", "/api/tags", "/api/assets/tags/refine"):
        async with client.get(path) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
            assert "instance 2" in await answer.text()


@pytest.mark.parametrize("enabled", [None, False])
@pytest.mark.parametrize("path", ["/api/assets", "/api/tags", "/api/assets/tags/refine"])
async def test_an_instance_without_assets_is_left_out(
    one: AssetServer, path: str, enabled: bool | None
) -> None:
    """An old one, or one that has them switched off; if none has any its own answer is given."""
    one.add("a.png")
    async with AssetServer("old", enabled=enabled) as old, AssetServer("x", enabled=enabled) as x:
        async with front(old.url, one.url) as (client, _):
            found = await get(client, path)
            assert found == await get(client, path)
            assert "a.png" in str(found) or "output" in str(found)
            async with client.get(f"{path}?limit=0") as answer:
                assert answer.status == 400
        async with front(old.url, x.url) as (client, _), client.get(path) as answer:
            assert answer.status == (404 if enabled is None else 503)
            assert ("SERVICE_DISABLED" in await answer.text()) == (enabled is False)


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=x",
        "sort=colour",
        "after=zzz",
        "after=~zzz",
        "after=~",
        "after=~bnVsbA",
        f"after=~{'A' * 8000}",
    ],
)
async def test_a_query_that_comfyui_refuses_is_refused_by_it(
    client: Client, one: AssetServer, query: str
) -> None:
    """Its own 400."""
    one.add("a.png")
    async with client.get(f"/api/assets?{query}") as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["code"].startswith("INVALID_")


async def test_a_cursor_of_another_order_is_refused(
    client: Client, one: AssetServer, two: AssetServer
) -> None:
    """As ComfyUI does it."""
    fill(one, two)
    cursor = (await get(client, "/api/assets?limit=1"))["next_cursor"]
    for order in ("sort=name", "order=asc"):
        async with client.get(f"/api/assets?{order}&after={cursor}") as answer:
            assert answer.status == 400


async def test_a_refusal_of_one_is_the_answer(
    client: Client, one: AssetServer, two: AssetServer
) -> None:
    """Its disk is full, say: a list without its part would be wrong."""
    one.add("a.png")
    two.odd["/api/assets"] = web.Response(status=500, text="disk")
    async with client.get("/api/assets") as answer:
        assert (answer.status, await answer.text()) == (500, "disk")


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b"3",
        b'{"assets": 3}',
        b'{"assets": [null, 3, [], {}, {"id": {}, "tags": 3, "name": []}, '
        b'{"id": "x", "created_at": NaN, "preview_url": 3}], "total": "x", "has_more": 1}',
    ],
)
async def test_odd_answers_do_no_harm(
    client: Client, one: AssetServer, two: AssetServer, body: bytes
) -> None:
    """What the other one has is shown."""
    own = one.add("a.png")
    two.odd["/api/assets"] = web.Response(body=body, content_type="application/json")
    for path in ("/api/assets", "/api/tags", "/api/assets/tags/refine"):
        async with client.get(path) as answer:
            assert answer.status == 200
            assert own["name"] in await answer.text() or path != "/api/assets"


async def test_previews_of_a_list_show_what_they_say(
    client: Client, one: AssetServer, two: AssetServer
) -> None:
    """Each URL leads to the instance of its asset; whose it is is known from then on."""
    fill(one, two)
    for asset in (await get(client, "/api/assets?limit=100"))["assets"]:
        owner = one if asset["id"] in one.assets else two
        kind = asset["tags"][0]
        async with client.get(asset["preview_url"]) as answer:
            assert await answer.read() == owner.files[kind, asset["display_name"]]
    asset_id = next(iter(two.assets))
    before = len(one.requests)
    await get(client, f"/api/assets/{asset_id}")
    assert len(one.requests) == before


@pytest.mark.parametrize("query", ["", "?limit=1", "?metadata_filter={}"])
async def test_one_that_gives_the_same_page_for_ever_is_read_once(
    client: Client, one: AssetServer, two: AssetServer, query: str
) -> None:
    """What it says is there, and the list has an end."""
    own = one.add("a.png", "input")
    two.add("b.png", "input")
    for more in ({}, {"next_cursor": "abc"}, {"next_cursor": "\ud800"}):
        body = {"assets": list(two.assets.values()), "total": 1, "has_more": True, **more}
        two.odd["/api/assets"] = web.json_response(body)
        two.odd["/api/tags"] = web.json_response(
            {"tags": [{"name": "x", "count": 1}], "total": 1, "has_more": True}
        )
        page = await get(client, f"/api/assets{query}")
        assert {one["name"] for one in page["assets"]} <= {own["name"], "b.png"}
        assert {"name": "x", "count": 1} in (await get(client, "/api/tags"))["tags"]


async def test_what_is_kept_of_users_is_bounded(
    gateway: Gateway, one: AssetServer, two: AssetServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody can name as many users as they like."""
    monkeypatch.setattr(twins, "MAX_KEPT", 4)
    for server in (one, two):
        for name in "abc":
            server.add(name, "input", at=1, content=b"same")
    transport = Mock(get_extra_info=lambda name, default=None: default)
    known = twins.AssetTwins(AssetAsking(gateway.cluster), gateway.files.storage)
    for user in ("", "u1", "u2", "u3", "u1"):
        headers = {"comfy-user": user}
        request = make_mocked_request("GET", "/", headers=headers, transport=transport)
        request[CONTEXT] = RequestContext("test")
        hidden = await known.hidden(request, gateway.cluster.instances)
        assert [len(entries) for entries in hidden.values()] == [0, 3]
        assert repr(known) == "<AssetTwins 6 entries>"


async def test_many_inputs_are_compared_once_and_out_of_the_way(
    client: Client, one: AssetServer, two: AssetServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 20,000 of them that takes 0.1 s, at each look at a list; done only after a change."""
    monkeypatch.setattr(twins, "MANY", 3)
    monkeypatch.setattr(lists, "MANY", 3)
    compared = []
    compare = twins._hidden
    monkeypatch.setattr(
        twins, "_hidden", lambda known: compared.append(current_thread()) or compare(known)
    )
    for server in (one, two):
        for name in ("A.png", "b.png", "c.png", "d.png"):
            server.add(name, "input", at=1, content=b"same")
    for _ in range(3):
        assert (await get(client, "/api/assets?name_contains=a."))["total"] == 1
    assert len(compared) == 1
    two.add("e.png", "input", at=2)
    assert (await get(client, "/api/assets"))["total"] == 5
    assert len(compared) == 2
    assert main_thread() not in compared


async def test_entries_without_a_file_are_compared_with_nobody(
    client: Client, one: AssetServer, two: AssetServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client may add any number for bytes that are known; each with all would be minutes."""
    compared = Mock(return_value=False)
    monkeypatch.setattr(twins.Entry, "is_twin", compared)
    for server in (one, two):
        for number in range(20):
            server.add(f"{number}.png", "input", content=b"same", display_name=None)
    assert (await get(client, "/api/assets?limit=500"))["total"] == 40
    compared.assert_not_called()
