"""What is on its way: tried again in time, bounded, ended in order. On a manual clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from job_client import until
from loguru import logger
from manual_clock import ManualClock, settle
from webhook_receiver import SECRET, Receiver
from yarl import URL

from comfy_proxy.clock import sleep
from comfy_proxy.metrics.records import WebhookOutcome
from comfy_proxy.webhook_settings import parse_secrets
from comfy_proxy.webhooks.deliveries import (
    AT_ONCE,
    BEGUN_AT_ONCE,
    FIRST_WAIT_S,
    GIVE_UP_AFTER,
    JITTER_S,
    LONGEST_RETRY_AFTER_S,
    LONGEST_WAIT_S,
    MAX_PENDING,
    Deliveries,
)
from comfy_proxy.webhooks.delivery import Delivery
from comfy_proxy.webhooks.receivers import Receivers, RefusedError, TryAgainError


class Post:
    """Fails as the test says; ``tried`` are the job ids in the order of their tries, ``times`` the
    moments."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.error: Exception | None = None
        self.hangs: set[str] = set()  # hosts
        self.tried: list[str] = []
        self.times: list[float] = []

    async def __call__(self, delivery: Delivery) -> None:
        self.tried.append(delivery.job_id)
        self.times.append(self._clock.monotonic())
        if delivery.host in self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error


@pytest.fixture
def post(clock: ManualClock) -> Post:
    return Post(clock)


@pytest.fixture
async def deliveries(post: Post, clock: ManualClock) -> AsyncIterator[Deliveries]:
    made = Deliveries(post, clock=clock)
    yield made
    await made.close(0)


@pytest.fixture
def ends(deliveries: Deliveries) -> dict[str, str]:
    """By job, how its webhook ended."""
    told: dict[str, str] = {}
    deliveries.on_over.append(lambda over: told.update({over[0].job_id: str(over[1])}))
    return told


def delivery(clock: ManualClock, job_id: str = "a", host: str = "a.example") -> Delivery:
    url = URL(f"https://{host}/secret-path?key=hidden")
    return Delivery(job_id=job_id, url=url, body=b"{}", ended_at=clock.now())


async def test_a_receiver_that_is_down_for_half_a_minute(
    receiver: Receiver, clock: ManualClock
) -> None:
    """It gets the message once, when it is back, with a signature of that moment."""
    await receiver.stop()
    receivers = Receivers(parse_secrets(SECRET), clock=clock)
    await receivers.start()
    deliveries = Deliveries(receivers.post, clock=clock)
    retries: list[float] = []
    deliveries.on_retry.append(lambda: retries.append(clock.monotonic()))
    began = clock.monotonic()
    url = URL(receiver.url)
    deliveries.add(Delivery(job_id="a", url=url, body=b"{}", ended_at=clock.now()))
    failed = 0
    while clock.monotonic() < began + 30:
        failed += 1
        await until(lambda least=failed: len(retries) >= least)
        await clock.advance(FIRST_WAIT_S * 2 ** (failed - 1) + JITTER_S)
    await receiver.start()
    await clock.advance(LONGEST_WAIT_S)
    await until(lambda: not len(deliveries))
    (told,) = receiver.received
    assert float(told.headers["webhook-timestamp"]) - began > 30
    await deliveries.close(0)
    await receivers.close()


async def test_it_is_taken(
    deliveries: Deliveries, post: Post, ends: dict[str, str], clock: ManualClock
) -> None:
    """One try, and nothing is left of it."""
    deliveries.add(delivery(clock))
    await settle()
    assert (post.tried, ends) == (["a"], {"a": "delivered"})
    assert (len(deliveries), clock.waiting) == (0, 0)


async def test_nothing_is_sent_before_it_is_kept(
    deliveries: Deliveries, post: Post, clock: ManualClock
) -> None:
    """Else a job's end could be told, and be undone by a kill."""
    kept = asyncio.Event()

    async def durable() -> None:
        await kept.wait()

    deliveries.durable = durable
    deliveries.add(delivery(clock))
    await settle()
    assert post.tried == []
    kept.set()
    await settle()
    assert post.tried == ["a"]


async def test_times_between_tries(
    deliveries: Deliveries, post: Post, ends: dict[str, str], clock: ManualClock
) -> None:
    """Twice as long each time, up to half an hour, and given up when six hours are over."""
    post.error = TryAgainError("answered 503")
    deliveries.add(delivery(clock))
    await clock.advance(GIVE_UP_AFTER.total_seconds())
    waits = [after - before for before, after in zip(post.times, post.times[1:], strict=False)]
    for number, waited in enumerate(waits):
        least = min(FIRST_WAIT_S * 2**number, LONGEST_WAIT_S)
        assert least <= waited <= least + JITTER_S, number
    assert ends == {"a": "expired"}
    assert 18 <= len(post.tried) <= 21
    assert clock.waiting == 0


async def test_one_try_is_made_however_late(
    deliveries: Deliveries, post: Post, ends: dict[str, str], clock: ManualClock
) -> None:
    """The proxy may have been away for days."""
    old = delivery(clock)
    await clock.advance(timedelta(days=2).total_seconds())
    deliveries.add(old)
    await settle()
    assert (post.tried, ends) == (["a"], {"a": "delivered"})


async def test_after_a_final_answer_there_is_no_further_try(
    deliveries: Deliveries, post: Post, ends: dict[str, str], clock: ManualClock
) -> None:
    post.error = RefusedError("answered 404")
    deliveries.add(delivery(clock))
    await settle()
    assert (post.tried, ends, clock.waiting) == (["a"], {"a": "refused"}, 0)


@pytest.mark.logs_faults
async def test_a_fault_of_ours_is_the_end(
    deliveries: Deliveries, post: Post, ends: dict[str, str], clock: ManualClock
) -> None:
    """It is logged, and is not tried again for hours."""
    post.error = RuntimeError("broken")
    deliveries.add(delivery(clock))
    await settle()
    assert ends == {"a": "dropped"}


@pytest.mark.parametrize(
    ("wish_s", "least_s", "most_s"),
    [
        (120, 120, 120),
        (1, FIRST_WAIT_S, FIRST_WAIT_S + JITTER_S),
        (10**9, LONGEST_RETRY_AFTER_S, LONGEST_RETRY_AFTER_S),
    ],
)
async def test_the_receivers_wish(
    deliveries: Deliveries,
    post: Post,
    clock: ManualClock,
    wish_s: int,
    least_s: float,
    most_s: float,
) -> None:
    """``Retry-After`` is heeded where it is longer than our own time, up to an hour."""
    post.error = TryAgainError("answered 429", retry_after_s=wish_s)
    deliveries.add(delivery(clock))
    await settle()
    await clock.advance(least_s - 0.1)
    assert len(post.tried) == 1
    await clock.advance(most_s - least_s + 0.1)
    assert len(post.tried) == 2


async def test_one_host_is_tried_a_few_times_at_once(
    deliveries: Deliveries, post: Post, ends: dict[str, str], clock: ManualClock
) -> None:
    """A receiver that hangs has four tries at a time; others' messages do not wait for it."""
    post.hangs = {"slow.example"}
    for number in range(3 * AT_ONCE):
        deliveries.add(delivery(clock, f"slow {number}", "slow.example"))
    deliveries.add(delivery(clock, "quick"))
    await settle()
    assert post.tried == [*(f"slow {number}" for number in range(AT_ONCE)), "quick"]
    assert ends == {"quick": "delivered"}


class Slow(Post):
    """Takes ``TAKES_S`` for each, and is down until ``down_until``; ``at_once`` is the most tries
    that it had at a time."""

    TAKES_S = 0.2

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.down_until = 0.0
        self.now = self.at_once = 0

    async def __call__(self, delivery: Delivery) -> None:
        await super().__call__(delivery)
        self.now += 1
        self.at_once = max(self.at_once, self.now)
        try:
            await sleep(self._clock, self.TAKES_S)
            if self._clock.monotonic() < self.down_until:
                raise TryAgainError("answered 503")
        finally:
            self.now -= 1


@pytest.mark.long
@pytest.mark.parametrize("down_s", [0.0, 30.0])
async def test_a_thousand_at_once(clock: ManualClock, down_s: float) -> None:
    """To a receiver that takes 200 ms for each: all come, as fast as four at a time can, once it is
    there."""
    post = Slow(clock)
    post.down_until = clock.monotonic() + down_s
    deliveries, ends = Deliveries(post, clock=clock), dict[str, str]()
    deliveries.on_over.append(lambda over: ends.update({over[0].job_id: str(over[1])}))
    for number in range(MAX_PENDING):
        deliveries.add(delivery(clock, str(number)))
    began = clock.monotonic()
    while len(deliveries):
        await clock.advance(1.0)
    assert ends == dict.fromkeys(map(str, range(MAX_PENDING)), "delivered")
    assert post.at_once == AT_ONCE
    needed_s = MAX_PENDING / AT_ONCE * Slow.TAKES_S
    assert clock.monotonic() - began < needed_s + 2 * down_s + FIRST_WAIT_S
    assert clock.waiting == 0
    await deliveries.close(0)


async def test_a_thousand_begin_a_few_at_a_time(clock: ManualClock) -> None:
    """One write of the disk has all of their ends, so all of them may begin in that moment."""
    post, written = Post(clock), asyncio.Event()
    deliveries, most, seen = Deliveries(post, clock=clock), 0, 0

    async def durable() -> None:
        await written.wait()

    deliveries.durable = durable
    for number in range(MAX_PENDING):
        deliveries.add(delivery(clock, str(number), f"host-{number}.example"))
    await settle()
    written.set()
    while len(deliveries):
        await asyncio.sleep(0)
        most, seen = max(most, len(post.tried) - seen), len(post.tried)
    assert len(post.tried) == MAX_PENDING
    assert most <= 2 * BEGUN_AT_ONCE
    await deliveries.close(0)


@pytest.mark.long
@pytest.mark.parametrize("keeps", [True, False])
async def test_a_thousand_at_the_stop(clock: ManualClock, keeps: bool) -> None:
    """It ends in time; with a STATE_FILE none is over that was not taken."""
    post = Slow(clock)
    deliveries, ends = Deliveries(post, clock=clock), dict[str, str]()
    deliveries.keeps = keeps
    deliveries.on_over.append(lambda over: ends.update({over[0].job_id: str(over[1])}))
    for number in range(MAX_PENDING):
        deliveries.add(delivery(clock, str(number)))
    await clock.advance(1.0)
    closing = asyncio.create_task(deliveries.close(8.0))
    await settle()
    await clock.advance(8.0)
    assert closing.done()
    taken = [job_id for job_id, how in ends.items() if how == "delivered"]
    assert set(taken) <= set(post.tried)
    assert len(ends) == (len(taken) if keeps else MAX_PENDING)
    assert post.at_once == AT_ONCE
    assert clock.waiting == 0


async def test_the_oldest_makes_room(
    deliveries: Deliveries, post: Post, ends: dict[str, str], clock: ManualClock
) -> None:
    """A receiver that is down fills what there is; a new message for another one is delivered."""
    post.hangs = {"down.example"}
    for number in range(MAX_PENDING):
        deliveries.add(delivery(clock, str(number), "down.example"))
    await settle()
    deliveries.add(delivery(clock, "new"))
    await until(lambda: "new" in ends)
    assert ends == {"0": "dropped", "new": "delivered"}
    assert len(deliveries) == MAX_PENDING - 1


async def test_a_last_try_at_the_stop(
    deliveries: Deliveries, post: Post, ends: dict[str, str], clock: ManualClock
) -> None:
    """What waits for its next try is not lost without one more, which may succeed."""
    post.error = TryAgainError("answered 503")
    deliveries.add(delivery(clock, "a"))
    await settle()
    post.error = None
    await deliveries.close(10)
    assert (post.tried, ends) == (["a", "a"], {"a": "delivered"})


@pytest.mark.parametrize("hangs", [True, False])
async def test_what_is_lost_at_the_stop(
    deliveries: Deliveries, post: Post, ends: dict[str, str], clock: ManualClock, hangs: bool
) -> None:
    """Within the grace period, and the log says so by job and host."""
    said: list[str] = []
    logger.add(lambda line: said.append(line.record["message"]), level="ERROR")
    post.error = TryAgainError("answered 503")
    post.hangs = {"a.example"} if hangs else set()
    deliveries.add(delivery(clock, "a"))
    await settle()
    closing = asyncio.create_task(deliveries.close(10))
    await settle()
    assert closing.done() is not hangs
    await clock.advance(10)
    await closing
    assert ends == {"a": "dropped"}
    assert said == ["the webhook of job a to a.example is given up: the proxy was stopped"]


async def test_what_is_kept_at_the_stop(
    deliveries: Deliveries, post: Post, ends: dict[str, str], clock: ManualClock
) -> None:
    """With a STATE_FILE nothing is hurried: what is under way may end, the rest goes on later."""
    deliveries.keeps = True
    post.error = TryAgainError("answered 503")
    deliveries.add(delivery(clock, "waits"))
    await settle()
    post.hangs = {"slow.example"}
    deliveries.add(delivery(clock, "under way", "slow.example"))
    await settle()
    closing = asyncio.create_task(deliveries.close(10))
    await settle()
    assert not closing.done()
    await clock.advance(10)
    await closing
    assert (post.tried, ends) == (["waits", "under way"], {})


async def test_what_the_log_says(deliveries: Deliveries, post: Post, clock: ManualClock) -> None:
    """Job, host and reason of a further try, of the end and of success; nothing of the URL."""
    said: list[Any] = []
    logger.add(lambda line: said.append(line.record), level="DEBUG")
    post.error = TryAgainError("answered 503")
    deliveries.add(delivery(clock, "a"))
    await settle()
    post.error = None
    await clock.advance(FIRST_WAIT_S + JITTER_S)
    post.error = RefusedError("answered 410")
    deliveries.add(delivery(clock, "b"))
    await settle()
    texts = [record["message"] for record in said]
    assert [record["level"].name for record in said] == ["WARNING", "INFO", "ERROR"]
    assert [record["extra"]["job_id"] for record in said] == ["a", "a", "b"]
    assert "a.example answered 503" in texts[0]
    assert texts[1:] == [
        "the webhook of job a was taken by a.example",
        "the webhook of job b to a.example is given up: answered 410",
    ]
    assert not any(word in text for text in texts for word in ("secret", "hidden"))


def test_outcomes_are_labels() -> None:
    """They are the values of a metric's label, which must not change."""
    assert {str(one) for one in WebhookOutcome} == {"delivered", "refused", "expired", "dropped"}
