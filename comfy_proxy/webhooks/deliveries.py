"""The webhooks that are on their way: tried again until they are taken, for some hours.

Each has a task, which sleeps between its tries; the loop of tries is tenacity's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Final
from weakref import WeakValueDictionary

import tenacity
from loguru import logger

from comfy_proxy.clock import Clock, wait_for_event
from comfy_proxy.metrics.records import WebhookOutcome
from comfy_proxy.observers import tell, tell_all
from comfy_proxy.tracing import untraced
from comfy_proxy.webhooks.delivery import Delivery
from comfy_proxy.webhooks.receivers import RefusedError, TryAgainError

MAX_PENDING: Final = 1000
"""Webhooks that are on their way at once; one more drops the oldest. Those that stay longest are
those of a receiver that is down, so it loses its own, and those of others still get through."""
AT_ONCE: Final = 4
"""Tries at one host at a time; one more waits until another has ended. A receiver that comes back
is not flooded, and one that hangs holds up the webhooks of no other host."""
BEGUN_AT_ONCE: Final = 20
"""Webhooks that begin in one turn of the event loop. When a thousand jobs end at once, and one
write of the disk has all of them, they would begin in one: 50 ms for everybody else."""
FIRST_WAIT_S: Final = 5.0
"""Seconds before the second try; before each further one twice as many, up to LONGEST_WAIT_S."""
LONGEST_WAIT_S: Final = 1800.0
"""Seconds between two tries, at most, but for JITTER_S and what a receiver asks for."""
JITTER_S: Final = 5.0
"""Seconds, at most, that chance adds to each wait, so that webhooks which failed at the same moment
are not tried again at the same moment."""
LONGEST_RETRY_AFTER_S: Final = 3600.0
"""Seconds of a receiver's ``Retry-After`` that are waited for; a longer one counts as so many."""
GIVE_UP_AFTER: Final = timedelta(hours=6)
"""Time from a job's end after which no further try is made, so that a receiver that is repaired on
the same working day gets its webhooks. The first try is made in any case."""

_BACKOFF: Final = tenacity.wait_exponential(
    multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S
) + tenacity.wait_random(0, JITTER_S)


class Deliveries:
    """Delivers what is given to :meth:`add`, until :meth:`close`.

    ``post`` makes one try, and raises RefusedError or TryAgainError. Nothing is posted before
    ``durable`` has returned: otherwise a receiver could be told of an end that the STATE_FILE does
    not have yet, and after a kill the job would run again. ``on_pending`` callbacks hear what is to
    be delivered, ``on_over`` what is over and how, ``on_retry`` that one is to be tried again. With
    ``keeps`` what is left at the end is sent after a restart, without it one last try is made.
    """

    def __init__(self, post: Callable[[Delivery], Awaitable[None]], *, clock: Clock) -> None:
        self._post = post
        self._clock = clock
        self._tasks: dict[Delivery, asyncio.Task[None]] = {}  # the oldest first
        self._dropped: set[asyncio.Task[None]] = set()  # cancelled, and about to end
        self._trying: set[Delivery] = set()
        self._slots: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._beginning = asyncio.Semaphore(BEGUN_AT_ONCE)
        self._stopping = asyncio.Event()
        self.durable: Callable[[], Awaitable[None]] | None = None
        self.keeps = False
        self.on_pending: list[Callable[[Delivery], None]] = []
        self.on_over: list[Callable[[tuple[Delivery, WebhookOutcome]], None]] = []
        self.on_retry: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"<Deliveries pending={len(self)}>"

    def __len__(self) -> int:
        """How many are on their way."""
        return len(self._tasks)

    def add(self, delivery: Delivery) -> None:
        """Begin to deliver it; returns at once. Beyond MAX_PENDING the oldest one is dropped."""
        while len(self._tasks) >= MAX_PENDING:
            oldest = next(iter(self._tasks))
            task = self._tasks.pop(oldest)
            task.cancel()
            self._dropped.add(task)
            task.add_done_callback(self._dropped.discard)
            self._over(oldest, WebhookOutcome.DROPPED, f"more than {MAX_PENDING} are on their way")
        tell(self.on_pending, delivery)
        self._tasks[delivery] = asyncio.create_task(
            self._deliver(delivery), name=f"webhook of job {delivery.job_id}", context=untraced()
        )

    async def close(self, grace_s: float) -> None:
        """End all tries within ``grace_s`` seconds.

        Those under way go on for so long. What waits for its next try has a last one now, or is
        left for the next start if that will have it.
        """
        self._stopping.set()
        tasks = dict(self._tasks)
        if self.keeps:
            for delivery in tasks.keys() - self._trying:
                tasks[delivery].cancel()
        if tasks and grace_s > 0:
            with suppress(TimeoutError):
                async with self._clock.timeout(grace_s):
                    await asyncio.wait(tasks.values())
        ending = {*tasks.values(), *self._dropped}
        for task in ending:
            task.cancel()
        if ending:
            await asyncio.wait(ending)
        left = list(self._tasks)
        if left and self.keeps:
            logger.info("{} webhooks go on after the next start", len(left))
        for delivery in left:
            del self._tasks[delivery]
            if not self.keeps:
                self._over(delivery, WebhookOutcome.DROPPED, "the proxy was stopped")

    async def _deliver(self, delivery: Delivery) -> None:
        outcome, reason = WebhookOutcome.DELIVERED, ""
        try:
            if self.durable is not None:
                await self.durable()
            async with self._beginning:
                await asyncio.sleep(0)
            await self._until_taken(delivery)
        except TryAgainError as error:
            if self._stopping.is_set():
                return  # `close` tells the end of it
            outcome, reason = WebhookOutcome.EXPIRED, error.message
        except RefusedError as error:
            outcome, reason = WebhookOutcome.REFUSED, error.message
        except Exception as error:
            logger.opt(exception=error).error("a webhook of job {} failed", delivery.job_id)
            outcome, reason = WebhookOutcome.DROPPED, "an internal fault"
        if self._tasks.pop(delivery, None) is not None:
            self._over(delivery, outcome, reason)

    async def _until_taken(self, delivery: Delivery) -> None:
        def is_over(state: tenacity.RetryCallState) -> bool:
            next_try = self._clock.now() + timedelta(seconds=state.upcoming_sleep)
            return self._stopping.is_set() or next_try > delivery.ended_at + GIVE_UP_AFTER

        def tell_retry(state: tenacity.RetryCallState) -> None:
            tell_all(self.on_retry, "a further try of a webhook")
            logger.bind(job_id=delivery.job_id).warning(
                "the webhook of job {} is tried again in {:.0f} s: {} {}",
                delivery.job_id,
                state.upcoming_sleep,
                delivery.host,
                state.outcome and state.outcome.exception(),
            )

        retrying = tenacity.AsyncRetrying(
            sleep=self._sleep,
            retry=tenacity.retry_if_exception_type(TryAgainError),
            wait=wait_s,
            stop=is_over,
            before_sleep=tell_retry,
            reraise=True,
        )
        await retrying(self._try, delivery)

    async def _try(self, delivery: Delivery) -> None:
        slot = self._slots.setdefault(delivery.host, asyncio.Semaphore(AT_ONCE))
        async with slot:
            self._trying.add(delivery)
            try:
                await self._post(delivery)
            finally:
                self._trying.discard(delivery)

    async def _sleep(self, seconds: float) -> None:
        """Until the next try is due, or the last one because the proxy stops."""
        await wait_for_event(self._clock, self._stopping, seconds)

    def _over(self, delivery: Delivery, outcome: WebhookOutcome, reason: str) -> None:
        tell(self.on_over, (delivery, outcome))
        log = logger.bind(job_id=delivery.job_id)
        if outcome is WebhookOutcome.DELIVERED:
            log.info("the webhook of job {} was taken by {}", delivery.job_id, delivery.host)
        else:
            log.error(
                "the webhook of job {} to {} is given up: {}",
                delivery.job_id,
                delivery.host,
                reason,
            )


def wait_s(state: tenacity.RetryCallState) -> float:
    """Seconds until the next try: the backoff, or what the receiver asks for if that is longer."""
    error = None if state.outcome is None else state.outcome.exception()
    asked_s = error.retry_after_s if isinstance(error, TryAgainError) else None
    return max(_BACKOFF(state), min(asked_s or 0.0, LONGEST_RETRY_AFTER_S))
