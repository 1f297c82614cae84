"""Who of those that wait at the door gets the places that are free now, one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.planning.door_plan import DoorPlan, Rank
from comfy_proxy.cluster.planning.figures import Figure
from comfy_proxy.cluster.planning.planner import Planner
from comfy_proxy.cluster.waiter import Waiter

MAX_BEYOND: Final = 256
"""So many of those that the plan does not reach are looked at for one opening of the door; the
others wait for the next one."""

Given = tuple[Waiter, Instance, Sequence[Figure]]
"""Who gets a place, where, and the figures by which that was chosen, if there are any."""


class Handout:
    """One opening of the door. ``waiting`` are in the order in which their turns come.

    Whoever the plan sends to an instance with a free place gets it, the first one first. One of
    whose work nothing is known takes the least loaded when its turn comes. What the plan leaves
    free goes to the first one beyond its reach that is finished earliest there.
    """

    def __init__(
        self,
        plan: DoorPlan,
        planner: Planner,
        waiting: Sequence[Waiter],
        instances: Sequence[Instance],
        rank: Rank,
    ) -> None:
        self._plan = plan
        self._planner = planner
        self._instances = instances
        self._rank = rank
        self._queues = [(instance, deque(waiters)) for instance, waiters in plan.order()]
        self._others: Iterator[Waiter] = (one for one in waiting if one not in plan.figures)
        self._other = next(self._others, None)
        self._left = MAX_BEYOND
        self._best: dict[tuple[object, ...], list[Figure]] = {}

    def next(self, free: Sequence[Instance]) -> Given | None:
        """Who is next, now that ``free`` have places; None if nobody wants any of them."""
        heads = [(there[0].order, at, there) for at, there in self._queues if there and at in free]
        head = min(heads, key=lambda one: one[0]) if heads else None
        while self._other is not None and (head is None or self._other.order < head[0]):
            waiter, self._other = self._other, next(self._others, None)
            if (given := self._beyond_plan(waiter, free)) is not None:
                return given
        if head is None:
            return None
        _, instance, there = head
        waiter = there.popleft()
        run_s = self._plan.figures[waiter].option.run_s
        for other in there:
            if other.order < waiter.order:
                other.overtaken_s += run_s
        return waiter, instance, self._plan.candidates[waiter]

    def _beyond_plan(self, waiter: Waiter, free: Sequence[Instance]) -> Given | None:
        if self._left <= 0 or not any(map(waiter.may_use, free)):
            return None
        usable = waiter.usable(self._instances)
        own = [one for one in free if one in usable]
        if not own:
            return None
        if not self._plan.knows(waiter):
            return waiter, min(own, key=self._rank), ()
        self._left -= 1
        best = self._finish_first(waiter, usable, own)
        figure = next((one for one in best if one.instance in own), None)
        return None if figure is None else (waiter, figure.instance, best)

    def _finish_first(
        self, waiter: Waiter, usable: Sequence[Instance], own: Sequence[Instance]
    ) -> list[Figure]:
        work = waiter.work_at(own[0])
        if work is None:
            return []
        key = (work.fingerprint, len(usable), *(one.id for one in own))
        if key not in self._best:
            slot = self._planner.slot(waiter, work, own[0])
            self._best[key] = self._planner.best(slot, usable)
        return self._best[key]
