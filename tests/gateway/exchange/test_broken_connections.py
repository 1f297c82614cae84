"""Clients before instances whose kept connections broke, and instances that break them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from forwarder import Forwarder, forwarding
from gateway_harness import Harness, RawServer, unused_url
from prompts_front import ended, get, graph, png, post, until, upload

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import CLUSTER
from comfy_proxy.metrics.records import Verdict

Workers = tuple[EmbeddedWorker, EmbeddedWorker]
Networks = list[Forwarder]
MANY = 6


@pytest.fixture
async def networks(workers: Workers) -> AsyncIterator[Networks]:
    """What lies between the proxy and each worker."""
    async with forwarding(*(worker.url for worker in workers)) as both:
        yield both


@pytest.fixture
async def proxy(workers: Workers, networks: Networks, start_proxy: Callable[..., Any]) -> Any:
    """Many connections to both instances are kept, and the networks have forgotten them all."""
    front = await start_proxy(*(network.url for network in networks))
    await until(lambda: all(one.check_ok for one in front.app[CLUSTER].instances))
    await until(lambda: not front.app[CLUSTER].object_info._tasks)
    for worker in workers:
        worker.faults.hang = ("/queue",)
    asking = [asyncio.create_task(get(front, "/queue")) for _ in range(MANY)]
    await until(lambda: all(len(one.faults._waiters) == MANY for one in workers))
    for worker in workers:
        worker.faults.clear()
    await asyncio.gather(*asking)
    for network in networks:
        network.forget()
    return front


def unharmed(proxy: Any) -> None:
    """No instance has got a strike."""
    assert [one.failing for one in proxy.app[CLUSTER].instances] == [False, False]


# --- kept connections ---------------------------------------------------------------------


async def test_no_part_of_an_answer_is_missing(
    proxy: Any, workers: Workers, networks: Networks
) -> None:
    """A list of all instances has all their entries, however many connections broke."""
    for worker in workers:
        worker.faults.slow_node_s = 60.0
    ids = [await post(proxy, graph(60.0)) for _ in range(2)]
    for network in networks:
        network.forget()
    views = await asyncio.gather(*(get(proxy, "/queue") for _ in range(MANY)))
    for view in views:
        shown = [entry[1] for entry in (*view["queue_running"], *view["queue_pending"])]
        assert sorted(shown) == sorted(ids)
    assert sum(network.broken for network in networks) > 0
    unharmed(proxy)


async def test_a_prompt_is_taken_once(proxy: Any, workers: Workers, networks: Networks) -> None:
    """Neither 504 nor 503, and no circuit opens on instances that are well."""
    ids = await asyncio.gather(*(post(proxy, graph()) for _ in range(MANY)))
    await ended(proxy, *ids)
    assert sorted([*workers[0].submitted, *workers[1].submitted]) == sorted(ids)
    unharmed(proxy)


async def test_commands_reach_every_instance(proxy: Any, workers: Workers) -> None:
    """``/free``, an upload, a setting: each is told to all, once, and succeeds."""
    async with proxy.post("/free", json={}) as answer:
        assert answer.status == 200
    assert await upload(proxy, png("red"), "a.png") == "a.png"
    await until(lambda: all(worker.uploads == ["input/a.png"] for worker in workers))
    async with proxy.post("/settings/a", json=1) as answer:
        assert answer.status == 200
    async with proxy.ws_connect("/ws"):
        unharmed(proxy)


# --- prompts whose connection breaks -------------------------------------------------------


async def test_a_prompt_that_was_not_taken_is_posted_again_under_its_id(
    proxy: Any, workers: Workers, networks: Networks
) -> None:
    """The instance is asked over new connections, and gets it a second time; it runs once."""
    left = [1]

    def doomed(piece: bytes) -> bool:
        is_first = piece.startswith(b"POST /prompt") and bool(left[0])
        left[0] -= is_first
        return is_first

    for network in networks:
        network.doomed = doomed
    prompt_id = await post(proxy, graph(), prompt_id="3f0bd0a6-5f3e-4b0c-9d4e-1d8d2d0c7a11")
    await ended(proxy, prompt_id)
    posted = [[s for s in one.sent if s.startswith(b"POST /prompt")] for one in networks]
    (again,) = filter(None, posted)
    assert len(again) == 2
    assert all(prompt_id.encode() in sent for sent in again)
    assert [*workers[0].submitted, *workers[1].submitted] == [prompt_id]
    assert all(one.healthy for one in proxy.app[CLUSTER].instances)


async def test_an_instance_that_breaks_every_prompt_is_passed_over(
    proxy: Any, workers: Workers, networks: Networks
) -> None:
    """After the second time; the other one takes it."""
    networks[0].doomed = lambda piece: piece.startswith(b"POST /prompt")
    ids = [await post(proxy, graph()) for _ in range(2)]
    await ended(proxy, *ids)
    posted = [sent for sent in networks[0].sent if sent.startswith(b"POST /prompt")]
    assert len(posted) in (2, 4)  # who is the first depends on turns
    assert workers[1].submitted == ids


async def test_what_we_take_for_no_prompt_is_sent_once(proxy: Any, networks: Networks) -> None:
    """An instance may see more in it than we do, and broke off: nobody else is asked."""
    for network in networks:
        network.doomed = lambda piece: piece.startswith(b"POST /prompt")
    async with proxy.post("/prompt", data=b"no JSON") as answer:
        assert answer.status == 502
    sent = [sent for network in networks for sent in network.sent]
    assert len([one for one in sent if one.startswith(b"POST /prompt")]) == 1


# --- what is never sent again ----------------------------------------------------------------


async def _reboot(server: RawServer, reader: asyncio.StreamReader, writer: Any) -> None:
    """Break the connection by design."""
    writer.transport.abort()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_custom_nodes_get_is_sent_once(harness: Harness, method: str) -> None:
    """``GET /manager/reboot`` breaks its connection: neither this instance nor the next hears it
    again.
    """
    rebooting, second = await harness.raw(_reboot), await harness.raw(_reboot)
    proxy = await harness.proxy(rebooting.url, second.url)
    async with proxy.client.request(method, "/manager/reboot") as answer:
        assert answer.status == 502
    assert len(rebooting.heads) == 1
    assert second.heads == []
    assert (await proxy.cluster.attempts.get()).verdict is Verdict.INSTANCE_FAULT


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_a_custom_nodes_route_goes_elsewhere_if_nobody_listens(
    harness: Harness, method: str
) -> None:
    """The dial was refused: nothing was sent."""

    async def done(request: web.Request) -> web.Response:
        return web.Response(text=request.path)

    proxy = await harness.proxy(await unused_url(), await harness.upstream(done))
    async with proxy.client.request(method, "/manager/reboot") as answer:
        assert (answer.status, await answer.text()) == (200, "/manager/reboot")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS"])
async def test_other_methods_are_sent_once(harness: Harness, method: str) -> None:
    """aiohttp's client would repeat them by itself."""
    rebooting, second = await harness.raw(_reboot), await harness.raw(_reboot)
    proxy = await harness.proxy(rebooting.url, second.url)
    async with proxy.client.request(method, "/api/assets/a") as answer:
        assert answer.status == 502
    assert len(rebooting.heads) == 1
    assert second.heads == []


async def test_connections_that_break_together_open_no_circuit(harness: Harness) -> None:
    """Uploads and custom routes in flight when a network drops everything: one strike."""
    together = asyncio.Event()

    async def drop(server: RawServer, reader: asyncio.StreamReader, writer: Any) -> None:
        if len(server.heads) == MANY:
            together.set()
        await together.wait()
        writer.transport.abort()

    server = await harness.raw(drop)
    proxy = await harness.proxy(server.url)

    async def status() -> int:
        async with proxy.client.post("/custom", data=b"x") as answer:
            return answer.status

    assert await asyncio.gather(*(status() for _ in range(MANY))) == [502] * MANY
    (instance,) = proxy.cluster.instances
    assert instance.breaker.consecutive_failures == 1
    assert instance.healthy
