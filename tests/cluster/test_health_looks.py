"""Checks out of turn, when sockets tell that an instance went or came back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from cluster_harness import eventually, left_alone
from manual_clock import ManualClock, settle

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.health_checker import DEMAND_INTERVAL_S, MAX_LOOKS
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.embedded.worker import EmbeddedWorker

Start = Callable[..., Awaitable[Cluster]]


@pytest.fixture
async def watched(start_cluster: Start, worker: EmbeddedWorker, clock: ManualClock) -> Cluster:
    """One instance, checked once at the start; the next check is a long way off."""
    cluster = await start_cluster(worker)
    await eventually(lambda: cluster.instances[0].check_ok and clock.waiting == 1)
    return cluster


async def test_a_dead_instance_is_out_after_three_checks(
    watched: Cluster, worker: EmbeddedWorker, clock: ManualClock, probes: list[Instance]
) -> None:
    """A second apart, however many sockets ask at once."""
    (instance,) = watched.instances
    await worker.kill()
    for _ in range(5):
        watched.health_checker.look(instance)
    for strikes in (1, 2, 3):
        await eventually(lambda strikes=strikes: len(probes) == strikes)
        await eventually(lambda: instance.check_ok is False)
        await settle()
        assert instance.breaker.consecutive_failures == strikes
        assert instance.healthy is (strikes < 3)
        await clock.advance(DEMAND_INTERVAL_S)


async def test_a_blip_opens_no_circuit(
    watched: Cluster, worker: EmbeddedWorker, clock: ManualClock, probes: list[Instance]
) -> None:
    """The next check passes, and that was it."""
    (instance,) = watched.instances
    worker.refuse_connections()
    worker.drop_connections()
    watched.health_checker.look(instance)
    await eventually(lambda: instance.check_ok is False and clock.waiting == 2)
    await worker.accept_connections()
    await clock.advance(DEMAND_INTERVAL_S)
    await eventually(lambda: instance.check_ok)
    assert instance.breaker.consecutive_failures == 0
    await eventually(lambda: clock.waiting == 1)
    assert len(probes) == 2


async def test_a_return_is_looked_at_at_once(
    watched: Cluster, worker: EmbeddedWorker, clock: ManualClock
) -> None:
    """Not when the look at the outage has its next turn."""
    (instance,) = watched.instances
    worker.refuse_connections()
    worker.drop_connections()
    watched.health_checker.look(instance)
    await eventually(lambda: instance.check_ok is False and clock.waiting == 2)
    await worker.accept_connections()
    watched.health_checker.look(instance)
    await eventually(lambda: instance.check_ok)


async def test_an_instance_that_answers_nothing_but_sockets_is_given_up(
    watched: Cluster, worker: EmbeddedWorker, clock: ManualClock, probes: list[Instance]
) -> None:
    """No look goes on for ever."""
    (instance,) = watched.instances
    for _ in range(3):
        instance.fault("refused")
    worker.faults.answers = {"/system_stats": "500"}
    watched.health_checker.look(instance)
    await left_alone(watched, clock)
    assert MAX_LOOKS - 1 <= len(probes) <= MAX_LOOKS + 1
    assert clock.waiting == 1


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
