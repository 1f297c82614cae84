"""Does each instance answer? A check is ``GET /system_stats``, made at intervals and on demand.

Each instance is checked at the start and then once every HEALTH_CHECK_INTERVAL, with jitter so that
the checks of many proxies do not fall together. While somebody waits for an instance
(:meth:`HealthChecker.demand`) those that failed are checked about once a second, the first time at
once if their last check was longer ago: a pending job starts as soon as one returns. An instance
that fails a check is checked again each second for a while, whether or not anybody waits: prompts
that another one takes wait for nobody, and it would be of no use until the next interval.

A socket that fails in the background, and an instance that speaks although its circuit is open, are
a reason for checks too (:meth:`HealthChecker.look`). The verdict is left to the checks: otherwise
one outage would be as many strikes as sockets were open.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from loguru import logger

from comfy_proxy.clock import Clock, sleep, wait_for_event
from comfy_proxy.cluster.comfyui_client import ComfyUIClient
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.instance_tasks import InstanceTasks
from comfy_proxy.cluster.lateness import Lateness
from comfy_proxy.cluster.prompt_lists import QueueView
from comfy_proxy.cluster.roster import ByInstance, Roster
from comfy_proxy.cluster.self_check import ItselfError
from comfy_proxy.errors import InstanceError, InstanceTimeoutError
from comfy_proxy.observers import tell
from comfy_proxy.tracing import untraced

DEMAND_INTERVAL_S = 1.0
"""Seconds from one check of a failed instance to the next while somebody waits for one."""
MAX_LOOKS = 10
"""Further checks of an instance that begins to fail, a second apart; then the regular checks go on
alone, and whoever waits for it (DEMAND_INTERVAL_S)."""
QUEUE_TIMEOUT_S = 5.0
"""Seconds in which ``/queue`` must answer after a check. Beyond, the load stays as it was known
until the next check: COMFYUI_TIMEOUT (60 s by default) would hold that one up."""
ASKED_INTERVAL_S = 0.3
"""Seconds between two checks of an instance whose circuit is open, while clients ask for what it
alone has. It is less than the cooldown: who was told that a prompt has ended may fetch its result
at once, and an instance that has returned is not to be called away for a second more."""
MAX_LATE = 3
"""Checks that are made in a row while each runs out of its time because our own event loop stood
still for more than half of it. Beyond, the instance counts as one that does not answer just now,
without a strike: the time of a check is the instance's, not ours."""
JITTER = 0.1
"""Each interval is longer or shorter by up to this fraction of it, at random."""


class HealthChecker:
    """Owns one task for each instance; ``on_success`` callbacks hear every check that passed. One
    that raises changes neither the verdict nor what the others hear. ``on_queue`` callbacks hear
    what waits and runs there, once for each check that was made at the interval.

    ``interval_s`` is HEALTH_CHECK_INTERVAL and ``timeout_s`` HEALTH_CHECK_TIMEOUT, in seconds.
    """

    def __init__(
        self,
        instances: Iterable[Instance],
        clients: Mapping[Instance, ComfyUIClient],
        *,
        interval_s: float,
        timeout_s: float,
        clock: Clock,
    ) -> None:
        self._instances = Roster.of(instances)
        self._clients = clients
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._checks: dict[Instance, asyncio.Task[bool]] = {}
        self._checked = ByInstance[float]()  # when each failed its last check
        # A check of one that leaves ends by itself: others may await it.
        self._looks = InstanceTasks(self._instances, self._look, "look at")
        self._further = InstanceTasks(self._instances, self._check_on, "check further")
        self._watches = InstanceTasks(self._instances, self._watch, "health of")
        self._watching = False
        self._demanded = asyncio.Event()
        self._demands = 0
        self.on_success: list[Callable[[Instance], None]] = []
        self.on_queue: list[Callable[[Instance, QueueView], None]] = []

    async def start(self) -> None:
        """Begin to watch, also those that join later; the first checks are under way, not
        awaited."""
        self._watching = True
        self._instances.each(self._watches.begin)

    async def close(self) -> None:
        """Cancel every check; whoever awaits one is cancelled with it."""
        self._watching = False
        checks = tuple(self._checks.values())
        for check in checks:
            check.cancel()
        closing = self._watches.close(), self._looks.close(), self._further.close()
        await asyncio.gather(*closing, *checks, return_exceptions=True)

    async def check(self, instance: Instance) -> bool:
        """True if ``instance`` answers within the timeout; concurrent callers share one check.

        The verdict goes to the instance's breaker. While its circuit is OPEN and cools down the
        answer is False and nothing is sent; after the cooldown the check is the trial (HALF_OPEN).
        No failure of the instance is raised. One that has left does not answer.
        """
        if instance.left:
            return False
        task = self._checks.get(instance)
        if task is None:
            # Many may wait for it: it must not carry the request id of whoever came first.
            task = asyncio.create_task(self._probe(instance), context=untraced())
            self._checks[instance] = task
            task.add_done_callback(lambda done: self._checks.pop(instance, None))
        # Shielded: a caller that is cancelled does not end the check of the others.
        return await asyncio.shield(task)

    async def answers(self, instance: Instance) -> bool:
        """True if ``instance`` is healthy, or is found so by a check that is made now.

        For a request that this instance alone can answer. Its circuit may cool down: there is a
        check all the same if it has spoken since the last one, or that was ASKED_INTERVAL_S ago.
        """
        if instance.healthy:
            return True
        checked_at = self._checked.get(instance, -math.inf)
        spoke = instance.signs.heard_at > checked_at
        if spoke or self._clock.monotonic() - checked_at >= ASKED_INTERVAL_S:
            instance.breaker.sign_of_life()
        return await self.check(instance)

    def look(self, instance: Instance) -> None:
        """For ``instance.on_doubt``: check it now, and each second until a check passes, MAX_LOOKS
        times at most. Runs in the background, and only between :meth:`start` and :meth:`close`. A
        new doubt begins anew.
        """
        if self._watching:
            self._further.cancel(instance)
            self._looks.cancel(instance)
            self._looks.begin(instance)

    @contextmanager
    def demand(self) -> Iterator[None]:
        """While entered, failed instances are checked every DEMAND_INTERVAL_S: somebody waits."""
        self._demands += 1
        self._demanded.set()
        try:
            yield
        finally:
            self._demands -= 1
            if not self._demands:
                self._demanded.clear()

    async def _probe(self, instance: Instance) -> bool:
        if not instance.breaker.begin_trial():
            return False
        try:
            duration_s = await self._in_time(instance)
        except InstanceError as error:
            self._checked[instance] = self._clock.monotonic()
            if self._watching and instance.check_ok is not False:
                self._further.begin(instance)
            instance.check_failed(error.message, final=isinstance(error, ItselfError))
            logger.debug("check of {} failed: {}", instance.host, error.message)
            return False
        except BaseException:  # cancelled: else the circuit would stay HALF_OPEN for good
            instance.breaker.abandon_trial()
            raise
        if instance.left:
            return False
        if duration_s is None:
            instance.breaker.abandon_trial()
            logger.warning("no check of {} counts: our own event loop is late", instance.host)
            return False
        instance.check_passed(duration_s)
        tell(self.on_success, instance)
        return True

    async def _in_time(self, instance: Instance) -> float | None:
        """How long it took to answer, in seconds; None if ours was the loop that was late, again
        and again. Raises InstanceError."""
        for _ in range(MAX_LATE):
            started = self._clock.monotonic()
            with Lateness(self._clock, self._timeout_s) as lateness:
                try:
                    await self._clients[instance].check(self._timeout_s)
                except InstanceTimeoutError:
                    if lateness.seconds() <= self._timeout_s / 2:
                        raise
                    continue
            return self._clock.monotonic() - started
        return None

    async def _look(self, instance: Instance) -> None:
        # The circuit may refuse this check (its cooldown), and not those that follow.
        if not await self.check(instance):
            self._further.begin(instance)

    async def _check_on(self, instance: Instance) -> None:
        for _ in range(MAX_LOOKS):
            await sleep(self._clock, DEMAND_INTERVAL_S)
            if await self.check(instance):
                return

    async def _watch(self, instance: Instance) -> None:
        while True:
            try:
                if await self.check(instance):
                    await self._read_queue(instance)
            except Exception as error:  # the next check is due whatever this was
                logger.opt(exception=error).error("the check of {} broke", instance.host)
            await self._pause(instance)

    async def _read_queue(self, instance: Instance) -> None:
        """Learn how many prompts others put there: no socket is open yet that would tell it."""
        try:
            async with self._clock.timeout(QUEUE_TIMEOUT_S):
                queue = await self._clients[instance].queue()
        except (InstanceError, TimeoutError) as error:
            logger.debug("the queue of {} cannot be read: {!r}", instance.host, error)
        else:
            instance.prompts.observed(len(queue.running) + len(queue.pending))
            for callback in self.on_queue:
                callback(instance, queue)

    async def _pause(self, instance: Instance) -> None:
        """Sleep until the next check is due: the interval, or a second if the instance fails and
        somebody waits for one. One that begins to fail meanwhile is noticed within that second."""
        checked_at = self._clock.monotonic()
        end = checked_at + self._interval_s * random.uniform(1 - JITTER, 1 + JITTER)
        while (left_s := end - self._clock.monotonic()) > 0:
            if not await wait_for_event(self._clock, self._demanded, left_s):
                return
            # No check within a second of the last one: the cooldown of the circuit would refuse it.
            pause_s = DEMAND_INTERVAL_S * random.uniform(1, 1 + JITTER)
            if instance.failing:
                pause_s -= self._clock.monotonic() - checked_at
            await sleep(self._clock, max(0, min(pause_s, left_s)))
            if instance.failing:
                return
