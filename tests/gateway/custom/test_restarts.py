"""gateway/custom/restarts.py: what ends an instance's process waits until it has nothing to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from custom_front import CustomFront, custom_front
from events_harness import until
from manual_clock import ManualClock

from comfy_proxy.cluster.instance import takes_work
from comfy_proxy.gateway.custom.restarts import DRAIN_TIMEOUT_S, SETTLE_S


@pytest.fixture
async def front() -> AsyncIterator[CustomFront]:
    async with custom_front() as made:
        yield made


def clock_of(front: CustomFront) -> ManualClock:
    clock = front.gateway.cluster.clock
    assert isinstance(clock, ManualClock)
    return clock


async def turns() -> None:
    """Whatever can go on without time or network."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_a_restart_waits_for_what_is_there(front: CustomFront) -> None:
    """Nothing new is sent there meanwhile, and until it has gone away."""
    one, two = front.instances
    one.prompts.observed(2)
    asking = asyncio.create_task(front.ask("POST", "/manager/reboot"))
    await until(lambda: one.draining > 0)
    assert not takes_work(one)
    assert takes_work(two)
    one.prompts.observed(1)
    await turns()
    assert front.one.paths == []
    one.prompts.observed(0)
    assert await asking == (200, "one")
    assert not takes_work(one)
    one.socket_lost()
    await turns()
    assert takes_work(one)
    assert front.two.paths == []


async def test_one_that_does_not_go_away_is_used_again(front: CustomFront) -> None:
    one, _ = front.instances
    assert await front.ask("GET", "/manager/reboot") == (200, "one")
    assert not takes_work(one)
    await clock_of(front).advance(SETTLE_S)
    await turns()
    assert takes_work(one)


async def test_one_that_never_runs_empty_is_restarted_all_the_same(front: CustomFront) -> None:
    one, _ = front.instances
    one.prompts.observed(1)
    asking = asyncio.create_task(front.ask("POST", "/v2/manager/reboot"))
    await until(lambda: one.draining > 0)
    await turns()
    await clock_of(front).advance(DRAIN_TIMEOUT_S)
    assert await asking == (200, "one")


async def test_one_that_ends_by_itself_is_waited_for_no_longer(front: CustomFront) -> None:
    """Its client would wait ten minutes for what cannot come."""
    one, _ = front.instances
    one.prompts.observed(1)
    asking = asyncio.create_task(front.ask("POST", "/manager/reboot"))
    await until(lambda: one.draining > 0)
    await turns()
    await front.one.server.close()
    front.away(one)
    one.socket_lost()
    status, _ = await asking
    assert status == 503
    assert front.two.paths == []
