"""The time of a check is the instance's: what our own event loop took of it is no strike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from manual_clock import ManualClock, settle

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.comfyui_client import ComfyUIClient
from comfy_proxy.cluster.health_checker import MAX_LATE
from comfy_proxy.cluster.lateness import Lateness
from comfy_proxy.errors import InstanceTimeoutError


async def test_what_comes_late_is_counted(clock: ManualClock) -> None:
    """The sum, with what is late now; nothing of a loop that is in time."""
    with Lateness(clock, 0.6) as lateness:
        await clock.advance(0.35)
        assert lateness.seconds() == pytest.approx(0.0)
        clock._now += 0.5  # nobody's turn comes
        assert lateness.seconds() == pytest.approx(0.45)
        await clock.advance(0.0)
        assert lateness.seconds() == pytest.approx(0.45)
    assert clock.waiting == 0


@pytest.fixture
def late(
    make_cluster: Callable[..., Cluster], clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> tuple[Cluster, list[float]]:
    """A cluster of one instance that is silent in each check, in which our loop stands still for as
    long as the list says (seconds); when that is at its end the instance answers."""
    delays: list[float] = []

    async def check(client: ComfyUIClient, timeout_s: float) -> None:
        if delays:
            clock._now += delays.pop(0)
            raise InstanceTimeoutError("It did not answer in time.")

    monkeypatch.setattr(ComfyUIClient, "check", check)
    return make_cluster("gpu1:1"), delays


async def checked(cluster: Cluster) -> tuple[bool, int]:
    """The verdict, and the strikes after it."""
    instance = cluster.instances[0]
    verdict = await cluster.health_checker.check(instance)
    await settle()
    return verdict, instance.breaker.consecutive_failures


async def test_a_check_in_which_our_loop_stood_still_is_repeated(
    late: tuple[Cluster, list[float]],
) -> None:
    cluster, delays = late
    delays += [4.0, 1.0]
    assert await checked(cluster) == (True, 0)


async def test_a_check_in_which_only_the_instance_was_silent_is_a_strike(
    late: tuple[Cluster, list[float]],
) -> None:
    cluster, delays = late
    delays += [0.01, 0.01]
    assert await checked(cluster) == (False, 1)
    assert len(delays) == 1


async def test_a_loop_that_is_always_late_strikes_nobody(
    late: tuple[Cluster, list[float]],
) -> None:
    """The instance counts as silent for now, and is asked again the next time."""
    cluster, delays = late
    delays += [4.0] * MAX_LATE
    assert await checked(cluster) == (False, 0)
    assert await checked(cluster) == (True, 0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
