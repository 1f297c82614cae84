"""Is it there? ``GET /system_stats`` of each instance (story 1.2): by itself and when asked.

Each instance is checked at the start and then once an interval, with jitter so that checks of many
proxies do not fall together. While somebody waits for an instance (:meth:`HealthChecker.demand`)
those that failed are tried about every second, the first time at once if their last check was
longer ago: a pending job starts as soon as one returns. What sockets learn in the background, and
that an instance which was given up has spoken, is settled by checks too
(:meth:`HealthChecker.look`): one outage is as many strikes as checks failed, not as sockets were
open.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from loguru import logger

from comfy_proxy.clock import Clock, sleep, wait_for_event
from comfy_proxy.cluster.comfyui_client import ComfyUIClient
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import InstanceError
from comfy_proxy.tracing import untraced

DEMAND_INTERVAL_S = 1.0
MAX_LOOKS = 10
QUEUE_TIMEOUT_S = 5.0
JITTER = 0.1


class HealthChecker:
    """Owns one task for each instance; ``on_success`` callbacks hear every check that passed."""

    def __init__(
        self,
        clients: Mapping[Instance, ComfyUIClient],
        *,
        interval_s: float,
        timeout_s: float,
        clock: Clock,
    ) -> None:
        self._clients = clients
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._checks: dict[Instance, asyncio.Task[bool]] = {}
        self._looks: dict[Instance, asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._watching = False
        self._demanded = asyncio.Event()
        self._demands = 0
        self.on_success: list[Callable[[Instance], None]] = []

    async def start(self) -> None:
        """Begin to watch; the first checks are under way, not awaited."""
        self._watching = True
        self._tasks = [
            asyncio.create_task(self._watch(instance), name=f"health of {instance.host}")
            for instance in self._clients
        ]

    async def close(self) -> None:
        self._watching = False
        tasks = [*self._tasks, *self._looks.values(), *self._checks.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def check(self, instance: Instance) -> bool:
        """True if it answers within the timeout; concurrent callers share one probe.

        The verdict goes to the instance's breaker. An OPEN circuit past its cooldown is tried
        (half-open), one before it fails fast without asking.
        """
        task = self._checks.get(instance)
        if task is None:
            task = asyncio.create_task(self._probe(instance), context=untraced())
            self._checks[instance] = task
            task.add_done_callback(lambda done: self._checks.pop(instance, None))
        return await asyncio.shield(task)

    def look(self, instance: Instance) -> None:
        """For ``instance.on_doubt``: check it now and every second until the matter is settled.

        In the background, and only while the checker is watching.
        """
        if self._watching:
            if (before := self._looks.get(instance)) is not None:
                before.cancel()
            task = asyncio.create_task(
                self._look(instance), name=f"look at {instance.host}", context=untraced()
            )
            self._looks[instance] = task

    @contextmanager
    def demand(self) -> Iterator[None]:
        """While entered, failed instances are tried more often: somebody waits for one."""
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
        started = self._clock.monotonic()
        try:
            await self._clients[instance].check(self._timeout_s)
        except InstanceError as error:
            instance.check_failed(error.message)
            logger.debug("check of {} failed: {}", instance.host, error.message)
            return False
        except BaseException:
            instance.breaker.abandon_trial()
            raise
        instance.check_passed(self._clock.monotonic() - started)
        for callback in self.on_success:
            callback(instance)
        return True

    async def _look(self, instance: Instance) -> None:
        """Until it answers or its circuit opens. One that is open may fail fast the first time."""
        returning = not instance.healthy
        for _ in range(MAX_LOOKS):
            if await self.check(instance) or not (instance.healthy or returning):
                return
            await sleep(self._clock, DEMAND_INTERVAL_S)

    async def _watch(self, instance: Instance) -> None:
        while True:
            try:
                if await self.check(instance):
                    await self._read_queue(instance)
            except Exception as error:  # the next check is due whatever this was
                logger.opt(exception=error).error("the check of {} broke", instance.host)
            await self._pause(instance)

    async def _read_queue(self, instance: Instance) -> None:
        """Learn what others put there, for the time before a socket tells it by itself."""
        try:
            # Not COMFYUI_TIMEOUT: that would hold up the next check.
            async with self._clock.timeout(QUEUE_TIMEOUT_S):
                queue = await self._clients[instance].queue()
        except (InstanceError, TimeoutError) as error:
            logger.debug("the queue of {} cannot be read: {!r}", instance.host, error)
        else:
            instance.queue_observed(len(queue.running) + len(queue.pending))

    async def _pause(self, instance: Instance) -> None:
        """Until the next check is due: an interval, or a second if it failed and is wanted."""
        checked_at = self._clock.monotonic()
        end = checked_at + self._interval_s * random.uniform(1 - JITTER, 1 + JITTER)
        while (left_s := end - self._clock.monotonic()) > 0:
            if not await wait_for_event(self._clock, self._demanded, left_s):
                return
            # Never sooner than a second: the circuit of one that has just failed would refuse.
            pause_s = DEMAND_INTERVAL_S * random.uniform(1, 1 + JITTER)
            if instance.failing:
                pause_s -= self._clock.monotonic() - checked_at
            await sleep(self._clock, max(0, min(pause_s, left_s)))
            if instance.failing:
                return
