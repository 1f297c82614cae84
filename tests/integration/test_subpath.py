"""``parent.add_subapp("/comfy/", create_app(settings))``: the whole of it, before two instances."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from crowd_client import Client
from hosting import Serve, settings
from job_client import JobClient, form, noise, until
from prompt_client import get
from viewer import looking
from yarl import URL

from comfy_proxy import create_app, setup
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import JOBS

Pair = tuple[EmbeddedWorker, EmbeddedWorker]
KEYS = ("the first key of sixteen", "the second key of sixteen")
PREFLIGHT = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}


@pytest.fixture
async def mounted(start_jobs: Callable[..., Any], workers: Pair) -> JobClient:
    """A client of a proxy under ``/comfy``; it names paths below that."""
    jobs: JobClient = await start_jobs(*workers, mount="/comfy/")
    return jobs


async def test_a_prompt_to_its_picture(mounted: JobClient, workers: Pair) -> None:
    """Upload, socket, prompt, history and picture of two clients, as ComfyUI's own frontend uses
    them."""
    clients = [Client(mounted.http, number) for number in (1, 2)]
    for client in clients:
        async with client.connected():
            await client.upload()
            for prompt_id in (await client.submit_upload(), await client.submit_colour(1)):
                await client.over(prompt_id)
                await client.check_bytes(prompt_id, await client.recorded(prompt_id))
    assert sum(len(worker.started) for worker in workers) == 4


async def test_a_job_by_the_urls_it_is_told(mounted: JobClient) -> None:
    """In the 202, its Location, the status, the events and the listing, from the root of the
    host's address on."""
    http = mounted.http
    origin = http.make_url("/").origin()

    async def follow(url: str) -> bytes:
        async with http.session.get(origin.join(URL(url))) as answer:
            assert answer.status == 200, url
            return await answer.read()

    async with http.post("/api/workflows/timed", data=form(salt=1)) as answer:
        assert answer.status == 202
        told = await answer.json()
        assert answer.headers["Location"] == told["status_url"]
    urls = {name: url for name, url in told.items() if name.endswith("_url")}
    assert set(urls) >= {"status_url", "result_url", "events_url"}
    assert all(url.startswith("/comfy/api/jobs/") for url in urls.values())
    events = await follow(told["events_url"])
    assert f'"result_url":"{told["result_url"]}"'.encode() in events
    assert await follow(told["result_url"])
    done = json.loads(await follow(told["status_url"]))
    assert done["result_url"] == told["result_url"]
    (listed,) = (await get(http, "/api/jobs/list"))["jobs"]
    assert listed["result_url"] == told["result_url"]


@pytest.mark.long
async def test_the_page_and_what_it_links(mounted: JobClient) -> None:
    """ComfyUI's page comes under the mount with a slash; so do ours, whose links are relative or
    have the mount, and the description of the API."""
    http = mounted.http
    async with http.get("") as answer:
        assert (answer.status, answer.url.path) == (200, "/comfy/")
    document = await get(http, "/api/openapi.json")
    assert document["servers"][0]["url"] == "/comfy"
    async with http.get("/api/docs") as answer:
        links = re.findall(r'(?:href|src)="(/[^"]*)"', await answer.text())
    assert links
    assert all(link.startswith("/comfy/api/") for link in links)
    for link in links:
        async with http.session.get(http.make_url("/").origin().join(
            URL(link))) as answer:  # fmt: skip
            assert answer.status == 200, link
    async with http.get("/dashboard") as answer:
        assert not re.findall(r'(?:href|src)="/', await answer.text())
    async with looking(http) as viewer:
        assert len((await viewer.state())["instances"]) == 2
    assert (await get(http, "/health"))["status"] == "healthy"


@pytest.fixture
async def browser() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that keeps cookies, of addresses too."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as made:
        yield made


async def test_two_proxies_in_one_host(
    workers: Pair, serve: Serve, browser: aiohttp.ClientSession
) -> None:
    """Each its instance, its jobs, its keys and its cookie; preflights are answered by each for
    itself, and the host's own routes by the host."""

    async def mine(request: web.Request) -> web.Response:
        return web.json_response({"mine": request.path})

    parent = web.Application()
    parent.router.add_get("/", mine)
    parent.router.add_get("/comfy/a/own", mine)
    for name, worker, key in zip("ab", workers, KEYS, strict=True):
        origins = (PREFLIGHT["Origin"],) if name == "a" else ()
        app = create_app(settings(worker, api_keys=(key,), cors_origins=origins))
        parent.add_subapp(f"/comfy/{name}/", app)
    url = await serve(parent)
    for path in ("/", "/comfy/a/own"):
        async with browser.get(url + path) as answer:
            assert await answer.json() == {"mine": path}
    for name, key, worker, origin in zip("ab", KEYS, workers, (200, 403), strict=True):
        base = f"{url}/comfy/{name}"
        async with browser.get(f"{base}/queue", params={"token": key}) as answer:
            assert answer.status == 200
            assert [one.status for one in answer.history] == [303]
        async with browser.options(f"{base}/prompt", headers=PREFLIGHT) as answer:
            assert answer.status == origin
        async with browser.post(f"{base}/api/upscale-image", data=form()) as answer:
            job = await answer.json()
        async with browser.get(f"{url}{job['result_url']}?wait=20") as answer:
            assert answer.status == 200
        async with browser.get(f"{url}{job['status_url']}") as answer:
            assert (await answer.json())["comfyui_instance"] == worker.host
    paths = {cookie["path"] for cookie in browser.cookie_jar}
    assert paths == {"/comfy/a", "/comfy/b"}


async def test_one_inside_another_ones_application(
    workers: Pair, serve: Serve, session: aiohttp.ClientSession
) -> None:
    """The outer one has all other paths. What it puts on answers is on the inner one's once."""
    parent = web.Application()
    parent.add_subapp("/second", create_app(settings(workers[1])))
    setup(parent, settings(workers[0], root_path="/front", api_keys=KEYS))
    url = await serve(parent)
    for base, root, worker in (("/second", "/second", workers[1]), ("", "/front", workers[0])):
        headers = {"X-API-Key": KEYS[0]}
        async with session.post(
            f"{url}{base}/api/upscale-image", data=form(), headers=headers
        ) as answer:
            job = await answer.json()
            assert answer.headers["Location"] == f"{root}/api/jobs/{job['job_id']}/status"
            assert len(answer.headers.getall("X-Request-ID")) == 1
        result = job["result_url"].removeprefix("/front")
        async with session.get(f"{url}{result}?wait=20", headers=headers) as answer:
            assert answer.status == 200
        assert len(worker.started) == 1


async def test_the_host_ends_it(workers: Pair, session: aiohttp.ClientSession) -> None:
    """In the middle of jobs, with a socket and a dashboard open: nothing outlives the host."""
    tasks = asyncio.all_tasks()
    for worker in workers:
        worker.faults.slow_node_s = 60
    parent, app = web.Application(), create_app(settings(*workers))
    parent.add_subapp("/comfy", app)
    runner = web.AppRunner(parent, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/comfy"
    async with session.ws_connect(f"{url}/ws") as socket, session.get(
        f"{url}/dashboard/events"
    ) as events:  # fmt: skip
        async with session.post(f"{url}/api/upscale-image", data=form(noise())) as answer:
            job = app[JOBS].manager.get_job((await answer.json())["job_id"])
        await until(lambda: any(worker.started for worker in workers))
        async with asyncio.TaskGroup() as group:
            group.create_task(runner.cleanup())
            await events.read()
            async for _ in socket:
                pass
        assert job.finished
        assert socket.close_code == aiohttp.WSCloseCode.GOING_AWAY
    await until(lambda: asyncio.all_tasks() <= tasks)
