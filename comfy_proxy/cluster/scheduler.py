"""Places at instances, given to prompts in turn; what is sent to one is ``dispatch/``'s.

A place is taken where the prompt will be finished first (``planning/``), or at the least loaded
instance while nothing is known of costs; always at a healthy one that is not full and passes a
check of its own right before (300 ms). One that fails the check is passed over for this submission
alone. Who waits for a place stands at the door (``door.py``). When an instance runs low while
prompts wait elsewhere, one of them is offered its place (PROTOCOL.md trap 24).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from loguru import logger

from comfy_proxy.clock import Clock
from comfy_proxy.cluster import moves
from comfy_proxy.cluster.door import Door
from comfy_proxy.cluster.health_checker import HealthChecker
from comfy_proxy.cluster.instance import Instance, takes_work
from comfy_proxy.cluster.late_runs import LateRuns
from comfy_proxy.cluster.load_balancer import LoadBalancer
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.cluster.planning import decision
from comfy_proxy.cluster.planning.planner import NEW, Planner
from comfy_proxy.cluster.planning.slot import Standing
from comfy_proxy.cluster.planning.work import Work
from comfy_proxy.cluster.soon import Pace, Soon
from comfy_proxy.cluster.waiter import Accepts, Waiter, WorkAt, anywhere, unknown_work
from comfy_proxy.observers import tell_all
from comfy_proxy.tracing import untraced


class Scheduler:
    """Hands out places. ``on_change`` callbacks hear that one was taken or given back,
    ``on_job_left`` ones that one was given back which was not of a client's own prompt.

    ``rebalancing`` is asked for whenever a load has changed, and when what waits behind something
    late had better go elsewhere. :meth:`close` ends it.
    """

    def __init__(
        self,
        load_balancer: LoadBalancer,
        health_checker: HealthChecker,
        planner: Planner,
        *,
        clock: Clock,
        pending_timeout_s: float,
    ) -> None:
        self._load_balancer = load_balancer
        self._health_checker = health_checker
        self._planner = planner
        self._moves: set[asyncio.Task[None]] = set()
        self.on_change: list[Callable[[], None]] = []
        self.on_job_left: list[Callable[[], None]] = []
        self.rebalancing = Soon(self.rebalance, Pace(clock))
        self._late_runs = LateRuns(
            planner,
            clock,
            instances=lambda: load_balancer.instances,
            movable=moves.movable,
            again=self.rebalancing.ask,
        )
        # What was foreseen may turn out wrong while nothing else happens.
        health_checker.on_success.append(lambda instance: self.rebalancing.ask())
        self.door = Door(
            load_balancer,
            health_checker,
            planner,
            clock=clock,
            pending_timeout_s=pending_timeout_s,
            give=self._give,
        )

    def __repr__(self) -> str:
        return f"<Scheduler waiting={len(self.door)} {self._load_balancer!r}>"

    async def place(
        self,
        *,
        since: float,
        rank: float | None = None,
        accepts: Accepts = anywhere,
        avoid: Collection[Instance] = (),
        work_at: WorkAt = unknown_work,
    ) -> Placement:
        """A place at an instance that answered just now; waits until there is one.

        ``accepts`` says which instances can run the prompt, ``avoid`` those to be used only if
        there is no other healthy one, ``work_at`` what it runs there. ``rank`` (monotonic seconds)
        is when it came, None for ``since``: who came first is served first. Raises
        NoHealthyInstanceError when no instance could be used for ``pending_timeout_s``, counted
        from ``since`` (monotonic) or the last usable moment.
        """
        waiter = Waiter(
            rank=since if rank is None else rank, accepts=accepts, avoid=avoid, work_at=work_at
        )
        return await self.place_of(waiter, since)

    async def place_of(self, waiter: Waiter, since: float) -> Placement:
        """As :meth:`place`, for one who wants to know meanwhile what becomes of ``waiter``."""
        waiter.passed_over.clear()
        with self.door.standing(waiter):
            while True:
                placement = waiter.tried = await self.door.wait(waiter, since)
                try:
                    if await self.confirm(placement):
                        return placement
                finally:
                    waiter.tried = None
                waiter.passed_over.add(placement.instance)
                waiter.openings += 1  # its own place was given back: nothing else has changed
                busy = self._busy(waiter)
                if busy is not None:
                    placement = self._give(waiter, busy)
                    placement.decision = decision.Decision(host=busy.host, reason=decision.BUSY)
                    return placement

    def enter(
        self, instance: Instance, work: Work | None = None, standing: Standing = NEW
    ) -> Placement:
        """A place at once, also beyond the capacity: for a client's own prompt, which does not wait
        here. ``gateway/prompts/rebalancer.py`` moves such prompts; they are offered no place."""
        return self._placement(
            instance, lambda other: False, work=work, standing=standing, of_client=True
        )

    async def confirm(self, placement: Placement) -> bool:
        """The check right before a submission; a place that fails it is given back."""
        try:
            alive = await self._health_checker.check(placement.instance)
        except BaseException:
            placement.release()
            raise
        if alive:
            self.door.usable_now()
        else:
            placement.release()
        return alive

    def rebalance(self) -> None:
        """Offer the place of an instance that runs low to a prompt that waits at another one.

        From the most loaded to the least loaded of the instances, the prompt that came last, of
        those that are finished earlier there. What waits at an instance that is to run empty goes
        first, before those at the door. If there is none, the moment is foreseen when there will be
        because something runs for longer than it should.
        """
        for prompt, busy, heir in moves.leaving(self._load_balancer):
            self._offer(prompt, busy, heir)
        if len(self.door) or not any(one.placements for one in self._load_balancer.instances):
            self._late_runs.close()  # those at the door come first; or no job waits anywhere
            return
        found = moves.gaining(self._load_balancer, self._planner)
        if found is not None:
            self._offer(*found)
        self._late_runs.foresee()

    async def close(self) -> None:
        """Nothing is evened out any more; places are given as before."""
        await self.rebalancing.close()
        self._late_runs.close()

    def _offer(self, prompt: Placement, busy: Instance, idle: Instance) -> None:
        why = decision.moved(prompt.key, busy, idle, self._planner)
        logger.opt(lazy=True).debug(
            "offering a prompt of {} to {}: {}", lambda: busy.host, lambda: idle.host, lambda: why
        )
        slot = self._planner.lines[busy].find(prompt.key)
        target = self._placement(
            idle,
            prompt.accepts,
            work=None if slot is None else slot.work,
            standing=NEW if slot is None else Standing(overtaken_s=slot.overtaken_s),
        )
        target.decision, target.turn = why, prompt.turn
        prompt.offer(target)
        self._move(prompt)

    def _move(self, prompt: Placement) -> None:
        """Have the prompt take the offered place, or decline it, in the background."""
        if prompt.move is None:
            return
        task = asyncio.create_task(prompt.move(), name="move a job's prompt", context=untraced())
        self._moves.add(task)
        task.add_done_callback(self._moved)

    def _moved(self, task: asyncio.Task[None]) -> None:
        self._moves.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.opt(exception=error).error("moving a job's prompt broke")

    def _give(self, waiter: Waiter, instance: Instance) -> Placement:
        work = waiter.work_at(instance)
        standing = Standing(overtaken_s=waiter.overtaken_s)
        placement = self._placement(instance, waiter.may_move_to, work=work, standing=standing)
        placement.turn = waiter.turn
        return placement

    def _placement(
        self,
        instance: Instance,
        accepts: Accepts,
        *,
        work: Work | None = None,
        standing: Standing = NEW,
        of_client: bool = False,
    ) -> Placement:
        placement = Placement(
            instance,
            accepts=accepts,
            on_release=self._released,
            on_sent=self._sent,
            of_client=of_client,
        )
        if work is not None:
            slot = self._planner.slot(placement, work, instance, standing)
            self._planner.join(slot, instance)
        tell_all(self.on_change, "the scheduler")
        return placement

    def _sent(self, placement: Placement) -> None:
        """It waits in the queue of its instance now, or runs; if more is there than was foreseen,
        another one may be quicker."""
        self._planner.lines[placement.instance].renamed(placement, placement.key)
        self.rebalancing.ask()

    def _released(self, placement: Placement) -> None:
        self._planner.lines[placement.instance].leave(placement)
        tell_all(self.on_change, "the scheduler")
        if not placement.of_client:
            tell_all(self.on_job_left, "a job's place that was given back")
        tell_all((self.door.open, self.rebalancing.ask), "a place that was given back")

    def _busy(self, waiter: Waiter) -> Instance | None:
        """If all failed the check, one that sent frames just now: it is busy, not dead.

        See PROTOCOL.md trap 8.
        """
        instances = self._load_balancer.instances
        candidates = [one for one in instances if takes_work(one) and waiter.accepts(one)]
        if any(instance not in waiter.passed_over for instance in candidates):
            return None
        for instance in candidates:
            if instance.signs.alive_just_now and not instance.full:
                return instance
        return None
