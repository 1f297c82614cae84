"""``/dashboard`` as it is served: to whom, with which policy, and what it asks for itself."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from job_client import JobClient, until
from viewer import PATH, Viewer, looking

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import DASHBOARD

Pair = tuple[EmbeddedWorker, EmbeddedWorker]
Start = Callable[..., Any]
PAGE = files("comfy_proxy.dashboard").joinpath("page.html").read_text()


def directives(policy: str) -> dict[str, list[str]]:
    """Content-Security-Policy → directive → sources."""
    parts = [part.split() for part in policy.split(";")]
    return {part[0]: part[1:] for part in parts}


def digest(element: str) -> str:
    (text,) = re.findall(f"<{element}>(.*?)</{element}>", PAGE, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


async def test_the_page_is_served_with_its_policy(proxy: TestClient[Any, Any]) -> None:
    """Only its own script and style run, nothing foreign is loaded, nobody may frame it."""
    async with proxy.get("/dashboard") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert await answer.text() == PAGE
        policy = directives(answer.headers["Content-Security-Policy"])
    assert policy == {
        "default-src": ["'none'"],
        "style-src": [digest("style")],
        "script-src": [digest("script")],
        "connect-src": ["'self'"],
        "img-src": ["'self'", "blob:", "data:"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
        "frame-ancestors": ["'none'"],
    }


def test_the_page_needs_nothing_from_outside() -> None:
    """No address but the name of a namespace, no second file, one script, one style."""
    assert set(re.findall(r"\b(?:https?|wss?):[^\s\"'`]*|@import|url\(", PAGE)) == {
        "http://www.w3.org/2000/svg"
    }
    assert re.findall(r"<(?:link|script|style|iframe|object|embed)\b[^>]*>", PAGE) == [
        '<link rel="icon" href="data:,">',
        "<style>",
        "<script>",
    ]


def test_every_address_in_the_page_is_relative() -> None:
    """Another server may show the page under a path of its own: no text begins with our root."""
    assert re.findall(r"""["'`]/(?:api|dashboard|\w+\?)[^"'`]*""", PAGE) == []
    asked = re.findall(r"""(?:fetch|EventSource)\(["'`]([^"'`]*)""", PAGE)
    assert {"dashboard", "dashboard/events"} < set(asked)
    assert not any(address.startswith("/") for address in asked)


def test_no_text_can_become_markup() -> None:
    """Nothing in the page parses HTML or runs a text: what strangers wrote is shown as it is."""
    parsers = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|srcdoc|setHTML"
        r"|createContextualFragment|\beval\b|new Function|javascript:|\son\w+="
    )
    assert re.findall(parsers, PAGE) == []


async def test_the_methods(proxy: TestClient[Any, Any]) -> None:
    """HEAD asks for the page's headers; a stream has none worth asking for; nothing is posted."""
    async with proxy.head("/dashboard") as answer:
        assert (answer.status, await answer.read()) == (200, b"")
    for method, path in (("HEAD", PATH), ("POST", PATH), ("POST", "/dashboard")):
        async with proxy.request(method, path) as answer:
            assert (answer.status, path, method) == (405, path, method)


async def test_a_key_is_required(workers: Pair, start_proxy: Start) -> None:
    """401 without; ``?token=KEY`` opens the page once, and its cookie the events after that."""
    client = await start_proxy(*workers, api_keys=("secret",))
    for path in ("/dashboard", PATH, "/dashboard?token=wrong"):
        async with client.get(path) as answer:
            assert (answer.status, (await answer.json())["code"]) == (401, "unauthorized")
    async with client.get("/dashboard?token=secret", allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, "/dashboard")
        (cookie,) = answer.cookies.values()
    assert (cookie["httponly"], cookie["samesite"]) == (True, "Strict")
    assert "secret" not in cookie.value
    sent = {"Cookie": f"{cookie.key}={cookie.value}"}
    async with client.get("/dashboard", headers=sent) as answer:
        assert await answer.text() == PAGE
    async with looking(client, sent) as viewer:
        assert await viewer.state()


async def test_a_foreign_page_sees_nothing(proxy: TestClient[Any, Any]) -> None:
    """An EventSource of another origin is refused."""
    async with proxy.get(PATH, headers={"Origin": "https://evil.example"}) as answer:
        assert (answer.status, (await answer.json())["code"]) == (403, "foreign_origin")


async def test_in_a_host_application(workers: Pair, start_proxy: Start) -> None:
    """The host's page is the host's, the dashboard is there beside it."""

    async def mine(request: web.Request) -> web.Response:
        return web.Response(text="mine")

    app = web.Application()
    app.router.add_get("/", mine)
    client = await start_proxy(*workers, app=app)
    async with client.get("/") as answer:
        assert await answer.text() == "mine"
    async with client.get("/dashboard") as answer:
        assert await answer.text() == PAGE
    async with looking(client) as viewer:
        assert await viewer.until(lambda state: state["status"] == "healthy")


async def test_a_host_may_have_a_dashboard_of_its_own(workers: Pair, start_proxy: Start) -> None:
    """Its route wins, and ours costs nothing."""

    async def mine(request: web.Request) -> web.Response:
        return web.Response(text="mine")

    app = web.Application()
    app.router.add_get("/dashboard", mine)
    client = await start_proxy(*workers, app=app)
    async with client.get("/dashboard") as answer:
        assert await answer.text() == "mine"


async def test_two_applications_show_their_own(workers: Pair, start_proxy: Start) -> None:
    """Each dashboard knows its own instances alone."""
    clients = [await start_proxy(worker) for worker in workers]
    for client, worker in zip(clients, workers, strict=True):
        async with looking(client) as viewer:
            (instance,) = (await viewer.state())["instances"]
            assert instance["host"] == worker.host


@pytest.mark.parametrize("cancels", [True, False])
async def test_viewers_do_not_outlive_the_proxy(
    workers: Pair, start_proxy: Start, cancels: bool
) -> None:
    """The stream ends when the application does: an open page holds up no shutdown."""
    client = await start_proxy(*workers)
    client.server.runner._kwargs["handler_cancellation"] = cancels
    async with client.get(PATH) as response:
        viewer = Viewer(response)
        await viewer.state()
        async with asyncio.timeout(20):
            await client.server.runner.shutdown()
        while await viewer.next() is not None:
            pass


async def test_a_viewer_that_left_is_found_out_by_the_next_change(
    workers: Pair, start_proxy: Start
) -> None:
    """Also in a host that does not cancel handlers whose client has left."""
    jobs = JobClient(await start_proxy(*workers))
    async with looking(jobs.http) as viewer:
        await viewer.state()
    await until(lambda: not jobs.http.app[DASHBOARD]._viewers)
