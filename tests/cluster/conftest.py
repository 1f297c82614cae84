"""A cluster on the manual clock, in front of embedded workers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from manual_clock import ManualClock

from comfy_proxy import Settings
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.comfyui_client import ComfyUIClient
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.websocket_pool import WebSocketPool
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.settings import parse_instance


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[EmbeddedWorker]:
    """One instance with the test nodes."""
    async with EmbeddedWorker(base_directory=tmp_path / "worker", test_nodes=True) as running:
        yield running


@pytest.fixture
async def make_cluster(clock: ManualClock) -> AsyncIterator[Callable[..., Cluster]]:
    """``make_cluster(worker or URL, …, classes=(), **settings)``; not started."""
    made: list[Cluster] = []

    def make(*targets: EmbeddedWorker | str, classes: Any = (), **changes: Any) -> Cluster:
        urls = [target if isinstance(target, str) else target.url for target in targets]
        settings = Settings(
            instances=tuple(parse_instance(url) for url in urls),
            **{"health_check_interval_s": 86400.0, **changes},
        )
        made.append(Cluster(settings, classes=classes, clock=clock))
        return made[-1]

    yield make
    for cluster in made:
        await cluster.scheduler.close()


@pytest.fixture
async def start_cluster(make_cluster: Callable[..., Cluster]) -> AsyncIterator[Callable[..., Any]]:
    """As ``make_cluster``, started; closed after the test."""
    async with AsyncExitStack() as stack:

        async def start(*targets: EmbeddedWorker | str, **options: Any) -> Cluster:
            cluster = make_cluster(*targets, **options)
            stack.push_async_callback(cluster.close)
            await cluster.start()
            return cluster

        yield start


@pytest.fixture
async def connected(make_cluster: Callable[..., Cluster]) -> AsyncIterator[Callable[..., Any]]:
    """As ``start_cluster``, without the background checks: nothing happens by itself."""
    async with AsyncExitStack() as stack:

        async def start(*targets: EmbeddedWorker | str, **options: Any) -> Cluster:
            cluster = make_cluster(*targets, **options)
            stack.push_async_callback(cluster.close)
            await cluster.connections.start()
            return cluster

        yield start


@pytest.fixture
async def cluster(connected: Callable[..., Awaitable[Cluster]], worker: EmbeddedWorker) -> Cluster:
    """One worker, no background checks."""
    return await connected(worker)


@pytest.fixture
def pool(cluster: Cluster) -> WebSocketPool:
    return cluster.connections.pool(cluster.instances[0])


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[Instance]:
    """Every ``GET /system_stats`` that begins."""
    begun: list[Instance] = []
    check = ComfyUIClient.check

    async def counted(self: ComfyUIClient, timeout_s: float) -> None:
        begun.append(self.instance)
        await check(self, timeout_s)

    monkeypatch.setattr(ComfyUIClient, "check", counted)
    return begun
