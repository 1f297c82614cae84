"""gateway/state/user_ids.py: one list of users, though each instance mints ids of its own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from gateway_harness import Harness
from state_harness import StateRoom, state_room


class MultiUser:
    """ComfyUI with ``--multi-user``: ids of its own, one value for each user."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.users: dict[str, str] = {}
        self.values: dict[str, Any] = {}
        self.compresses = False

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/users" and request.method in ("GET", "HEAD"):
            answer = web.json_response({"storage": "server", "users": self.users})
            if self.compresses:
                answer.enable_compression()
            return answer
        if request.path == "/users":
            username = (await request.json())["username"]
            if username in self.users.values():
                return web.json_response({"error": "Duplicate username."}, status=400)
            user_id = f"{username}_{self.name}"
            self.users[user_id] = username
            return web.json_response(user_id)
        user_id = request.headers.get("comfy-user", "default")
        if user_id not in self.users:
            return web.Response(status=401)
        if request.method == "POST":
            self.values[user_id] = await request.json()
            return web.Response()
        return web.json_response(self.values.get(user_id))


@pytest.fixture
def hosts() -> tuple[MultiUser, MultiUser]:
    return MultiUser("one"), MultiUser("two")


@pytest.fixture
async def users_room(harness: Harness, hosts: tuple[MultiUser, ...]) -> AsyncIterator[StateRoom]:
    urls = [str(await harness.upstream(host.handle)) for host in hosts]
    async with state_room(*urls) as room:
        yield room


ANNE = {"comfy-user": "anne_one"}


async def test_a_user_is_the_same_on_every_instance(
    users_room: StateRoom, hosts: tuple[MultiUser, MultiUser]
) -> None:
    """The id that the client got works everywhere, though each instance mints its own."""
    room = users_room
    assert await room.ask("POST", "/users", json={"username": "anne"}) == (200, b'"anne_one"')
    assert (await room.ask("POST", "/users", json={"username": "anne"}))[0] == 400
    assert (await room.ask("POST", "/settings/a", json=5, headers=ANNE))[0] == 200
    assert hosts[1].values == {"anne_two": 5}
    native = await room.direct(0, "/users")
    assert await room.ask("GET", "/users") == native
    room.lose(0)
    assert await room.ask("GET", "/settings/a", headers=ANNE) == (200, b"5")
    assert await room.ask("GET", "/users") == native
    assert (await room.ask("HEAD", "/users"))[0] == 200
    assert (await room.ask("GET", "/settings/a", headers={"comfy-user": "eve"}))[0] == 401


async def test_a_user_of_an_instance_that_was_down_is_made_when_it_returns(
    users_room: StateRoom, hosts: tuple[MultiUser, MultiUser]
) -> None:
    """The user and what they wrote meanwhile are there; the client's id stays what it was."""
    room = users_room
    room.lose(0)
    assert await room.ask("POST", "/users", json={"username": "anne"}) == (200, b'"anne_two"')
    anne = {"comfy-user": "anne_two"}
    assert (await room.ask("POST", "/settings/a", json=5, headers=anne))[0] == 200
    room.regain(0)
    await room.until_up_to_date()
    assert await room.ask("GET", "/settings/a", headers=anne) == (200, b"5")
    assert hosts[0].values == {"anne_one": 5}
    assert json.loads((await room.ask("GET", "/users"))[1])["users"] == {"anne_two": "anne"}


async def test_head_of_the_list_of_users_keeps_its_length(
    users_room: StateRoom, hosts: tuple[MultiUser, MultiUser]
) -> None:
    """Of a list with other ids than clients know: there is no body in which to put these."""
    await users_room.ask("POST", "/users", json={"username": "anne"})
    users_room.lose(0)
    _, own = await users_room.direct(1, "/users")
    async with users_room.client.head("/users") as answer:
        assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(own)))


async def test_the_list_of_users_is_read_though_instances_compress(
    users_room: StateRoom, hosts: tuple[MultiUser, MultiUser]
) -> None:
    """A client that accepts gzip sees the ids that clients know; odd names hide nobody."""
    _, body = await users_room.ask("POST", "/users", json={"username": "anne"})
    for host in hosts:
        host.compresses = True
        host.users |= {"odd": ["x"], "caf\udce9": "caf\udce9", "long": "x" * 2000}  # type: ignore[dict-item]
    users_room.lose(0)
    status, body = await users_room.ask("GET", "/users", headers={"Accept-Encoding": "gzip"})
    assert status == 200
    users = json.loads(body)["users"]
    assert users["anne_one"] == "anne"
    assert users["caf\udce9"] == "caf\udce9"
