"""Answers that are put together here and look as if one ComfyUI had given them.

What is read and written again goes through Python's own ``json``, as in ComfyUI: NaN, integers of
any size, lone surrogates and blanks after commas come out byte for byte as they came in. What is
large (graphs) is not read at all but passed on as it came. Headers are those of one of the answers
that went into it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from functools import cached_property
from typing import Any, TypeVar

from aiohttp import hdrs, web
from loguru import logger
from multidict import CIMultiDict

from comfy_proxy.bodies import read_client_body
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.exchange import pieces as parts
from comfy_proxy.gateway.exchange.answers import ForwardedResponse, WholeAnswer, abort, gone
from comfy_proxy.gateway.exchange.charsets import body_charset
from comfy_proxy.gateway.exchange.fanout import Answer, Head
from comfy_proxy.gateway.exchange.headers import body_was_decoded
from comfy_proxy.gateway.exchange.pieces import Piece
from comfy_proxy.gateway.exchange.scanned import ScannedAnswer
from comfy_proxy.json_steps import in_turns, loads_in_steps
from comfy_proxy.lenient_json import dumps_exact, loads_exact

MAX_BODY_BYTES = 2**20
"""Of a request that is an order: some 26,000 ids of prompts. A longer one is answered 413: to read
it takes up to ten milliseconds of the event loop, and 16 MiB up to 1.3 s."""

LONG_BYTES = 256 * 2**10
"""Takes some ten milliseconds to be read, marked and written."""

MANY_BYTES = 2**20
"""Bytes of an answer that is put together here. From so many on its pieces are not joined but sent
one after the other: to join 10 MB takes 8 ms, and to write them at once another 10."""

T = TypeVar("T")
A = TypeVar("A", bound=Head)
_OF_ONE_BODY = (hdrs.CONTENT_ENCODING, hdrs.ETAG, hdrs.LAST_MODIFIED)


def load(answer: Answer) -> Any:
    """The JSON of an answer with status 200; None for any other and for what is no JSON."""
    try:
        return loads_exact(answer.body) if answer.status == 200 else None
    except ValueError:
        return None


async def read_long(answer: Answer) -> Any:
    """As :func:`load`; one of LONG_BYTES in steps, between which the event loop has its turn."""
    if len(answer.body) < LONG_BYTES or answer.status != 200:
        return load(answer)
    try:
        return await in_turns(loads_in_steps(answer.body))
    except ValueError:
        return None


def usable(
    answers: Mapping[Instance, A], read: Callable[[A], T | None]
) -> tuple[A, dict[Instance, T]]:
    """What ``read`` makes of each, where it is not None; and whose headers to take (the first)."""
    data = {instance: read(answer) for instance, answer in answers.items()}
    found = {instance: one for instance, one in data.items() if one is not None}
    return answers[next(iter(found or answers))], found


async def off_loop(answers: Mapping[Instance, Answer | ScannedAnswer], work: Callable[[], T]) -> T:
    """``work`` on these answers; in a thread if they are long, so that nobody waits behind them."""
    if sum(len(answer.body) for answer in answers.values()) < LONG_BYTES:
        return work()
    return await asyncio.to_thread(work)


def reply(data: Any, like: Head) -> web.StreamResponse:
    """``data`` as ComfyUI would send it; status and headers are ``like``'s."""
    return _whole(dumps_exact(data), like, _headers(like))


async def reply_pieces(
    request: web.Request, pieces: Sequence[Piece], like: Head
) -> web.StreamResponse:
    """As :func:`reply`, of JSON in pieces. If one of them is on a disk, or all together have
    MANY_BYTES, they are sent one after the other, as fast as the client reads, and the answer that
    is returned has been sent already."""
    headers = _headers(like)
    if parts.in_memory(pieces) and parts.length(pieces) < MANY_BYTES:
        return _whole(parts.joined(pieces), like, headers)
    return await _streamed(request, pieces, like, headers)


async def relayed_scanned(request: web.Request, answer: ScannedAnswer) -> web.StreamResponse:
    """``answer`` as it came."""
    if parts.in_memory([answer.body]) and len(answer.body) < MANY_BYTES:
        return _whole(parts.joined([answer.body]), answer, answer.headers.copy())
    return await _streamed(request, [answer.body], answer, answer.headers.copy())


def _headers(like: Head) -> CIMultiDict[str]:
    headers = like.headers.copy()
    for name in _OF_ONE_BODY:
        headers.popall(name, None)
    headers.setdefault(hdrs.CONTENT_LENGTH, "")  # to be filled in
    return headers


def _whole(body: bytes, like: Head, headers: CIMultiDict[str]) -> WholeAnswer:
    return WholeAnswer(body, status=like.status, reason=like.reason or None, headers=headers)


async def _streamed(
    request: web.Request, pieces: Sequence[Piece], like: Head, headers: CIMultiDict[str]
) -> web.StreamResponse:
    """Send what is too large for the memory, as fast as the client reads it."""
    headers[hdrs.CONTENT_LENGTH] = str(parts.length(pieces))
    answer = ForwardedResponse(status=like.status, reason=like.reason or None, headers=headers)
    try:
        await answer.prepare(request)
        if request.method != hdrs.METH_HEAD:
            async with aclosing(parts.batches(pieces)) as batches:
                async for batch in batches:
                    await answer.write(batch)
        await answer.write_eof()
    except ConnectionError:
        return gone(request)
    except OSError as error:
        logger.error("a stored answer cannot be read again: {}", error)
        abort(request, answer)
    return answer


def relayed(answer: Answer) -> web.StreamResponse:
    """``answer`` as it came."""
    return WholeAnswer(
        answer.body,
        status=answer.status,
        reason=answer.reason or None,
        headers=answer.headers.copy(),
    )


class Body:
    """A request's body as it came, read whole."""

    def __init__(self, request: web.Request, raw: bytes) -> None:
        self.raw = raw
        self.headers: dict[str, str] = {}
        names = [hdrs.CONTENT_TYPE]
        if not body_was_decoded(request):
            names.append(hdrs.CONTENT_ENCODING)
        for name in names:
            if name in request.headers:
                self.headers[name] = request.headers[name]
        self._charset = body_charset(request)

    @cached_property
    def json(self) -> Any:
        """None where it is none."""
        return _client_json(self.raw, self._charset)

    @property
    def options(self) -> dict[str, Any]:
        """What makes aiohttp's client send the same."""
        return {"data": self.raw, "headers": self.headers}


async def read_body(request: web.Request) -> Body:
    """The body of at most MAX_BODY_BYTES, whatever the host application allows.

    Raises PayloadTooLargeError, RequestError for one that is malformed or in a slow charset,
    ClientGoneError.
    """
    return Body(request, await read_client_body(request, MAX_BODY_BYTES))


def _client_json(raw: bytes, charset: str) -> Any:
    """As ComfyUI reads it: of bytes that are not in that charset nothing."""
    try:
        return loads_exact(raw.decode(charset))
    except (ValueError, LookupError):
        return None
