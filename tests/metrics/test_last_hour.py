"""The last sixty minutes, and nothing older."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

from manual_clock import EPOCH, ManualClock

from comfy_proxy.metrics.last_hour import MINUTES, LastHour


async def test_minutes_without_events_are_there_too() -> None:
    """Sixty minutes, oldest first, each a minute after the other: a plot needs no gaps."""
    clock = ManualClock()
    hour = LastHour(clock)
    hour.current.completed += 1
    await clock.advance(30 * 60)
    hour.current.completed += 2
    minutes = hour.minutes()
    assert len(minutes) == MINUTES
    assert [minute.completed for minute in minutes if minute.completed] == [1, 2]
    assert {b.began_at - a.began_at for a, b in pairwise(minutes)} == {timedelta(minutes=1)}
    assert minutes[-1].began_at <= clock.now() < minutes[-1].began_at + timedelta(minutes=1)


async def test_what_is_older_than_an_hour_is_forgotten() -> None:
    """The sum shrinks again by itself, also if nothing happens any more."""
    clock = ManualClock()
    hour = LastHour(clock)
    for _ in range(200):
        hour.current.requests += 1
        hour.current.errors["timeout"] += 1
        await clock.advance(60)
    assert hour.total().requests == MINUTES - 1  # the current minute has none yet
    assert hour.total().errors == {"timeout": MINUTES - 1}
    await clock.advance(3600)
    total = hour.total()
    assert (total.requests, total.errors) == (0, {})
    assert len(hour._minutes) <= MINUTES


async def test_the_sum_tells_since_when() -> None:
    """Before an hour has gone by it begins with the first event."""
    clock = ManualClock()
    hour = LastHour(clock)
    hour.current.failed += 1
    await clock.advance(600)
    assert EPOCH < hour.total().began_at <= clock.now() - timedelta(seconds=600)
