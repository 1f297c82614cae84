"""Story 1.3: sessions and pools kept apart by host."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
from cluster_harness import eventually

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.connection_manager import ConnectionManager
from comfy_proxy.cluster.websocket_pool import PoolState
from comfy_proxy.embedded.worker import EmbeddedWorker

Pair = tuple[EmbeddedWorker, EmbeddedWorker]
Connect = Callable[..., Awaitable[Cluster]]
NOTHING = PoolState(open=0, in_use=0, waiting=0)


async def test_pools_are_kept_apart(connected: Connect, workers: Pair) -> None:
    """What is leased from one instance takes nothing from the other."""
    cluster = await connected(*workers, max_connections_per_instance=1)
    one, two = cluster.instances
    manager = cluster.connections
    async with manager.pool(one).lease():
        assert manager.pool_state(two) == NOTHING
        async with manager.pool(two).lease():
            assert [worker.open_sockets for worker in workers] == [1, 1]
    assert repr(manager).count("PoolState(open=1, in_use=0, waiting=0)") == 2


async def test_open_sockets_do_not_block_requests(cluster: Cluster, worker: EmbeddedWorker) -> None:
    """However many WebSockets are open, a request and a check find a connection."""
    instance = cluster.instances[0]
    manager = cluster.connections
    async with asyncio.TaskGroup() as group, manager.session(instance) as session:
        sockets = [await session.ws_connect(f"{worker.url}/ws") for _ in range(120)]
        group.create_task(cluster.clients[instance].check(0.3))
        await cluster.clients[instance].queue()
        await asyncio.gather(*(socket.close() for socket in sockets))


async def test_sessions_are_transparent(cluster: Cluster) -> None:
    """No cookies are kept, no total timeout, nothing is decoded: bytes for a client."""
    session = cluster.connections.session(cluster.instances[0])
    assert isinstance(session.cookie_jar, aiohttp.DummyCookieJar)
    assert session.timeout.total is None
    assert session.auto_decompress is False
    assert session is not cluster.connections.fresh_session(cluster.instances[0])


async def test_close(connected: Connect, worker: EmbeddedWorker) -> None:
    """At shutdown every session and socket is closed, also one that is leased."""
    cluster = await connected(worker)
    instance = cluster.instances[0]
    async with cluster.connections.pool(instance).lease() as socket:
        await cluster.connections.close()
        assert not socket.open
    assert cluster.connections.session(instance).closed
    assert cluster.connections.fresh_session(instance).closed
    assert cluster.connections.pool_state(instance) == NOTHING
    await eventually(lambda: worker.open_sockets == 0)


async def test_before_the_start(make_cluster: Callable[..., Cluster]) -> None:
    """/health may ask before anything was opened."""
    cluster = make_cluster("gpu1:1")
    assert isinstance(cluster.connections, ConnectionManager)
    assert cluster.connections.pool_state(cluster.instances[0]) == NOTHING
    await cluster.close()
