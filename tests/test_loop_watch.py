"""The event loop's lag is measured always, and at debug the log says who held it up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest
from aiohttp.test_utils import TestClient
from loguru import logger

from comfy_proxy import loop_watch
from comfy_proxy.keys import LOOP_WATCH
from comfy_proxy.loop_watch import RECENT_S, LoopWatch, StackLog


class Time:
    """Moves when the test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def time() -> Time:
    return Time()


@pytest.fixture
async def watch(time: Time) -> LoopWatch:
    """Ticks come by :func:`late` alone."""
    made = LoopWatch(lambda: False, time)
    made.start()
    assert made._timer is not None
    made._timer.cancel()
    return made


def late(watch: LoopWatch, time: Time, by_s: float) -> None:
    """The next tick fires ``by_s`` seconds after it was due."""
    time.now = watch.due_s + by_s
    watch.tick()
    assert watch._timer is not None
    watch._timer.cancel()


async def test_a_late_tick_is_counted_by_how_late_it_is(watch: LoopWatch, time: Time) -> None:
    """One of the histogram's bounds each; a tick that comes in time counts as well."""
    for by_s in (0.0, 0.0, 0.003, 0.3):
        late(watch, time, by_s)
    counts = dict(watch.lags.cumulative())
    assert (counts[0.001], counts[0.005], counts[0.25], counts[0.5]) == (2, 3, 3, 4)
    assert watch.lags.total_s == pytest.approx(0.303)


async def test_the_worst_of_the_last_minute_is_told(watch: LoopWatch, time: Time) -> None:
    """A minute later it is forgotten, and a tick that is late just now counts already."""
    late(watch, time, 0.3)
    late(watch, time, 0.1)
    assert watch.worst_s() == pytest.approx(0.3)
    watch.due_s += RECENT_S
    late(watch, time, 0.0)
    assert watch.worst_s() == 0
    time.now = watch.due_s + 0.2
    assert watch.worst_s() == pytest.approx(0.2)


async def test_what_is_remembered_is_bounded(watch: LoopWatch, time: Time) -> None:
    """However long it runs."""
    for _ in range(10_000):
        late(watch, time, 0.04)
    assert len(watch._worst) <= RECENT_S / loop_watch._SLOT_S + 1


@pytest.fixture
def lines() -> Iterator[list[str]]:
    found: list[str] = []
    handler = logger.add(lambda line: found.append(str(line)), level="DEBUG", format="{message}")
    yield found
    logger.remove(handler)


def test_the_stack_of_whoever_stands_in_the_way_is_logged_once(lines: list[str]) -> None:
    """For each time that the loop stands still, by a thread that watches this one."""
    looked, due = threading.Semaphore(0), [1.0]

    def be_late() -> tuple[float, float]:
        looked.release()
        return due[0], 0.5

    stacks = StackLog(be_late)

    def hold_up_the_loop() -> None:
        for _ in range(3):
            looked.acquire()

    hold_up_the_loop()
    due[0] = 2.0
    hold_up_the_loop()
    stacks.stop()
    stacks._thread.join(10)
    assert len(lines) == 2
    assert all("hold_up_the_loop" in line and "0.50 s" in line for line in lines)


async def test_the_thread_is_there_at_debug_only(time: Time) -> None:
    """The level may change while it runs."""
    debug = [False]
    watch = LoopWatch(lambda: debug[0], time)
    watch.start()
    for wanted in (False, True, False, True):
        debug[0] = wanted
        late(watch, time, 0.0)
        assert (watch._stacks is not None) is wanted
    stacks = watch._stacks
    watch.close()
    assert stacks is not None
    await asyncio.to_thread(stacks._thread.join, 10)
    assert not stacks._thread.is_alive()


async def test_everybody_can_see_it(proxy: TestClient, start_proxy: Callable[..., object]) -> None:
    """In /health the worst of the last minute, in /metrics the histogram."""
    async with proxy.get("/health") as answer:
        before = (await answer.json())["event_loop"]["worst_lag_seconds"]
    proxy.app[LOOP_WATCH].due_s -= before + 10
    async with proxy.get("/health") as answer:
        assert (await answer.json())["event_loop"]["worst_lag_seconds"] > before + 9
    accept = {"Accept": "text/plain; version=0.0.4"}
    async with proxy.get("/metrics", headers=accept) as answer:
        text = await answer.text()
    assert 'comfy_proxy_event_loop_lag_seconds_bucket{le="0.02"}' in text
