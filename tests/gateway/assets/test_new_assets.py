"""New assets: where they go, and that an uploaded input is usable wherever a prompt lands."""

from __future__ import annotations

import io
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from assets_front import AssetServer, blake3
from rooms_harness import Client
from views_harness import front, get

from comfy_proxy.gateway.assets.new_asset import uploaded_input
from comfy_proxy.gateway.files.file_name import FileName
from comfy_proxy.gateway.gateway import Gateway


async def create(client: Client, content: bytes | None, **fields: str) -> tuple[int, Any]:
    """``POST /api/assets``: status and JSON."""
    form = aiohttp.FormData()
    for name, value in fields.items():
        form.add_field(name, value)
    if content is not None:
        form.add_field("file", io.BytesIO(content), filename="dog.png", content_type="image/png")
    elif not fields.get("file"):
        form.add_field("none", "", content_type="text/plain")
    async with client.post("/api/assets", data=form) as answer:
        return answer.status, await answer.json()


async def test_an_uploaded_input_is_everywhere_and_listed_once(
    client: Client, gateway: Gateway, one: AssetServer, two: AssetServer
) -> None:
    """Under the path that a graph names, at each instance; the list shows the client's name."""
    status, asset = await create(client, b"dog", tags="input", name="My dog.png")
    assert (status, asset["created_new"], asset["name"]) == (201, True, "My dog.png")
    path = asset["display_name"]
    assert one.files["input", path] == two.files["input", path] == b"dog"
    file = FileName(filename=path, type="input")
    assert file in gateway.files.uploads
    assert all(gateway.files.known_to_hold(file, one) for one in gateway.cluster.instances)
    listed = await get(client, "/api/assets")
    assert [one["name"] for one in listed["assets"]] == ["My dog.png"]
    async with client.delete(f"/api/assets/{asset['id']}") as answer:
        assert answer.status == 204
    assert one.assets == two.assets == {}


async def test_an_upload_goes_on_while_the_primary_is_away(
    client: Client, one: AssetServer, two: AssetServer
) -> None:
    """The next one takes it."""
    await one.stop()
    status, asset = await create(client, b"dog", tags="input", name="d.png")
    assert (status, list(two.assets)) == (201, [asset["id"]])


async def test_a_result_stays_where_it_was_uploaded(
    client: Client, one: AssetServer, two: AssetServer
) -> None:
    """Its URL says where that is."""
    status, asset = await create(client, b"out", tags="output", name="o.png")
    assert (status, two.files) == (201, {})
    async with client.get(asset["preview_url"]) as answer:
        assert await answer.read() == b"out"
    assert "%401" in asset["preview_url"]


async def test_known_bytes_are_found_wherever_they_are(
    client: Client, one: AssetServer, two: AssetServer
) -> None:
    """By their hash: the question, an entry made of it, and an upload without bytes."""
    known = blake3(b"bytes")
    two.add("x.png", "input", content=b"bytes")
    async with client.head(f"/api/assets/hash/{known}") as answer:
        assert answer.status == 200
    async with client.head(f"/api/assets/hash/{blake3(b'other')}") as answer:
        assert answer.status == 404
    body = {"hash": known, "name": "again.png"}
    async with client.post("/api/assets/from-hash", json=body) as answer:
        assert answer.status == 201
        again = await answer.json()
    status, third = await create(client, None, hash=known, name="third.png", tags="input")
    assert (status, third["created_new"]) == (200, False)
    assert {again["id"], third["id"]} < two.assets.keys()
    assert one.assets == {}
    listed = await get(client, "/api/assets")
    assert {asset["name"] for asset in listed["assets"]} == {"x.png", "again.png", "third.png"}


async def test_what_nobody_has_is_refused_by_comfyui(client: Client) -> None:
    """A hash that is unknown, one that is none, and a form without a file."""
    for body in ({"hash": blake3(b"?")}, {"hash": "blake3:/../x?y"}):
        async with client.post("/api/assets/from-hash", json=body) as answer:
            assert answer.status == 404
    assert (await create(client, None, tags="input"))[0] == 400


async def test_odd_answers_to_an_upload_pass(client: Client, one: AssetServer) -> None:
    """Whatever it says is the client's."""
    one.odd["/api/assets"] = web.Response(status=201, text="[1,")
    async with client.post("/api/assets", data=b"no form") as answer:
        assert (answer.status, await answer.text()) == (201, "[1,")


@pytest.mark.parametrize(
    ("asset", "path"),
    [
        ({"display_name": "sub/x.png", "tags": ["input"]}, "sub"),
        ({"display_name": "x.png", "tags": ["input", "temp"]}, None),
        ({"display_name": "x.png", "tags": ["output"]}, None),
        ({"display_name": "", "tags": ["input"]}, None),
        ({"tags": ["input"]}, None),
        ({"display_name": "x.png", "tags": [[], "input"]}, ""),
        ({"display_name": 3, "tags": 3}, None),
        ([], None),
    ],
)
def test_which_uploads_are_inputs(asset: Any, path: str | None) -> None:
    """By the tag and the path in the answer."""
    file = uploaded_input(asset)
    assert (None if file is None else file.subfolder) == path


async def test_copies_of_results_are_in_no_list(
    client: Client, gateway: Gateway, one: AssetServer, two: AssetServer
) -> None:
    """A prompt needs a result of another instance: the copy that is made is no asset."""
    two.add("c.png")
    first = gateway.cluster.instances[0]
    file = FileName(filename="c.png", subfolder="@2", type="output")
    assert await gateway.staging.stage(file, first)
    assert one.files["output", "@2/c.png"] == b"two:output/c.png"
    assert one.assets == {}
    assert (await get(client, "/api/assets"))["total"] == 1


@pytest.mark.parametrize("enabled", [None, False])
async def test_a_primary_without_assets_is_passed_over(
    one: AssetServer, enabled: bool | None
) -> None:
    """Whoever has a database takes the upload, and says what is unknown; if nobody has one, the
    answer is that of the first."""
    async with (
        AssetServer("old", enabled=enabled) as old,
        front(old.url, one.url) as (client, _),
        front(old.url, old.url.replace("127.0.0.1", "localhost")) as (without, _),
    ):
        status, asset = await create(client, b"dog", tags="input", name="d.png")
        assert (status, list(one.assets)) == (201, [asset["id"]])
        assert old.files["input", asset["display_name"]] == b"dog"
        async with client.head(f"/api/assets/hash/{blake3(b'?')}") as answer:
            assert answer.status == 404
        body = {"hash": blake3(b"?")}
        async with client.post("/api/assets/from-hash", json=body) as answer:
            assert (answer.status, "ASSET_NOT_FOUND" in await answer.text()) == (404, True)
        absent = "00000000-0000-0000-0000-000000000000"
        async with client.get(f"/api/assets/{absent}") as answer:
            assert (answer.status, "ASSET_NOT_FOUND" in await answer.text()) == (404, True)
        async with without.post("/api/assets", data=b"x") as answer:
            assert answer.status == (404 if enabled is None else 503)


@pytest.mark.parametrize("word", ["x" * 100_000, "\\ud800", "../../queue", "a b", "é"])
async def test_a_word_that_can_be_no_hash_is_asked_for_nowhere(
    client: Client, gateway: Gateway, one: AssetServer, two: AssetServer, word: str
) -> None:
    """One that fits into no request line made each instance look broken, and three took all away;
    one that has no bytes in UTF-8 was a 500."""
    for _ in range(4):
        body = f'{{"hash": "{word}", "name": "x.png"}}'
        async with client.post("/api/assets/from-hash", data=body.encode()) as answer:
            assert answer.status == 404
    assert all(instance.healthy for instance in gateway.cluster.instances)
    assert {path for _, path in one.requests + two.requests} == {"/api/assets/from-hash"}


async def test_an_upload_is_made_as_the_user_of_the_instance(
    client: Client, one: AssetServer, two: AssetServer
) -> None:
    one.users, two.users = {"ann_1": "ann"}, {"ann_2": "ann"}
    form = aiohttp.FormData({"tags": "input", "name": "d.png"})
    form.add_field("file", io.BytesIO(b"woof"), filename="dog.png", content_type="image/png")
    async with client.post("/api/assets", data=form, headers={"comfy-user": "ann_2"}) as answer:
        assert answer.status == 201
    assert one.seen_users - {None} == {"ann_1"}
    assert two.seen_users - {None} <= {"ann_2"}


async def test_a_body_is_no_longer_than_can_be_read_at_once(
    client: Client, one: AssetServer
) -> None:
    """Of 16 MB of JSON that takes a second in which nobody else is answered."""
    body = io.BytesIO(b'{"name": "' + b"x" * 2**20 + b'"}')
    async with client.post("/api/assets/from-hash", data=body) as answer:
        assert answer.status == 413
    assert one.requests == []
