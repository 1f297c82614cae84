"""Story 1.3: WebSockets that break, or cannot be opened, and what takes their place."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cluster_harness import Holder, eventually, state
from manual_clock import ManualClock, settle

from comfy_proxy.cluster import websocket_pool
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.comfyui_frames import ConnectionLost
from comfy_proxy.cluster.websocket_pool import WebSocketPool
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.errors import InstanceTimeoutError, InstanceUnreachableError, InvalidAnswerError

Connect = Callable[..., Awaitable[Cluster]]


async def test_failed_first_message_closes_the_socket(
    pool: WebSocketPool, worker: EmbeddedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket that breaks between the handshake and its first message is not left open."""

    async def broken(*args: object) -> None:
        raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")

    monkeypatch.setattr(aiohttp.ClientWebSocketResponse, "send_str", broken)
    with pytest.raises(InstanceUnreachableError):
        await pool.lease().__aenter__()
    assert pool.state == state()
    await eventually(lambda: worker.open_sockets == 0)


async def test_hung_handshake(
    pool: WebSocketPool, cluster: Cluster, worker: EmbeddedWorker, clock: ManualClock
) -> None:
    """A handshake without an answer ends after ten seconds as a timeout and a strike."""
    worker.faults.hang = ("/ws",)
    holder = Holder(pool)
    await eventually(lambda: worker.faults._waiters)
    await clock.advance(10)
    with pytest.raises(InstanceTimeoutError):
        await holder.task
    assert pool.state == state()
    assert cluster.instances[0].breaker.consecutive_failures == 1


async def test_refused_handshake(
    pool: WebSocketPool, cluster: Cluster, worker: EmbeddedWorker
) -> None:
    """An answer that is no handshake is an invalid one; the slot is free again."""
    worker.faults.answers = {"/ws": "html"}
    for _ in range(4):
        with pytest.raises(InvalidAnswerError):
            await pool.lease().__aenter__()
    assert pool.state == state()
    assert not cluster.instances[0].healthy


async def test_broken_one_is_replaced(
    pool: WebSocketPool, worker: EmbeddedWorker, clock: ManualClock
) -> None:
    """An idle socket that breaks is opened anew by itself, with a fresh client id (trap 2)."""
    async with pool.lease() as old:
        pass
    worker.drop_sockets()
    await eventually(lambda: not old.open and pool.state == state(opened=1))
    async with pool.lease() as new:
        assert new.client_id != old.client_id
        assert new.open


async def test_a_first_one_that_fails_is_opened_later(
    pool: WebSocketPool, worker: EmbeddedWorker, clock: ManualClock
) -> None:
    """Who wanted to hear the load of an instance hears it though the first handshake failed."""
    worker.faults.answers = {"/ws": "html"}
    with pytest.raises(InvalidAnswerError):
        await pool.listen()
    await eventually(lambda: clock.waiting)
    worker.faults.clear()
    await clock.advance(30)
    await eventually(lambda: pool.state == state(opened=1))


async def test_replacement_backs_off(
    pool: WebSocketPool,
    cluster: Cluster,
    worker: EmbeddedWorker,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While it cannot be reached the pauses grow, and it is back soon after it listens again."""
    monkeypatch.setattr(websocket_pool.random, "uniform", lambda low, high: (low + high) / 2)
    tries: list[float] = []
    async with pool.lease():
        pass
    cluster.instances[0].observers.append(lambda attempt: tries.append(clock.monotonic()))
    worker.refuse_connections()
    worker.drop_sockets()
    pauses = [0.5, 1, 2, 4, 8, 16, 30, 30]
    for number, pause in enumerate(pauses, start=1):
        await eventually(lambda number=number: len(tries) == number and clock.waiting)
        await clock.advance(pause - 0.01)
        assert len(tries) == number
        await clock.advance(0.01)
    assert pool.state == state()
    await eventually(lambda: len(tries) == 9 and clock.waiting)
    await worker.accept_connections()
    await clock.advance(30)
    await eventually(lambda: pool.state == state(opened=1))
    assert clock.waiting == 0


async def test_no_replacement_while_all_slots_are_needed(
    connected: Connect, worker: EmbeddedWorker
) -> None:
    """A leased socket that breaks is told to its job; the job's next lease opens a new one."""
    cluster = await connected(worker, max_connections_per_instance=1)
    pool = cluster.connections.pool(cluster.instances[0])
    async with pool.lease() as socket:
        worker.drop_sockets()
        while not isinstance(frame := await socket.frames.get(), ConnectionLost):
            pass
        assert frame.reason
        await settle()
        assert pool.state == state()
    async with pool.lease() as new:
        assert new is not socket
        assert pool.state == state(opened=1, in_use=1)


async def test_a_dead_socket_is_never_leased(pool: WebSocketPool, worker: EmbeddedWorker) -> None:
    """One that ended in this very moment is passed over."""
    async with pool.lease() as dead:
        pass
    await dead.close()
    pool._idle.append(dead)  # as it is until the loop has told that it ended
    async with pool.lease() as socket:
        assert socket is not dead
        assert socket.open


async def test_heartbeat(connected: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle socket is pinged; one whose other end says nothing more is given up."""
    monkeypatch.setattr(websocket_pool, "HEARTBEAT_S", 0.02)
    pinged = asyncio.Event()

    async def mute(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(autoping=False)
        await ws.prepare(request)
        async for message in ws:
            if message.type is aiohttp.WSMsgType.PING:
                pinged.set()
        return ws

    app = web.Application()
    app.router.add_get("/ws", mute)
    async with TestServer(app) as server:
        cluster = await connected(f"127.0.0.1:{server.port}")
        async with cluster.connections.pool(cluster.instances[0]).lease() as socket:
            await pinged.wait()
            assert isinstance(await socket.frames.get(), ConnectionLost)
        await cluster.connections.close()
