"""admission.py: who is refused is told when there will be room for it, by what was measured."""

from __future__ import annotations

import heapq
import itertools

import pytest
from manual_clock import ManualClock

from comfy_proxy.admission import (
    GRACE_S,
    MAX_OF_ONE,
    MAX_PROMISES,
    MAX_RETRY_S,
    Promises,
    Throughput,
)


class Room:
    """So many places, one of which becomes free every ``service_s`` while any is taken."""

    def __init__(self, clock: ManualClock, places: int) -> None:
        self.places = places
        self.taken = 0
        self.promises = Promises(clock)
        self.throughput = Throughput(clock)

    def ask(self, who: object) -> int | None:
        """None if it is let in, else its Retry-After."""
        due = self.promises.is_due(who)
        kept = 0 if due else min(self.promises.reserved(), self.places // 2)
        if self.taken + kept < self.places:
            self.promises.keep(who)
            self.taken += 1
            return None
        interval_s = self.throughput.interval_s() or 5.0
        return self.promises.told_s(who, interval_s, interval_s)

    def serve(self) -> None:
        if self.taken:
            self.taken -= 1
            self.throughput.left()


@pytest.mark.long
async def test_in_an_overload_everybody_is_told_the_truth(clock: ManualClock) -> None:
    """Five times as many as there is room for, for 60 s: whoever comes back as told finds a place
    then, and nine of ten had been told their wait within a factor of two from the beginning."""
    room = Room(clock, places=40)
    asks = [(1000.0 + n / 50, n) for n in range(50 * 60)]  # (when, who): 50 a second
    serves = [1000.0 + n / 10 for n in range(10 * 400)]  # … and 10 a second are served
    events = [(at, 1, who) for at, who in asks] + [(at, 0, 0) for at in serves]
    heapq.heapify(events)
    told: dict[int, tuple[float, int]] = {}
    errors: list[float] = []
    while events and events[0][0] < 1390.0:
        at, kind, who = heapq.heappop(events)
        await clock.advance(max(0.0, at - clock.monotonic()))
        if kind == 0:
            room.serve()
            continue
        retry_s = room.ask(who)
        if retry_s is not None:
            told.setdefault(who, (at, retry_s))
            heapq.heappush(events, (at + retry_s, 1, who))
        elif who in told:
            asked_at, first_s = told[who]
            errors.append((at - asked_at) / first_s)
    assert len(errors) == len(told) > 2000
    assert max(first_s for _, first_s in told.values()) > 200
    close = sum(0.5 <= error <= 2.0 for error in errors)
    assert close >= 0.9 * len(errors)


async def test_the_rate_is_that_of_the_places_that_became_free_last(clock: ManualClock) -> None:
    """Unknown before a few were seen, and slower the longer none is; what left an empty queue says
    nothing."""
    throughput = Throughput(clock)
    for _ in range(4):
        assert throughput.interval_s() is None
        throughput.left()
        await clock.advance(2.0)
    assert throughput.interval_s() == pytest.approx(2.0)
    await clock.advance(92.0)
    assert throughput.interval_s() == pytest.approx(25.0)
    throughput.idle()
    assert throughput.interval_s() is None


async def test_each_is_promised_a_place_of_its_own(clock: ManualClock) -> None:
    """One after the other; within the limits of Retry-After."""
    promises = Promises(clock)
    assert [promises.told_s(who, 0.1, 2.0) for who in "abc"] == [1, 3, 5]
    assert promises.told_s("d", 1e9, 1e9) == MAX_RETRY_S


async def test_the_same_request_has_the_same_promise(clock: ManualClock) -> None:
    """Who asks again too early has it still, and pushes nobody back."""
    promises = Promises(clock)
    assert promises.told_s("a", 10.0, 10.0, known=True) == 10
    await clock.advance(4.0)
    assert promises.told_s("a", 10.0, 10.0, known=True) == 6
    assert promises.told_s("b", 10.0, 10.0, known=True) == 16


async def test_who_comes_as_told_and_finds_no_room_is_the_next_one(clock: ManualClock) -> None:
    """It is not sent to the end: the rate was worse than it had looked."""
    promises = Promises(clock)
    for who in "abc":
        promises.told_s(who, 10.0, 10.0)
    await clock.advance(10.0)
    assert promises.is_due("a")
    assert promises.told_s("a", 10.0, 10.0) == 10
    assert promises.told_s("d", 10.0, 10.0) == 30


async def test_a_place_is_kept_for_a_moment_only(clock: ManualClock) -> None:
    """For those who were told to come by now; who does not come has none."""
    promises = Promises(clock)
    promises.told_s("a", 5.0, 5.0)
    assert promises.reserved() == 0
    await clock.advance(5.0)
    assert promises.reserved() == 1
    await clock.advance(GRACE_S + 0.1)
    assert promises.reserved() == 0
    assert len(promises) == 0


async def test_where_few_come_back_the_places_are_told_to_more(clock: ManualClock) -> None:
    """Of those who went away for good only the share that comes back is counted."""
    promises = Promises(clock)
    for number in range(200):
        promises.told_s(number, 1.0, 0.0)
    await clock.advance(10.0)
    assert promises.reserved() == 0
    assert [promises.told_s(who, 10.0, 1000.0) for who in "abc"] == [10, 12, 14]


async def test_what_is_remembered_is_bounded(clock: ManualClock) -> None:
    """Also of one that asks over and over."""
    promises = Promises(clock)
    for _ in range(2 * MAX_OF_ONE):
        last_s = promises.told_s("hasty", 1.0, 1.0)
    assert (len(promises), last_s) == (MAX_OF_ONE, MAX_OF_ONE + 1)
    for number in itertools.islice(itertools.count(), MAX_PROMISES + 10):
        promises.told_s(number, 1.0, 0.0)
    assert len(promises) == MAX_PROMISES
