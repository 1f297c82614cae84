"""What is asked of one asset goes to the instance that has it."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest
from aiohttp import web
from assets_front import AssetServer
from events_harness import until
from rooms_harness import Client
from views_harness import get

from comfy_proxy.gateway.gateway import Gateway
from comfy_proxy.gateway.state import shared_state


async def test_everything_about_an_asset_is_answered_by_its_owner(
    client: Client, one: AssetServer, two: AssetServer
) -> None:
    """Reads, changes and bytes; nobody but the owner hears of the changes."""
    path = f"/api/assets/{(asset := two.add('c_00001_.png'))['id']}"
    assert (await get(client, path))["name"] == "c_00001_.png"
    async with client.head(path) as answer:
        assert (answer.status, await answer.read()) == (200, b"")
    async with client.get(f"{path}/content") as answer:
        assert await answer.read() == b"two:output/c_00001_.png"
    async with client.put(path, json={"name": "new"}) as answer:
        assert (answer.status, (await answer.json())["name"]) == (200, "new")
    async with client.post(f"{path}/tags", json={"tags": ["fine"]}) as answer:
        assert await answer.json() == {"added": ["fine"], "already_present": []}
    assert (asset["name"], asset["tags"][-1]) == ("new", "fine")
    async with client.delete(path) as answer:
        assert answer.status == 204
    assert two.assets == {}
    assert {method for method, _ in one.requests} == {"GET"}


async def test_the_preview_is_that_of_the_instance(
    client: Client, one: AssetServer, two: AssetServer
) -> None:
    """Both have a picture of the same name; the URL in the answer shows the right one."""
    for server in (one, two):
        for name in ("c_00001_.png", "a b/x&y.png"):
            asset = server.add(name)
            told = await get(client, f"/api/assets/{asset['id']}")
            async with client.get(told["preview_url"]) as answer:
                assert await answer.read() == f"{server.name}:output/{name}".encode()
            assert told["user_metadata"] == asset["user_metadata"]


async def test_an_input_has_no_mark(client: Client, two: AssetServer) -> None:
    """It is the same everywhere, so the answer is the instance's own, byte for byte."""
    asset = two.add("in.png", "input")
    assert (await get(client, f"/api/assets/{asset['id']}"))["preview_url"] == asset["preview_url"]


async def test_an_unknown_id_is_asked_for_at_all_once(
    client: Client, one: AssetServer, two: AssetServer
) -> None:
    """Then it is known whose it is, in whatever case it is written."""
    path = f"/api/assets/{two.add('x.png')['id']}"
    for _ in range(3):
        await get(client, path)
    await get(client, path.upper().replace("/API/ASSETS", "/api/assets"))
    assert one.asked("GET", path) == 1


@pytest.mark.parametrize("told", ["frame", "entry", "job"])
async def test_ids_are_learnt_from_what_tells_of_outputs(
    client: Client, gateway: Gateway, one: AssetServer, two: AssetServer, told: str
) -> None:
    """``executed`` frames, histories and jobs: nobody else is asked then."""
    asset_id = two.add("c_00001_.png")["id"]
    instance = gateway.cluster.instances[1]
    file = {"filename": "c_00001_.png", "subfolder": "", "type": "output", "id": asset_id}
    match told:
        case "frame":
            gateway.made_files.heard({"images": [file]}, instance)
        case "entry":
            entry: Any = {"outputs": {"2": {"images": [file]}}, "status": {}}
            gateway.made_files.entries_read({"p": entry}, instance)
        case "job":
            job = {"id": "p", "execution_end_time": 1, "preview_output": file}
            gateway.made_files.jobs_read([job], instance)
    await get(client, f"/api/assets/{asset_id}")
    assert one.requests == []


async def test_the_id_of_an_upload_is_known(
    client: Client, one: AssetServer, two: AssetServer
) -> None:
    """The answer to ``/upload/image`` tells it."""
    async with client.post("/upload/image", data={"image": io.BytesIO(b"bytes")}) as answer:
        asset_id = (await answer.json())["asset"]["id"]
    await get(client, f"/api/assets/{asset_id}")
    assert two.asked("GET", f"/api/assets/{asset_id}") == 0


async def test_what_nobody_has_is_comfyuis_own_404(client: Client) -> None:
    """Also what is no id at all, and for changes."""
    absent = "00000000-0000-0000-0000-000000000000"
    async with client.get(f"/api/assets/{absent}") as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (404, "ASSET_NOT_FOUND")
    async with client.put(f"/api/assets/{absent}", json={"name": "x"}) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (404, "ASSET_NOT_FOUND")
    async with client.get("/api/assets/xyz") as answer:
        assert answer.status == 404


async def test_while_the_owner_is_away_it_is_503(
    client: Client, one: AssetServer, two: AssetServer
) -> None:
    """For a known id, and for one that may be there; what another one has is answered."""
    known, unknown, other = two.add("a.png")["id"], two.add("b.png")["id"], one.add("c.png")["id"]
    await get(client, f"/api/assets/{known}")
    await two.stop()
    for path in (known, f"{known}/content", unknown, f"{unknown}/content"):
        async with client.get(f"/api/assets/{path}") as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"] == "5"
            assert "instance 2" in await answer.text()
    async with client.delete(f"/api/assets/{known}") as answer:
        assert answer.status == 503
    await get(client, f"/api/assets/{other}")


async def test_an_id_that_its_owner_has_forgotten_is_looked_for_again(
    client: Client, one: AssetServer, two: AssetServer
) -> None:
    """The database of the owner was thrown away: the 404 is its own, then all are asked."""
    asset = two.add("a.png")
    path = f"/api/assets/{asset['id']}"
    await get(client, path)
    two.assets.clear()
    async with client.get(path) as answer:
        assert answer.status == 404
    one.assets[asset["id"]] = asset
    await get(client, path)


async def test_an_input_is_deleted_at_all(
    client: Client, one: AssetServer, two: AssetServer
) -> None:
    """Else it would come back in the list from the other database. What is another file stays."""
    own = one.add("in.png", "input", content=b"x")
    two.add("in.png", "input", content=b"x")
    kept = [
        two.add("in.png", "output", content=b"x"),
        two.add("other.png", "input", content=b"x"),
        two.add("sub/in.png", "input", content=b"x"),
    ]
    async with client.delete(f"/api/assets/{own['id']}") as answer:
        assert answer.status == 204
    assert (one.assets, list(two.assets.values())) == ({}, kept)


async def test_an_input_is_not_half_deleted(
    client: Client, one: AssetServer, two: AssetServer
) -> None:
    """While its twin cannot be deleted, because its instance is away or says no, it stays."""
    own = one.add("in.png", "input", content=b"x")
    twin = two.add("in.png", "input", content=b"x")
    two.odd[f"/api/assets/{twin['id']}"] = web.Response(status=500)
    async with client.delete(f"/api/assets/{own['id']}") as answer:
        assert answer.status == 502
    await two.stop()
    async with client.delete(f"/api/assets/{own['id']}") as answer:
        assert answer.status == 503
    assert list(one.assets) == [own["id"]]


async def test_each_instance_is_asked_for_its_own_user(
    client: Client, one: AssetServer, two: AssetServer
) -> None:
    """With ``--multi-user`` it has an id of its own for the client's name."""
    one.users, two.users = {"ann_1": "ann"}, {"ann_2": "ann"}
    asset_id = two.add("a.png")["id"]
    for path in ("/api/assets", f"/api/assets/{asset_id}", f"/api/assets/{asset_id}/content"):
        async with client.get(path, headers={"comfy-user": "ann_1"}) as answer:
            assert answer.status == 200
    assert (one.seen_users, two.seen_users) == ({"ann_1"}, {"ann_2"})


async def test_without_any_instance_it_is_503(
    client: Client, one: AssetServer, two: AssetServer
) -> None:
    """Whatever is asked."""
    await one.stop()
    await two.stop()
    absent = "00000000-0000-0000-0000-000000000000"
    for path in (absent, "seed/status", "tags/refine"):
        async with client.get(f"/api/assets/{path}") as answer:
            assert answer.status == 503
    for path in ("/api/assets", "/api/assets/from-hash", "/api/assets/prune"):
        async with client.post(path, json={"hash": "x"}) as answer:
            assert answer.status == 503


async def test_users_that_are_told_late_hold_up_one_request_only(
    client: Client, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each of a page's ninety waits a second for an instance that hangs."""
    told, waits = asyncio.Event(), []
    know = gateway.state._know_users

    async def learn() -> None:
        await told.wait()

    async def counted() -> None:
        waits.append(1)
        await know()

    monkeypatch.setattr(shared_state, "PATIENCE_S", 0.0)
    monkeypatch.setattr(gateway.state.users, "learn", learn)
    monkeypatch.setattr(gateway.state, "_know_users", counted)
    for _ in range(3):
        async with client.get("/api/assets", headers={"comfy-user": "ann"}) as answer:
            assert answer.status == 200
    assert len(waits) == 1
    told.set()
    await until(lambda: gateway.state._learning is not None and gateway.state._learning.done())
    async with client.get("/api/assets", headers={"comfy-user": "ann"}) as answer:
        assert answer.status == 200
    assert len(waits) == 2
