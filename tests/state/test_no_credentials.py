"""The state file says whose a job is, and opens nothing to whoever reads it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiohttp import FormData
from job_client import noise
from prompt_client import graph
from restarting import Restarting
from v2_client import V2

from comfy_proxy.keys import STATE
from comfy_proxy.security import COOKIE_NAME, cookie_value

KEY = "a-key-of-sixteen-characters"
OTHER = "another-key-of-as-many"


async def submitted(proxy: Restarting, headers: dict[str, str], picture: bytes) -> str:
    """The id of the job that a client with ``headers`` gets for its Idempotency-Key."""
    form = FormData()
    form.add_field("image", picture, filename="a.png", content_type="image/png")
    told = headers | {"Idempotency-Key": "once"}
    async with proxy.http.post("/api/upscale-image", data=form, headers=told) as answer:
        body = await answer.json()
        assert answer.status == 202, body
        return str(body["job_id"])


async def test_neither_a_key_nor_its_cookie_is_written(proxy: Restarting) -> None:
    """In none of its files; and after a restart a client is known by its key all the same."""
    await proxy.start(api_keys=(KEY, OTHER))
    picture, workflow = noise(), graph()
    headers = {"X-API-Key": KEY}
    first = await submitted(proxy, headers, picture)
    job = await V2(proxy.http, **headers).submit(workflow, key="k")
    await V2(proxy.http, **headers).upload(noise())
    await proxy.http.app[STATE].durable()
    folder: Path = proxy.settings["state_file"].parent
    data = await asyncio.to_thread(lambda: b"".join(one.read_bytes() for one in folder.iterdir()))
    assert job["id"].encode() in data
    assert first.encode() in data
    for secret in (KEY, cookie_value(KEY)):
        assert secret.encode() not in data
    await proxy.restart()
    assert (await V2(proxy.http, **headers).submit(workflow, key="k"))["id"] == job["id"]
    assert await submitted(proxy, headers, picture) == first


async def test_a_key_in_a_cookie_is_the_same_client(proxy: Restarting) -> None:
    """Two keys' cookies are two clients: what one has sent does not give the other its job."""
    await proxy.start(api_keys=(KEY, OTHER))
    picture = noise()
    first = await submitted(proxy, {"X-API-Key": KEY}, picture)
    assert await submitted(proxy, {"Authorization": f"Bearer {KEY}"}, picture) == first
    cookies = [{"Cookie": f"{COOKIE_NAME}={cookie_value(one)}"} for one in (KEY, OTHER)]
    assert await submitted(proxy, cookies[0], picture) == first
    assert await submitted(proxy, cookies[1], picture) != first
