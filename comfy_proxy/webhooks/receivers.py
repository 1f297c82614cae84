"""One try to deliver a webhook: a POST, and what its answer means."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from datetime import datetime
from http import HTTPStatus
from typing import Final

import aiohttp
from aiohttp import hdrs

from comfy_proxy.clock import Clock
from comfy_proxy.errors import ComfyProxyError
from comfy_proxy.http_date import read_http_date
from comfy_proxy.webhooks.delivery import Delivery

TRY_TIMEOUT_S: Final = 15.0
"""Seconds for one try, from the look-up of the host to the status of the answer; beyond, it counts
as failed. A receiver is to take the message and answer, and to do its work after that."""
ANSWER_BYTES: Final = 4096
"""Bytes of an answer's body that are read, so that a receiver which has written a word or two sees
no broken connection. What is beyond is left unread: nothing of the body is used."""
ANSWER_S: Final = 1.0
"""Seconds in which they must come; then the connection is closed, and the status counts."""
_MAY_PASS: Final = frozenset(
    (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
)
"""Answers below 500 after which the same request may succeed later."""


class WebhookError(ComfyProxyError):
    """A webhook was not delivered. The message has no URL in it."""

    code = "webhook_failed"


class RefusedError(WebhookError):
    """The receiver's answer is final: a redirect, which is not followed, or a 4xx."""


class TryAgainError(WebhookError):
    """The receiver could not be reached, or cannot take it now.

    ``retry_after_s`` are the seconds that it asks for (``Retry-After``), None if it asks for none.
    """


class Receivers:
    """Posts to those who want webhooks. :meth:`start` first, :meth:`close` last.

    No redirect is followed, because it could lead to a host that is not allowed, no cookie is
    kept, and no proxy of the environment is used.
    """

    def __init__(self, secrets: Collection[bytes], *, clock: Clock) -> None:
        self._secrets = secrets
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Make the HTTP session."""
        self._session = aiohttp.ClientSession(
            # A kept connection may be closed by the receiver just when it is used again: that would
            # be a failed try.
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            auto_decompress=False,
            read_bufsize=ANSWER_BYTES,
        )

    async def close(self) -> None:
        """End all connections."""
        if self._session is not None:
            await self._session.close()

    async def post(self, delivery: Delivery) -> None:
        """Returns if the receiver has taken it (2xx). Raises RefusedError or TryAgainError."""
        answer = await self._ask(delivery)
        try:
            await self._read_a_little(answer)
        finally:
            answer.close()
        status = answer.status
        if 200 <= status < 300:
            return
        if status in _MAY_PASS or status >= 500:
            text = answer.headers.get(hdrs.RETRY_AFTER, "")
            asked_s = read_retry_after(text, self._clock.now())
            raise TryAgainError(f"answered {status}", retry_after_s=asked_s)
        raise RefusedError(f"answered {status}")

    async def _ask(self, delivery: Delivery) -> aiohttp.ClientResponse:
        assert self._session is not None
        try:
            async with self._clock.timeout(TRY_TIMEOUT_S):
                return await self._session.post(
                    delivery.url,
                    data=delivery.body,
                    headers=delivery.headers(self._clock.now(), self._secrets),
                    allow_redirects=False,
                )
        except TimeoutError:
            raise TryAgainError(f"has not answered within {TRY_TIMEOUT_S:g} s") from None
        except (aiohttp.ClientError, OSError) as error:  # their text may have the URL in it
            raise TryAgainError(f"cannot be reached ({type(error).__name__})") from None

    async def _read_a_little(self, answer: aiohttp.ClientResponse) -> None:
        left = ANSWER_BYTES
        with suppress(TimeoutError, aiohttp.ClientError, OSError):
            async with self._clock.timeout(ANSWER_S):
                while left > 0 and (piece := await answer.content.read(left)):
                    left -= len(piece)


def read_retry_after(text: str, now: datetime) -> int | None:
    """Seconds that ``Retry-After`` asks for at ``now`` (RFC 9110, 10.2.3: a number or a date);
    None if it is neither."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return int(text[:9])
    moment = read_http_date(text)
    return None if moment is None else max(0, int((moment - now).total_seconds()))
