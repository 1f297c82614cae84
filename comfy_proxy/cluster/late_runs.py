"""What waits behind a prompt that runs for longer than it should goes elsewhere all the same.

No event tells of that: an instance that goes on with what it runs says nothing new. So the moment
is foreseen, for jobs' prompts (``scheduler.py``) and for clients' (``gateway/prompts/``) alike.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from comfy_proxy.clock import Clock, Timer
from comfy_proxy.cluster.instance import Instance, takes_work
from comfy_proxy.cluster.planning.figures import TIE_S
from comfy_proxy.cluster.planning.late_runs import ROUNDING_S, LateRun, due_in_s
from comfy_proxy.cluster.planning.planner import Planner
from comfy_proxy.cluster.planning.takers import Takers
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.cluster.waiter import Accepts, anywhere

MIN_LOAD: Final = 2
"""Prompts at an instance. Where there are fewer, none is moved away to an instance that has none:
the only one runs already."""
MAX_TRIED: Final = 16
"""So many of the idle instances are looked at for one prompt, the cheapest first. If it can run at
none of them, its moment is not foreseen, and it stays until something happens: looks at hundreds
for each of hundreds of prompts would take too long."""
SHORTEST_S: Final = TIE_S
"""Seconds; no timer is shorter, so that looks that find nothing do not follow each other at once.
Finishes that differ by less count as equal anyway."""


class Movable(NamedTuple):
    """A prompt that waits and may be moved: ``key`` is under what its line knows it, ``accepts``
    where it can go, as far as is known."""

    key: Hashable
    accepts: Accepts = anywhere


@dataclass(kw_only=True, slots=True)
class _First:
    """The prompt under ``key`` should run, and that was not heard: by ``due_at`` (monotonic
    seconds) it should have ended."""

    key: Hashable
    due_at: float
    is_due: bool = False
    is_told: bool = False


class LateRuns:
    """Has work evened out, by ``again``, at the moment when that pays because something is late.

    ``movable`` tells which prompts at an instance may be moved, ``instances`` which there are.
    """

    def __init__(
        self,
        planner: Planner,
        clock: Clock,
        *,
        instances: Callable[[], Iterable[Instance]],
        movable: Callable[[Instance], Iterable[Movable]],
        again: Callable[[], None],
    ) -> None:
        self._planner = planner
        self._clock = clock
        self._instances = instances
        self._movable = movable
        self._again = again
        self._timer: Timer | None = None
        self._firsts = ByInstance[_First]()

    def foresee(self) -> None:
        """Work is as even as it can be now: set the timer for when it will not be."""
        self._stop_timer()
        for busy, first in list(self._firsts.items()):
            if not self._should_run(busy, first.key):
                del self._firsts[busy]
        seconds = min(self._moments(self._clock.monotonic()), default=None)
        if seconds is not None:
            self._timer = self._clock.call_later(max(SHORTEST_S, seconds), self._go_off)

    def unheard(self) -> list[Instance]:
        """Where the next prompt should have begun and ended by now, and neither was heard. Each is
        told once for each such prompt: asking again and again would not show more."""
        found = []
        for busy, first in self._firsts.items():
            if first.is_due and not first.is_told and self._should_run(busy, first.key):
                first.is_told = True
                found.append(busy)
        return found

    def close(self) -> None:
        """Stop the timer, and forget what was foreseen."""
        self._stop_timer()
        self._firsts.clear()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _go_off(self) -> None:
        self._timer = None
        latest = self._clock.monotonic() + ROUNDING_S
        for first in self._firsts.values():
            first.is_due = first.is_due or first.due_at <= latest
        self._again()

    def _moments(self, now: float) -> Iterator[float]:
        """Seconds until each moment at which something pays that does not pay now."""
        healthy = [one for one in self._instances() if one.healthy]
        loaded = [one for one in healthy if one.load >= MIN_LOAD]
        if not loaded:
            return  # nothing waits anywhere, as most of the time
        idle = [one for one in healthy if one.load < MIN_LOAD and takes_work(one)]
        # What runs late there is believed to run on for as long: waiting does not make it cheaper.
        low = {one: one.load for one in idle if (self._due_in_s(one, now) or 0.0) >= 0.0}
        takers, least = Takers(self._planner, low), min(low.values(), default=MIN_LOAD)
        for busy in loaded:
            if busy.load - least < MIN_LOAD:
                continue
            if self._planner.lines[busy].running is None:
                yield from self._until_unheard(busy, now)
                continue
            yield from self._gains(busy, takers, now)

    def _gains(self, busy: Instance, takers: Takers, now: float) -> Iterator[float]:
        """For each prompt that waits there the seconds until it gains at an instance where it does
        not yet."""
        line, late_run = self._planner.lines[busy], LateRun(self._planner, busy, now)
        for one in self._movable(busy):
            slot = line.find(one.key)
            if slot is None:
                continue
            for figure in takers.cheapest(slot, busy.load - MIN_LOAD)[:MAX_TRIED]:
                if one.accepts(figure.instance):
                    seconds = late_run.gains_in_s(slot, figure)
                    if seconds is not None:
                        yield seconds
                        break

    def _until_unheard(self, busy: Instance, now: float) -> Iterator[float]:
        """Seconds until what should run there should have ended, if it has begun when this was
        first asked."""
        waiting = self._planner.lines[busy].waiting
        if not waiting:
            return
        first = self._firsts.get(busy)
        if first is None or first.key is not waiting[0].key:
            due_at = now + max(TIE_S, waiting[0].end_s)
            first = self._firsts[busy] = _First(key=waiting[0].key, due_at=due_at)
        if not first.is_due:
            yield first.due_at - now

    def _should_run(self, busy: Instance, key: Hashable) -> bool:
        line = self._planner.lines[busy]
        return line.running is None and bool(line.waiting) and line.waiting[0].key is key

    def _due_in_s(self, instance: Instance, now: float) -> float | None:
        return due_in_s(self._planner.lines[instance], now)
