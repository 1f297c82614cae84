"""How much of a body is read, and whose fault it is when it cannot be."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest import mock

import pytest
from aiohttp import StreamReader, web

from comfy_proxy import bodies
from comfy_proxy.bodies import BodyTimeoutError, BoundedStream, ClientBody, ClientGoneError
from comfy_proxy.errors import PayloadTooLargeError, RequestError


class TooMuchError(Exception):
    """What this test's streams raise beyond their limit."""


async def stream(*pieces: bytes, error: Exception | None = None) -> StreamReader:
    """All of ``pieces`` at once, and then the end or ``error``."""
    reader = StreamReader(mock.Mock(), 2**16, loop=asyncio.get_running_loop())
    for piece in pieces:
        reader.feed_data(piece)
    if error is None:
        reader.feed_eof()
    else:
        reader.set_exception(error)
    return reader


async def test_a_body_of_the_limit_is_read_and_one_byte_more_is_not() -> None:
    """However it is read."""
    whole = [piece async for piece in BoundedStream(await stream(b"ab", b"c"), 3, TooMuchError)]
    assert b"".join(whole) == b"abc"
    for reading in ("readany", "readline"):
        with pytest.raises(TooMuchError):
            await getattr(BoundedStream(await stream(b"abcd"), 3, TooMuchError), reading)()
    with pytest.raises(TooMuchError):
        await BoundedStream(await stream(b"abcd"), 3, TooMuchError).read(4)


async def test_what_was_put_back_counts_once() -> None:
    """A form's parser reads ahead and puts back; that is no second body."""
    body = BoundedStream(await stream(b"one\ntwo\nrest"), 12, TooMuchError)
    assert await body.readline() == b"one\n"
    body.unread_data(b"one\n")
    assert not body.at_eof()
    assert await body.read(2) == b"on"
    assert await body.readline() == b"e\n"
    assert await body.readline() == b"two\n"
    assert await body.read(100) == b"rest"
    assert await body.read(100) == b""
    assert body.at_eof()


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (ConnectionResetError("Connection lost"), ClientGoneError),
        (web.RequestPayloadError("no gzip"), RequestError),
        (ValueError("Chunk too big"), RequestError),
    ],
)
async def test_whose_fault_it_is(raised: Exception, told: type[Exception]) -> None:
    """The client has gone, or has sent nonsense; ``error`` keeps it for who sends the body on."""
    body = ClientBody(await stream(error=raised))
    with pytest.raises(told) as caught:
        await body.readany()
    assert body.error is caught.value


async def test_a_body_that_does_not_come_is_408(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence has a limit; who waits for an instance meanwhile takes nothing of it."""
    monkeypatch.setattr(bodies, "SILENCE_S", 0.02)
    silent = StreamReader(mock.Mock(), 2**16, loop=asyncio.get_running_loop())
    silent.feed_data(b"some")
    body = ClientBody(silent)
    assert await body.readany() == b"some"
    with pytest.raises(BodyTimeoutError) as caught:
        await body.readany()
    assert caught.value.status == 408
    assert body.error is caught.value


async def test_a_body_that_comes_byte_by_byte_is_408(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it is never silent for long: what it may take altogether grows with what has come."""
    monkeypatch.setattr(bodies, "SILENCE_S", 0.05)
    loop = asyncio.get_running_loop()
    slow = StreamReader(mock.Mock(), 2**16, loop=loop)

    def drip() -> None:
        slow.feed_data(b"x")
        timers.append(loop.call_later(0.005, drip))

    timers: list[asyncio.TimerHandle] = []
    drip()
    body = ClientBody(slow)
    with pytest.raises(BodyTimeoutError):
        _ = [piece async for piece in body]
    timers[-1].cancel()


async def test_the_limit_is_told() -> None:
    """413, with the limit in bytes; that is no failure of the connection."""
    body = ClientBody(await stream(b"abcd"), 3)
    with pytest.raises(PayloadTooLargeError) as caught:
        await body.readany()
    details: dict[str, Any] = caught.value.details
    assert (caught.value.status, details) == (413, {"limit": 3})
    assert body.error is None
