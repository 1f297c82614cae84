"""``max_upload_size`` is what an upload may have wherever it goes, in every way to ask for it."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from events_harness import FLAGS, ScriptedInstance, checked, listen
from gateway_harness import Harness

from comfy_proxy.gateway.views import features as features_view
from comfy_proxy.keys import CLUSTER

MIB = 2**20
OURS = 100 * MIB


class FeaturedInstance(ScriptedInstance):
    """Answers ``/features`` and feature flags with ``features``."""

    def __init__(self, features: Any) -> None:
        super().__init__()
        self.features = features
        self.status = 200
        self.asked_features = 0

    async def handler(self, request: web.Request) -> web.StreamResponse:
        if request.path in ("/features", "/api/features"):
            self.asked_features += 1
            await self.still.wait()
            return web.json_response(self.features, status=self.status)
        return await super().handler(request)


Pair = list[FeaturedInstance]


@pytest.fixture
def pair() -> Pair:
    flags = {"supports_preview_metadata": True}
    return [
        FeaturedInstance({**flags, "max_upload_size": 300 * MIB, "of": "one"}),
        FeaturedInstance({**flags, "max_upload_size": 50 * MIB, "of": "two"}),
    ]


@pytest.fixture
async def start(pair: Pair, start_proxy: Callable[..., Any]) -> AsyncIterator[Callable[..., Any]]:
    """``await start(count, **settings)`` → a proxy in front of so many of the pair."""
    async with AsyncExitStack() as stack:

        async def started(count: int = 2, **settings: Any) -> Any:
            urls = []
            for instance in pair[:count]:
                app = web.Application()
                app.router.add_route("*", "/{path:.*}", instance.handler)
                server = TestServer(app, shutdown_timeout=0.1)
                await stack.enter_async_context(server)
                urls.append(f"http://127.0.0.1:{server.port}")
            proxy = await start_proxy(*urls, **settings)
            stack.push_async_callback(proxy.close)  # first: it has sockets open at the servers
            await checked(proxy)
            return proxy

        yield started


async def _features(proxy: Any, path: str = "/features") -> Any:
    async with proxy.get(path) as answer:
        assert answer.status == 200
        assert answer.content_type == "application/json"
        return await answer.json()


async def _flags(proxy: Any, instances: Pair) -> Any:
    """What the websocket's answer says; each instance answers with its own, to the socket for all
    clients where there are several."""
    client = await listen(proxy, "me")
    await client.ws.send_str(FLAGS)
    several = len(instances) > 1
    wires = [await (one.shared_wire() if several else one.wire()) for one in instances]
    for instance, wire in zip(instances, wires, strict=True):
        assert json.loads(await wire.next())["type"] == "feature_flags"
        await wire.say("feature_flags", **instance.features)
    frame = await client.until_type("feature_flags")
    await client.ws.close()
    for wire in () if several else wires:
        await wire.ended.wait()  # a server that is being closed would not read the close frame
    return frame["data"]


@pytest.mark.parametrize("path", ["/features", "/api/features"])
@pytest.mark.parametrize("ours", [10 * MIB, OURS, 500 * MIB])
async def test_the_least_limit_of_all_is_told(start: Any, pair: Pair, path: str, ours: int) -> None:
    """Of the instances and MAX_UPLOAD_SIZE; the rest is the primary's. The socket says the same."""
    proxy = await start(max_upload_size=ours)
    told = await _features(proxy, path)
    assert told == {**pair[0].features, "max_upload_size": min(ours, 50 * MIB)}
    assert await _flags(proxy, pair) == told


@pytest.mark.parametrize("ours", [10 * MIB, 500 * MIB])
async def test_with_one_instance_too(start: Any, pair: Pair, ours: int) -> None:
    """Where all else is forwarded unread."""
    proxy = await start(1, max_upload_size=ours)
    for path in ("/features", "/api/features"):
        told = await _features(proxy, path)
        assert told == {**pair[0].features, "max_upload_size": min(ours, 300 * MIB)}
    assert await _flags(proxy, pair[:1]) == told


async def test_the_socket_knows_before_anybody_has_asked(start: Any, pair: Pair) -> None:
    """The first thing that happens is a socket, and the instance that answers it has the larger
    limit: the smaller one is told."""
    proxy = await start(max_upload_size=OURS)
    assert (await _flags(proxy, pair))["max_upload_size"] == 50 * MIB


async def test_an_instance_that_hangs_holds_nobody_up(start: Any, pair: Pair) -> None:
    """What it said last counts on, while it may still come back; an answer does not wait for it."""
    proxy = await start(max_upload_size=OURS)
    await _features(proxy)
    pair[1].still.clear()
    assert (await _features(proxy))["max_upload_size"] == 50 * MIB
    pair[1].still.set()


async def test_an_instance_that_returns_is_asked_again(start: Any, pair: Pair) -> None:
    """It may have been started with another limit."""
    proxy = await start(max_upload_size=OURS)
    await _features(proxy)
    pair[1].features["max_upload_size"] = 70 * MIB
    for instance in proxy.app[CLUSTER].instances:
        instance.socket_lost()
    assert (await _flags(proxy, pair))["max_upload_size"] == 70 * MIB


async def test_an_unhealthy_instances_limit_does_not_count(start: Any, pair: Pair) -> None:
    """No upload goes there."""
    proxy = await start(max_upload_size=OURS)
    await _features(proxy)
    second = proxy.app[CLUSTER].instances[1]
    while second.healthy:
        second.fault("test")
    assert (await _features(proxy))["max_upload_size"] == OURS


@pytest.mark.parametrize("said", [None, "much", True, float("nan")])
async def test_an_instance_that_tells_no_limit_has_ours(start: Any, pair: Pair, said: Any) -> None:
    """Older servers have no such flag; what is no number is none."""
    for instance in pair:
        instance.features = {"a": 1} if said is None else {"a": 1, "max_upload_size": said}
    proxy = await start(max_upload_size=OURS)
    assert await _features(proxy) == {"a": 1, "max_upload_size": OURS}


@pytest.mark.parametrize("count", [1, 2])
async def test_what_is_no_features_passes_as_it_came(start: Any, pair: Pair, count: int) -> None:
    """An error of the primary, and JSON that is no object."""
    proxy = await start(count)
    pair[0].features, pair[0].status = {"error": "no"}, 404
    async with proxy.get("/features") as answer:
        assert (answer.status, await answer.json()) == (404, {"error": "no"})
    pair[0].features, pair[0].status = [1], 200
    assert await _features(proxy) == [1]


async def test_an_answer_that_is_right_already_passes_byte_for_byte(harness: Harness) -> None:
    """Blanks, order and headers are the instance's; HEAD has its length; nothing is compressed."""
    body = b'{"max_upload_size":  5,\n "x": 1e2}'

    async def said(request: web.Request) -> web.Response:
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            return web.Response(body=gzip.compress(body), headers={"Content-Encoding": "gzip"})
        return web.Response(body=body, content_type="application/json", headers={"X-A": "1"})

    proxy = await harness.proxy(await harness.upstream(said))
    async with proxy.client.get("/features", headers={"Accept-Encoding": "gzip"}) as answer:
        assert (await answer.read(), answer.headers["X-A"]) == (body, "1")
    async with proxy.client.head("/features") as answer:
        assert (answer.headers["Content-Length"], await answer.read()) == (str(len(body)), b"")


def test_only_flags_are_changed() -> None:
    """A frame that mentions them, one that is no JSON, and a long one pass as they came."""
    limit = 5
    for frame in (
        b'{"type": "executed", "data": {"text": "\\"feature_flags\\"", "max_upload_size": 9}}',
        b'{"type": "x", "data": ["feature_flags"]}',
        b'{"type": "feature_flags", "data": 1}',
        b'{"type": "feature_flags"}',
        b'["feature_flags"]',
        b'"feature_flags"',
        b'{"feature_flags"',
        b'{"type": "feature_flags", "data": {"max_upload_size": 4}}',
        b'{"type": "feature_flags", "data": {"max_upload_size": 9}}' + b" " * 70_000,
    ):
        assert features_view.flags_with_limit(frame, limit) == frame
    frame = b'{"type": "feature_flags", "data": {"max_upload_size": 9.0, "a": "\\u00e4"}}'
    assert features_view.flags_with_limit(frame, limit) == frame.replace(b"9.0", b"5")
