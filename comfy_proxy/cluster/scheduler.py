"""Places at instances, given to prompts in turn; what is sent to one is ``dispatch/``'s.

A place is taken at the least loaded healthy instance that is not full and that passes a check of
its own right before (300 ms). One that fails the check is passed over for this submission alone;
when nobody is left the caller waits for the next successful check. When an instance runs low while
prompts wait elsewhere, one of them is offered its place (PROTOCOL.md trap 24).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from loguru import logger

from comfy_proxy.clock import Clock, wait_for_event
from comfy_proxy.cluster.health_checker import HealthChecker
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.load_balancer import LoadBalancer
from comfy_proxy.cluster.placement import Placement
from comfy_proxy.errors import NoHealthyInstanceError
from comfy_proxy.tracing import untraced

Accepts = Callable[[Instance], bool]


class Scheduler:
    """Hands out places. ``backlog`` tells how many jobs wait without standing at the door yet.

    ``on_change`` callbacks hear that a place was taken or given back.
    """

    def __init__(
        self,
        load_balancer: LoadBalancer,
        health_checker: HealthChecker,
        *,
        clock: Clock,
        pending_timeout_s: float,
    ) -> None:
        self._load_balancer = load_balancer
        self._health_checker = health_checker
        self._clock = clock
        self._pending_timeout_s = pending_timeout_s
        self._last_usable_at = clock.monotonic()
        self._changed = asyncio.Event()
        self._waiting = 0
        self._moves: set[asyncio.Task[None]] = set()
        self.backlog: Callable[[], int] = lambda: 0
        self.on_change: list[Callable[[], None]] = []
        health_checker.on_success.append(lambda instance: self._wake())

    def __repr__(self) -> str:
        return f"<Scheduler waiting={self._waiting} {self._load_balancer!r}>"

    async def place(
        self,
        *,
        since: float,
        accepts: Accepts = lambda instance: True,
        avoid: Collection[Instance] = (),
    ) -> Placement:
        """A place at an instance that answered just now; waits until there is one.

        ``accepts`` says which instances can run the prompt, ``avoid`` those to be used only if
        there is no other healthy one. Raises NoHealthyInstanceError when no instance could be used
        for ``pending_timeout_s``, counted from ``since`` (monotonic) or the last usable moment.
        """
        passed_over: set[Instance] = set()

        def may_move_to(instance: Instance) -> bool:
            return accepts(instance) and instance not in avoid

        while True:
            changed = self._changed
            instance = self._choose(accepts, avoid, passed_over)
            if instance is None:
                await self._wait(changed, since, accepts, passed_over)
                passed_over.clear()
                continue
            placement = self._placement(instance, may_move_to)
            if await self.confirm(placement):
                return placement
            passed_over.add(instance)
            busy = self._busy(accepts, passed_over)
            if busy is not None:
                return self._placement(busy, may_move_to)

    def enter(self, instance: Instance) -> Placement:
        """A place at once, also beyond the capacity: for a client's own prompt, which does not wait
        here. ``gateway/prompts/rebalancer.py`` moves such prompts; they are offered no place."""
        return self._placement(instance, lambda other: False, of_client=True)

    async def confirm(self, placement: Placement) -> bool:
        """The check right before a submission; a place that fails it is given back."""
        try:
            alive = await self._health_checker.check(placement.instance)
        except BaseException:
            placement.release()
            raise
        if alive:
            self._last_usable_at = self._clock.monotonic()
        else:
            placement.release()
        return alive

    def rebalance(self) -> None:
        """Offer the place of an instance that runs low to a prompt that waits at another one.

        From the most loaded to the least loaded of the instances, the prompt that came last.
        """
        if self._waiting or self.backlog():
            return
        by_load = sorted(self._load_balancer.instances, key=_load_after_moves)
        targets = [i for i in by_load if i.available and not i.failing]
        for busy in reversed(by_load):
            for prompt in reversed([p for p in _placements(busy) if p.movable]):
                for idle in targets:
                    difference = _load_after_moves(busy) - _load_after_moves(idle)
                    if difference >= 2 and prompt.accepts(idle):
                        logger.debug("offering a prompt of {} to {}", busy.host, idle.host)
                        prompt.offer(self._placement(idle, prompt.accepts))
                        self._move(prompt)
                        return

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

    def _placement(
        self, instance: Instance, accepts: Accepts, *, of_client: bool = False
    ) -> Placement:
        placement = Placement(
            instance, accepts=accepts, on_release=self._released, of_client=of_client
        )
        self._tell()
        return placement

    def _released(self, placement: Placement) -> None:
        self._tell()
        self._wake()
        self.rebalance()

    def _tell(self) -> None:
        for callback in self.on_change:
            callback()

    def _choose(
        self, accepts: Accepts, avoid: Collection[Instance], passed_over: set[Instance]
    ) -> Instance | None:
        usable = [
            instance
            for instance in self._load_balancer.instances
            if instance.healthy and instance not in passed_over and accepts(instance)
        ]
        preferred = [instance for instance in usable if instance not in avoid] or usable
        try:
            return self._load_balancer.get_available_instance(
                accepts=lambda candidate: candidate in preferred and not candidate.full
            )
        except NoHealthyInstanceError:
            return None

    def _busy(self, accepts: Accepts, passed_over: set[Instance]) -> Instance | None:
        """If all failed the check, one that sent frames just now: it is busy, not dead.

        See PROTOCOL.md trap 8.
        """
        candidates = [i for i in self._load_balancer.instances if i.healthy and accepts(i)]
        if any(instance not in passed_over for instance in candidates):
            return None
        for instance in candidates:
            if instance.signs.alive_just_now and not instance.full:
                return instance
        return None

    async def _wait(
        self,
        changed: asyncio.Event,
        since: float,
        accepts: Accepts,
        passed_over: set[Instance],
    ) -> None:
        """Until a place is given back or a check succeeds; patience only runs out with nobody."""
        full = any(
            instance.healthy and instance not in passed_over and accepts(instance)
            for instance in self._load_balancer.instances
        )
        self._waiting += 1
        try:
            if full:
                await changed.wait()
                self._last_usable_at = self._clock.monotonic()  # up to now, not from then on
                return
            begun = max(since, self._last_usable_at)
            left_s = begun + self._pending_timeout_s - self._clock.monotonic()
            with self._health_checker.demand():
                if left_s <= 0 or not await wait_for_event(self._clock, changed, left_s):
                    raise self._nobody()
        finally:
            self._waiting -= 1

    def _nobody(self) -> NoHealthyInstanceError:
        return NoHealthyInstanceError(
            f"No ComfyUI instance could take the job for {self._pending_timeout_s:g} s.",
            retry_after_s=30,
        )

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _placements(instance: Instance) -> list[Placement]:
    """Its placements with all that they can do: an instance knows only how to count them."""
    return [one for one in instance.placements if isinstance(one, Placement)]


def _load_after_moves(instance: Instance) -> int:
    """Prompts that are offered a place elsewhere count there already, not here too."""
    return instance.load - sum(p.move_to is not None for p in _placements(instance))
