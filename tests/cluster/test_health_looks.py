"""One check more, when something else tells that an instance went or came back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from cluster_harness import eventually
from manual_clock import ManualClock, settle

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.comfyui_client import ComfyUIClient
from comfy_proxy.cluster.health_checker import DEMAND_INTERVAL_S
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.embedded.worker import EmbeddedWorker

Start = Callable[..., Awaitable[Cluster]]


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


@pytest.fixture
async def watched(start_cluster: Start, worker: EmbeddedWorker, clock: ManualClock) -> Cluster:
    """One instance, checked once at the start; the next check is a long way off."""
    cluster = await start_cluster(worker)
    await eventually(lambda: cluster.instances[0].check_ok and clock.waiting == 1)
    return cluster


async def test_a_look_is_one_check(
    watched: Cluster, worker: EmbeddedWorker, probes: list[Instance]
) -> None:
    """However many ask at once; its verdict counts like any other."""
    (instance,) = watched.instances
    await worker.kill()
    for _ in range(5):
        watched.health_checker.look(instance)
    await eventually(lambda: instance.check_ok is False)
    await settle()
    assert probes == [instance]
    assert instance.breaker.consecutive_failures == 1
    assert instance.healthy


async def test_a_look_waits_for_a_circuit_that_opened_just_now(
    watched: Cluster, clock: ManualClock, probes: list[Instance]
) -> None:
    """Else the instance that has returned would stay out until the next period."""
    (instance,) = watched.instances
    for _ in range(3):
        instance.fault("refused")
    watched.health_checker.look(instance)
    await settle()
    assert probes == []
    await clock.advance(DEMAND_INTERVAL_S)
    await eventually(lambda: instance.healthy)
    assert probes == [instance]


async def test_nobody_looks_before_the_start_or_after_the_end(
    cluster: Cluster, watched: Cluster, clock: ManualClock, probes: list[Instance]
) -> None:
    """Sockets may break off while the proxy goes down; no task is left behind."""
    (instance,) = watched.instances
    cluster.health_checker.look(cluster.instances[0])
    for _ in range(3):
        instance.fault("refused")
    watched.health_checker.look(instance)
    await settle()
    await watched.close()
    watched.health_checker.look(instance)
    await settle()
    assert clock.waiting == 0
    assert probes == []
