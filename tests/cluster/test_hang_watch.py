"""cluster/hang_watch.py: who waits for an instance that answers nothing, and for how long."""

from __future__ import annotations

import asyncio

import pytest
from manual_clock import ManualClock, settle
from yarl import URL

from comfy_proxy.cluster.hang_watch import SILENCE_S, HangWatch, InstanceHangsError
from comfy_proxy.cluster.instance import Instance

TIMEOUT_S = 30.0


class Site:
    """Two instances; those in ``silent`` answer no check. ``checked`` is every check."""

    def __init__(self, clock: ManualClock, timeout_s: float = TIMEOUT_S) -> None:
        self.clock = clock
        self.one, self.two = (
            Instance(id=str(n), url=URL(f"http://localhost:818{n}"), clock=clock) for n in (1, 2)
        )
        self.silent: set[Instance] = set()
        self.checked: list[Instance] = []
        self.doubted: list[Instance] = []
        for instance in (self.one, self.two):
            instance.on_doubt.append(self.doubted.append)
        self.watch = HangWatch((self.one, self.two), self._check, clock=clock, timeout_s=timeout_s)

    async def _check(self, instance: Instance) -> bool:
        self.checked.append(instance)
        if instance in self.silent:
            instance.check_failed("no answer in time")
        else:
            instance.check_passed(0.01)
        return instance not in self.silent

    def waits(self, instance: Instance, *, replaceable: bool = True) -> asyncio.Task[None]:
        """An exchange that waits for ever."""

        async def exchange() -> None:
            with self.watch.over(instance, replaceable=replaceable):
                await asyncio.Event().wait()

        return asyncio.create_task(exchange())


@pytest.fixture
def site(clock: ManualClock) -> Site:
    return Site(clock)


async def gave_up(task: asyncio.Task[None]) -> bool:
    """Whether it was given up; it is ended in either case."""
    await settle()
    if not task.done():
        task.cancel()
    result = (await asyncio.gather(task, return_exceptions=True))[0]
    return isinstance(result, InstanceHangsError)


async def test_what_another_one_can_do_is_given_up_with_the_first_check_that_fails(
    site: Site,
) -> None:
    site.silent = {site.one}
    task = site.waits(site.one)
    await site.clock.advance(SILENCE_S)
    assert await gave_up(task)
    assert site.checked == site.doubted == [site.one]


async def test_at_one_that_failed_its_last_check_nobody_waits_at_first(site: Site) -> None:
    site.silent = {site.one}
    site.one.check_failed("no answer in time")
    task = site.waits(site.one)
    await site.clock.advance(0)
    assert await gave_up(task)


async def test_what_answers_in_time_costs_no_check(site: Site) -> None:
    with site.watch.over(site.one, replaceable=True):
        pass
    await site.clock.advance(60)
    assert site.checked == []
    assert site.clock.waiting == 0


async def test_an_answer_that_has_begun_may_take_any_time(site: Site) -> None:
    site.silent = {site.one}
    with site.watch.over(site.one, replaceable=True) as watched:
        watched.answered()
        await site.clock.advance(600)
    assert site.checked == []


async def test_one_that_is_slow_and_answers_checks_is_waited_for(site: Site) -> None:
    """Its checks become fewer and fewer."""
    task = site.waits(site.one)
    await site.clock.advance(300)
    assert not await gave_up(task)
    assert 10 < len(site.checked) < 70


async def test_frames_are_as_good_as_checks(site: Site) -> None:
    site.silent = {site.one}
    task = site.waits(site.one)
    for _ in range(40):
        await site.clock.advance(SILENCE_S / 2)
        site.one.frame_seen()
        await site.clock.advance(SILENCE_S / 2)
    assert not await gave_up(task)
    assert site.checked == []


async def test_where_nobody_else_is_well_one_that_is_busy_is_waited_for(site: Site) -> None:
    site.silent = {site.one, site.two}
    site.two.check_failed("no answer in time")
    task = site.waits(site.one)
    await site.clock.advance(60)
    assert not await gave_up(task)


async def test_what_it_alone_can_answer_waits_for_the_hang_timeout(site: Site) -> None:
    """A failed check is not enough: it may load a model (PROTOCOL.md trap 8)."""
    site.silent = {site.one}
    task = site.waits(site.one, replaceable=False)
    await site.clock.advance(TIMEOUT_S - 1)
    assert not task.done()
    assert not site.watch.hangs(site.one)
    await site.clock.advance(2)
    assert site.watch.hangs(site.one)
    assert await gave_up(task)
    assert site.doubted == [site.one]  # once: each doubt begins the look at it anew


@pytest.mark.long
async def test_with_no_hang_timeout_it_waits_for_ever(clock: ManualClock) -> None:
    site = Site(clock, timeout_s=0)
    site.silent = {site.one}
    task = site.waits(site.one, replaceable=False)
    await clock.advance(3600)
    assert not await gave_up(task)


async def test_what_is_given_up_is_no_strike_beside_the_check(site: Site) -> None:
    site.silent = {site.one}

    async def exchange() -> None:
        with site.watch.over(site.one, replaceable=True), site.one.attempt("ask"):
            await asyncio.Event().wait()

    task = asyncio.create_task(exchange())
    await site.clock.advance(SILENCE_S)
    assert await gave_up(task)
    assert site.one.breaker.consecutive_failures == len(site.checked)


async def test_a_cancelled_exchange_leaves_nothing_behind(site: Site) -> None:
    task = site.waits(site.one)
    await site.clock.advance(SILENCE_S)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await settle()
    assert site.clock.waiting == 0
