"""Story 1.3: leased WebSockets, reused, at most N for each instance, all closed at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from cluster_harness import Holder, eventually, graph, holders, state
from manual_clock import settle

from comfy_proxy.cluster import websocket_pool
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.comfyui_frames import ConnectionLost
from comfy_proxy.cluster.websocket_pool import PromptSocket, WebSocketPool
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.errors import InstanceUnreachableError

Connect = Callable[..., Awaitable[Cluster]]


async def test_lazy(pool: WebSocketPool, worker: EmbeddedWorker) -> None:
    """Nothing is connected before the first job needs it."""
    await settle()
    assert pool.state == state()
    assert worker.open_sockets == 0
    async with pool.lease():
        assert pool.state == state(opened=1, in_use=1)
    assert pool.state == state(opened=1)
    assert worker.open_sockets == 1


async def test_reuse(pool: WebSocketPool) -> None:
    """A socket that was given back serves the next job, with nothing left of the last one."""
    async with pool.lease() as first:
        first.frames.put_nowait(ConnectionLost(reason="left over"))
        first.on_prompt_end = lambda prompt_id: None
    async with pool.lease() as second:
        assert second is first
        assert second.frames.empty()
        assert second.on_prompt_end is websocket_pool._nobody


async def test_at_most_n(pool: WebSocketPool, worker: EmbeddedWorker) -> None:
    """With all connections leased the next job waits; a freed one is handed on."""
    held = await holders(pool, 3)
    fourth = Holder(pool)
    await settle()
    assert pool.state == state(opened=3, in_use=3, waiting=1)
    assert repr(pool).endswith("PoolState(open=3, in_use=3, waiting=1)>")
    await held[1].let_go()
    assert await fourth.has_one() is held[1].socket
    assert worker.open_sockets == 3
    for holder in (held[0], held[2], fourth):
        await holder.let_go()
    assert pool.state == state(opened=3)


async def test_first_come_first_served(connected: Connect, worker: EmbeddedWorker) -> None:
    """Waiters get their socket in the order in which they came; a cancelled one leaves no hole."""
    cluster = await connected(worker, max_connections_per_instance=1)
    pool = cluster.connections.pool(cluster.instances[0])
    order: list[int] = []

    async def job(number: int) -> None:
        async with pool.lease():
            order.append(number)

    first = (await holders(pool, 1))[0]
    waiting = []
    for number in range(5):
        waiting.append(asyncio.create_task(job(number)))
        await settle()
    waiting[0].cancel()
    waiting[3].cancel()
    await settle()
    assert pool.state == state(opened=1, in_use=1, waiting=3)
    await first.let_go()
    await asyncio.wait(waiting)
    assert order == [1, 2, 4]
    assert pool.state == state(opened=1)
    assert worker.open_sockets == 1


async def test_waiter_cancelled_just_as_its_turn_comes(pool: WebSocketPool) -> None:
    """A slot given to a waiter that is cancelled in the same moment goes to the next one."""
    held = await holders(pool, 3)
    loser, winner = Holder(pool), Holder(pool)
    await settle()
    held[0]._let_go.set()
    await asyncio.sleep(0)  # the slot is free, nobody has taken it
    loser.task.cancel()
    await winner.has_one()
    for holder in (held[1], held[2], winner):
        await holder.let_go()
    assert pool.state == state(opened=3)


async def test_cancelled_while_connecting(pool: WebSocketPool, worker: EmbeddedWorker) -> None:
    """A job cancelled in the handshake leaves neither a socket nor a taken slot."""
    worker.faults.hang = ("/ws",)
    hung = [Holder(pool) for _ in range(3)]
    await eventually(lambda: len(worker.faults._waiters) == 3)
    for holder in hung:
        await holder.cancel()
    assert pool.state == state()
    worker.faults.clear()
    for holder in await holders(pool, 3):
        await holder.let_go()
    assert pool.state == state(opened=3)
    await eventually(lambda: worker.open_sockets == 3)


async def test_cancelled_while_leased(pool: WebSocketPool) -> None:
    """A job that is cancelled gives its socket back."""
    (holder,) = await holders(pool, 1)
    await holder.cancel()
    assert pool.state == state(opened=1)


async def test_frames_tell_about_the_instance(
    pool: WebSocketPool, cluster: Cluster, worker: EmbeddedWorker
) -> None:
    """Idle sockets listen too: what others queue is known, and every frame proves life."""
    instance = cluster.instances[0]
    async with pool.lease():
        pass
    await cluster.clients[instance].submit(
        graph(seconds=600).prompt, prompt_id="theirs", client_id="somebody"
    )
    await eventually(lambda: instance.prompts.external_jobs == 1)
    assert instance.signs.alive_just_now
    await eventually(lambda: worker.started == ["theirs"])  # before, an interrupt meets nobody
    await cluster.clients[instance].interrupt("theirs")
    await eventually(lambda: instance.prompts.external_jobs == 0)


async def test_close(connected: Connect, worker: EmbeddedWorker) -> None:
    """Idle, leased and connecting sockets all end, waiters are refused, no task is left."""
    before = asyncio.all_tasks()
    cluster = await connected(worker)
    pool = cluster.connections.pool(cluster.instances[0])
    held = await holders(pool, 2)
    await held[0].let_go()
    worker.faults.hang = ("/ws",)
    connecting = [Holder(pool) for _ in range(2)]
    await eventually(lambda: worker.faults._waiters)
    waiter = Holder(pool)
    await settle()
    closing = asyncio.create_task(pool.close())
    await eventually(lambda: not any(h.socket.open for h in held if h.socket))
    worker.faults.clear()
    await closing
    await connecting[0].has_one()  # the idle one, leased before it was closed
    with pytest.raises(InstanceUnreachableError):
        await connecting[1].task
    await connecting[0].let_go()
    await held[1].let_go()
    with pytest.raises(InstanceUnreachableError):
        await waiter.task
    await cluster.close()
    assert pool.state == state()
    await eventually(lambda: worker.open_sockets == 0)
    assert {t for t in asyncio.all_tasks() - before if "frames of" in t.get_name()} == set()


async def test_close_of_several_at_once(
    pool: WebSocketPool, worker: EmbeddedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An instance that answers no close frame is waited for once, not once for each socket."""
    closing: list[PromptSocket] = []
    all_closing = asyncio.Event()
    close = PromptSocket.close

    async def slow(self: PromptSocket) -> None:
        closing.append(self)
        if len(closing) == 3:
            all_closing.set()
        await all_closing.wait()
        await close(self)

    monkeypatch.setattr(PromptSocket, "close", slow)
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(pool.lease())
    await pool.close()
    assert len(closing) == 3
