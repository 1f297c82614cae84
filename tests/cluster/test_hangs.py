"""cluster/hangs.py: when what waits and runs at an instance that is away goes elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from manual_clock import ManualClock
from plan_harness import LOAD_S, planner_of, slot, teach, work

from comfy_proxy.cluster.hang_watch import HangWatch
from comfy_proxy.cluster.hangs import LOADS, Hangs
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.errors import InstanceError

TIMEOUT_S = 20.0


class Site:
    """Two instances; who was told to be away, and to hang."""

    def __init__(self, clock: ManualClock, timeout_s: float) -> None:
        self.clock = clock
        self.planner = planner_of(clock)
        self.one, self.two = self.planner.lines
        both = (self.one, self.two)
        self.watch = HangWatch(both, self._check, clock=clock, timeout_s=timeout_s)
        self.hangs = Hangs(both, self.watch, self.planner, clock=clock)
        self.hangs.start()
        self.away: list[Instance] = []
        self.hung: list[Instance] = []
        self.hangs.on_away.append(self.away.append)
        self.hangs.on_hung.append(self.hung.append)
        for one in both:
            one.on_circuit.append(lambda change, one=one: self.hangs.circuit_changed(one))

    async def _check(self, instance: Instance) -> bool:
        return instance.healthy

    def lose(self, instance: Instance) -> None:
        """Its circuit opens."""
        while instance.healthy:
            instance.check_failed("no answer in time")

    async def find(self, instance: Instance) -> None:
        """It answers again, after the cooldown of its circuit."""
        await self.clock.advance(1)
        assert instance.breaker.begin_trial()
        instance.check_passed(0.01)


@pytest.fixture
async def site(clock: ManualClock) -> AsyncIterator[Site]:
    made = Site(clock, TIMEOUT_S)
    yield made
    await made.hangs.close()


async def test_it_is_away_at_once_and_hangs_after_the_timeout(site: Site) -> None:
    site.lose(site.one)
    await site.clock.advance(0)
    assert site.away == [site.one]
    await site.clock.advance(TIMEOUT_S - 1)
    assert site.hung == []
    await site.clock.advance(2)
    assert site.hung == [site.one]


async def test_a_sign_of_life_begins_the_time_anew(site: Site) -> None:
    """Though its circuit stays open: a busy instance fails its checks."""
    site.lose(site.one)
    await site.clock.advance(TIMEOUT_S - 1)
    site.one.frame_seen()
    await site.clock.advance(TIMEOUT_S - 1)
    assert site.hung == []
    await site.clock.advance(2)
    assert site.hung == [site.one]


async def test_one_that_returns_does_not_hang(site: Site) -> None:
    site.lose(site.one)
    await site.find(site.one)
    await site.clock.advance(10 * TIMEOUT_S)
    assert site.hung == []


async def test_what_loads_for_long_is_waited_for(site: Site) -> None:
    """What runs there has three times as long as its models take to load."""
    slow = work("a")
    teach(site.planner, slow, load_s=LOAD_S)
    line = site.planner.lines[site.one]
    line.join(slot("x", slow))
    line.begin("x", site.clock.monotonic())
    site.lose(site.one)
    await site.clock.advance(LOADS * LOAD_S - 1)
    assert site.hung == []
    await site.clock.advance(2)
    assert site.hung == [site.one]


@pytest.mark.long
async def test_without_another_instance_all_stays_where_it_is(site: Site) -> None:
    site.lose(site.two)
    site.lose(site.one)
    await site.clock.advance(10 * TIMEOUT_S)
    assert site.hung == []
    site.away.clear()
    await site.find(site.two)
    assert site.away == [site.one]
    await site.clock.advance(1)
    assert site.hung == [site.one]


async def test_zero_is_never(clock: ManualClock) -> None:
    """With HANG_TIMEOUT 0 what runs there stays; what waits leaves all the same, as it loses
    nothing."""
    site = Site(clock, 0)
    site.lose(site.one)
    await clock.advance(3600)
    assert (site.away, site.hung) == ([site.one], [])
    await site.hangs.close()


async def test_jobs_are_given_up_as_prompts_are(site: Site) -> None:
    waits, runs = (Placement(site.one) for _ in range(2))
    given_up: dict[Placement, InstanceError] = {}
    for placement in (waits, runs):
        placement.in_queue = True
        placement.give_up = lambda error, placement=placement: given_up.update({placement: error})
    runs.running = True
    site.lose(site.one)
    await site.clock.advance(0)
    assert list(given_up) == [waits]
    await site.clock.advance(TIMEOUT_S + 1)
    assert set(given_up) == {waits, runs}
