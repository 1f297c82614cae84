"""Who waits for a place at an instance, and who gets the next one that is free.

Clients get their turns one after the other (``fair_share.py``), and each whoever came first, unless
costs are known: then each goes where it is finished earliest,
which may mean to wait for a full instance while another one is free, and work that shares its
models goes together (``planning/door_plan.py``).
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from comfy_proxy.clock import Clock, wait_for_event
from comfy_proxy.cluster.fair_share import FairShare
from comfy_proxy.cluster.handout import Handout
from comfy_proxy.cluster.health_checker import HealthChecker
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.load_balancer import LoadBalancer
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.cluster.planning import decision
from comfy_proxy.cluster.planning.door_plan import DoorPlan
from comfy_proxy.cluster.planning.figures import Figure
from comfy_proxy.cluster.planning.planner import Planner
from comfy_proxy.cluster.waiter import Waiter
from comfy_proxy.errors import NoHealthyInstanceError

RELOOK_S = 2.0
"""Seconds after which the door is looked at again while somebody waits and an instance is free:
what was foreseen may be wrong, and nothing else may happen that tells."""


class Door:
    """``give`` makes the place of a waiter at an instance. ``room`` tells how many more may have
    one just now, over all instances (MAX_CONCURRENT_JOBS)."""

    def __init__(
        self,
        load_balancer: LoadBalancer,
        health_checker: HealthChecker,
        planner: Planner,
        *,
        clock: Clock,
        pending_timeout_s: float,
        give: Callable[[Waiter, Instance], Placement],
    ) -> None:
        self._load_balancer = load_balancer
        self._health_checker = health_checker
        self._planner = planner
        self._clock = clock
        self._pending_timeout_s = pending_timeout_s
        self._give = give
        self._last_usable_at = clock.monotonic()
        self._openings = 0
        self._assigned_at = clock.monotonic()
        self._patient = 0  # how many wait for an instance that is merely full
        self._waiters: list[Waiter] = []  # all that stand here, the next one first
        self.shares = FairShare(self._turns_in_service)
        self._waiting: set[Waiter] = set()  # those of them that are not just trying a place
        self.room: Callable[[], int] = lambda: 1_000_000
        health_checker.on_success.append(lambda instance: self.open())

    def __repr__(self) -> str:
        return f"<Door waiting={len(self)}>"

    def __len__(self) -> int:
        """How many wait: those that were given a place, and are about to take it, do not."""
        return sum(one.placement is None for one in self._waiting)

    @contextmanager
    def standing(self, waiter: Waiter) -> Iterator[None]:
        """Inside the block ``waiter`` may :meth:`wait`; a place that it did not take is given
        back."""
        insort(self._waiters, waiter, key=lambda one: one.order)
        try:
            yield
        finally:
            self._waiters.remove(waiter)
            if waiter.placement is not None:
                waiter.placement.release()

    async def wait(self, waiter: Waiter, since: float) -> Placement:
        """The place that ``waiter`` gets, as soon as there is one; who is passed over is forgotten
        whenever something has changed.

        Raises NoHealthyInstanceError when no instance could be used for ``pending_timeout_s`` since
        then.
        """
        if waiter.openings != self._openings:  # something has changed while it tried a place
            waiter.passed_over.clear()
        self._waiting.add(waiter)
        try:
            self._assign()
            while waiter.placement is None:
                await self._wait(waiter, since)
        finally:
            self._waiting.discard(waiter)
        placement, waiter.placement = waiter.placement, None
        return placement

    def open(self) -> None:
        """A place was given back, or an instance has answered: who waits is looked at again."""
        self._openings += 1
        for waiter in self._waiting:
            waiter.passed_over.clear()
        self._assign()
        if self._patient:
            self.usable_now()  # up to now, not from then on
        for waiter in self._waiting:
            if not waiter.may_hope(self._load_balancer.instances):
                waiter.woken.set()

    def usable_now(self) -> None:
        """An instance has passed the check before a submission: patience begins anew."""
        self._last_usable_at = self._clock.monotonic()

    def plan(self, waiting: Sequence[Waiter]) -> DoorPlan:
        """What is to become of ``waiting``, as far as costs are known."""
        rank, instances = self._load_balancer.rank, self._load_balancer.instances
        return DoorPlan(self._planner, instances, waiting, rank)

    def _plan_for(self, free: Sequence[Instance], waiting: Sequence[Waiter]) -> DoorPlan:
        """As far as it takes to tell who gets the places of ``free``, as far as anybody can use
        them."""
        places = {
            one: one.capacity - len(one.placements)
            for one in free
            if any(waiter.may_use(one) for waiter in waiting)
        }

        def is_enough(plan: DoorPlan) -> bool:
            return all(plan.fills(one, count) for one, count in places.items())

        rank, instances = self._load_balancer.rank, self._load_balancer.instances
        return DoorPlan(self._planner, instances, waiting if places else (), rank, is_enough)

    def _turns_in_service(self) -> Iterator[float]:
        for instance in self._load_balancer.instances:
            for one in instance.placements:
                if isinstance(one, Placement) and one.turn is not None:
                    yield one.turn

    def _in_order(self) -> list[Waiter]:
        return [one for one in self._waiters if one in self._waiting and one.placement is None]

    def _assign(self) -> None:
        """Give what is free to those who are next."""
        self._assigned_at = self._clock.monotonic()
        left, free = self.room(), self._free()
        if not free or left <= 0 or not self._waiting:
            return
        rank, instances = self._load_balancer.rank, self._load_balancer.instances
        waiting = self._in_order()
        plan = self._plan_for(free, waiting)
        handout = Handout(plan, self._planner, waiting, instances, rank)
        while left > 0 and (given := handout.next(free)) is not None:
            self._take(*given)
            left, free = left - 1, self._free()

    def _free(self) -> list[Instance]:
        return [one for one in self._load_balancer.instances if one.available]

    def _take(self, waiter: Waiter, instance: Instance, figures: Sequence[Figure] = ()) -> None:
        """``figures``: those by which ``instance`` was chosen, if there are any."""
        waiter.openings = self._openings
        only = self._only(waiter)
        waiter.placement = self._give(waiter, instance)
        self.shares.served(waiter.turn)
        waiter.placement.decision = decision.decide(instance, figures, self._planner, only=only)
        self._load_balancer.took(instance)
        waiter.woken.set()

    def _only(self, waiter: Waiter) -> str | None:
        """If there was nothing to choose: why."""
        if len(waiter.usable(self._load_balancer.instances)) > 1:
            return None
        passed = waiter.passed_over or waiter.avoid
        return decision.ONLY_LEFT if passed else decision.ONLY

    async def _wait(self, waiter: Waiter, since: float) -> None:
        """Until it has to look again; patience only runs out with nobody."""
        waiter.woken.clear()
        if waiter.may_hope(self._load_balancer.instances):
            self._patient += 1
            relook_s = RELOOK_S if self._free() else None
            try:
                woken = await wait_for_event(self._clock, waiter.woken, relook_s)
            finally:
                self._patient -= 1
            if not woken and self._clock.monotonic() - self._assigned_at >= RELOOK_S:
                self._assign()  # by the first whose time is up, for all
            self.usable_now()
            return
        begun = max(since, self._last_usable_at)
        left_s = begun + self._pending_timeout_s - self._clock.monotonic()
        with self._health_checker.demand():
            if left_s <= 0 or not await wait_for_event(self._clock, waiter.woken, left_s):
                raise NoHealthyInstanceError(
                    f"No ComfyUI instance could take the job for {self._pending_timeout_s:g} s.",
                    retry_after_s=30,
                )
