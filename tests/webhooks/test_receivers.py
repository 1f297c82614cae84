"""One try: what answers mean, how long is waited, and what is never done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from aiohttp import web
from job_client import until
from manual_clock import ManualClock
from webhook_receiver import SECRET, Receiver, receiving
from yarl import URL

from comfy_proxy.webhook_settings import parse_secrets
from comfy_proxy.webhooks.delivery import Delivery
from comfy_proxy.webhooks.receivers import (
    TRY_TIMEOUT_S,
    Receivers,
    RefusedError,
    TryAgainError,
    read_retry_after,
)


@pytest.fixture
async def receivers(clock: ManualClock) -> AsyncIterator[Receivers]:
    made = Receivers(parse_secrets(SECRET), clock=clock)
    await made.start()
    yield made
    await made.close()


def delivery(receiver: Receiver, path: str = "/hook") -> Delivery:
    url = URL(f"http://{receiver.host}{path}")
    return Delivery(job_id="a-b", url=url, body=b"{}", ended_at=datetime.now(UTC))


@pytest.mark.parametrize("status", [200, 201, 204])
async def test_it_is_taken(receivers: Receivers, receiver: Receiver, status: int) -> None:
    """Any 2xx; the URL is asked for as it was given, and the body is JSON."""
    receiver.answers = [status]
    await receivers.post(delivery(receiver, "/a/b?c=d%26e"))
    (told,) = receiver.received
    assert (told.body, told.path, told.id) == (b"{}", "/a/b?c=d%26e", "msg_ab")
    assert told.headers["content-type"] == "application/json"
    assert "cookie" not in told.headers


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
async def test_an_answer_that_may_pass_is_tried_again(
    receivers: Receivers, receiver: Receiver, status: int
) -> None:
    receiver.answers = [status]
    with pytest.raises(TryAgainError, match=f"answered {status}"):
        await receivers.post(delivery(receiver))


@pytest.mark.parametrize("status", [304, 400, 401, 404, 405, 410, 413, 422])
async def test_any_other_answer_is_final(
    receivers: Receivers, receiver: Receiver, status: int
) -> None:
    receiver.answers = [status]
    with pytest.raises(RefusedError, match=f"answered {status}"):
        await receivers.post(delivery(receiver))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(
    receivers: Receivers, receiver: Receiver, status: int
) -> None:
    """It could lead to a host that nobody has allowed."""
    async with receiving() as forbidden:

        async def elsewhere(request: web.Request) -> web.Response:
            return web.Response(status=status, headers={"Location": forbidden.url})

        receiver.answers = [elsewhere]
        with pytest.raises(RefusedError):
            await receivers.post(delivery(receiver))
        assert forbidden.received == []


async def test_nobody_is_there(receivers: Receivers, receiver: Receiver) -> None:
    """The reason has no URL in it."""
    await receiver.stop()
    with pytest.raises(TryAgainError, match=r"^cannot be reached \(ClientConnectorError\)$"):
        await receivers.post(delivery(receiver, "/?key=hidden"))


async def test_it_hangs(receivers: Receivers, receiver: Receiver, clock: ManualClock) -> None:
    """A try ends after 15 seconds, and its connection with it."""
    ended = asyncio.Event()

    async def hang(request: web.Request) -> web.Response:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return web.Response()

    receiver.answers = [hang]
    trying = asyncio.create_task(receivers.post(delivery(receiver)))
    await receiver.next()
    await clock.advance(TRY_TIMEOUT_S - 0.1)
    assert not trying.done()
    await clock.advance(0.1)
    with pytest.raises(TryAgainError, match="within 15 s"):
        await trying
    async with asyncio.timeout(5):
        await ended.wait()


@pytest.mark.parametrize("status", [200, 500])
async def test_an_answer_without_end(
    receivers: Receivers, receiver: Receiver, clock: ManualClock, status: int
) -> None:
    """What counts is its status; of the body a few KB are read, and for a second at most."""
    ended = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(status=status)
        await answer.prepare(request)
        try:
            while True:
                await answer.write(bytes(65_536))
        finally:
            ended.set()

    async def silent(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(status=status)
        await answer.prepare(request)
        await asyncio.Event().wait()
        return answer

    for kind in (endless, silent):
        receiver.answers = [kind]
        before = len(receiver.received)
        trying = asyncio.create_task(receivers.post(delivery(receiver)))
        await receiver.next(before + 1)
        if kind is silent:
            await until(lambda: clock.waiting == 1)
            await clock.advance(1.0)
        outcome: Any = await asyncio.gather(trying, return_exceptions=True)
        assert isinstance(outcome[0], TryAgainError) is (status == 500)
    async with asyncio.timeout(5):
        await ended.wait()


async def test_when_it_is_to_come_again(receivers: Receivers, receiver: Receiver) -> None:
    """``Retry-After`` of an answer is told to who tries again."""

    async def later(request: web.Request) -> web.Response:
        return web.Response(status=429, headers={"Retry-After": "120"})

    receiver.answers = [later]
    with pytest.raises(TryAgainError) as caught:
        await receivers.post(delivery(receiver))
    assert caught.value.retry_after_s == 120


NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        (" 90 ", 90),
        ("9" * 400, 999_999_999),
        (format_datetime(NOW + timedelta(minutes=2), usegmt=True), 120),
        (format_datetime(NOW - timedelta(minutes=2), usegmt=True), 0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("٣", None),
    ],
)
def test_retry_after(text: str, seconds: int | None) -> None:
    """A number or a date (RFC 9110, 10.2.3); nonsense is no wish."""
    assert read_retry_after(text, NOW) == seconds
