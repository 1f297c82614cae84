"""Answers that are put together here and look as if one ComfyUI had given them.

JSON goes through the standard library both ways, as in ComfyUI: what it writes (NaN, integers of
any size, lone surrogates, blanks after commas) comes out byte for byte as it came in. Headers are
those of one of the answers that went into it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from aiohttp import hdrs, web

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import PayloadTooLargeError
from comfy_proxy.gateway.answers import WholeAnswer
from comfy_proxy.gateway.fanout import Answer
from comfy_proxy.gateway.forward import client_fault
from comfy_proxy.gateway.headers import body_was_decoded

MAX_BODY_BYTES = 16 * 2**20
"""Of a request that names prompts: some 400,000 ids."""

LONG_BYTES = 256 * 2**10
"""Takes some ten milliseconds to be read, marked and written."""

T = TypeVar("T")
_OF_ONE_BODY = (hdrs.CONTENT_ENCODING, hdrs.ETAG, hdrs.LAST_MODIFIED)


def load(answer: Answer) -> Any:
    """The JSON of an answer with status 200; None for any other and for what is no JSON."""
    return _parse(answer.body, "utf-8") if answer.status == 200 else None


def usable(
    answers: Mapping[Instance, Answer], fits: Callable[[Any], bool]
) -> tuple[Answer, dict[Instance, Any]]:
    """What was answered in the right shape, and the answer whose headers to take (the first)."""
    loaded = {instance: load(answer) for instance, answer in answers.items()}
    found = {instance: data for instance, data in loaded.items() if fits(data)}
    return answers[next(iter(found or answers))], found


async def off_loop(answers: Mapping[Instance, Answer], work: Callable[[], T]) -> T:
    """``work`` on these answers; in a thread if they are long, so that nobody waits behind them."""
    if sum(len(answer.body) for answer in answers.values()) < LONG_BYTES:
        return work()
    return await asyncio.to_thread(work)


def encoded(entries: Mapping[str, Any]) -> bytes:
    """``entries`` as ComfyUI writes them: one by one, since one call holds up all threads."""
    pairs = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in entries.items())
    return f"{{{', '.join(pairs)}}}".encode()


def reply(data: Any, like: Answer) -> web.StreamResponse:
    """``data`` as ComfyUI would send it; status and headers are ``like``'s."""
    return reply_encoded(json.dumps(data).encode(), like)


def reply_encoded(body: bytes, like: Answer) -> web.StreamResponse:
    """As :func:`reply`, of a body that is JSON already."""
    headers = like.headers.copy()
    for name in _OF_ONE_BODY:
        headers.popall(name, None)
    headers.setdefault(hdrs.CONTENT_LENGTH, "")  # to be filled in
    return WholeAnswer(body, status=like.status, reason=like.reason or None, headers=headers)


def relayed(answer: Answer) -> web.StreamResponse:
    """``answer`` as it came."""
    return WholeAnswer(
        answer.body,
        status=answer.status,
        reason=answer.reason or None,
        headers=answer.headers.copy(),
    )


class Body:
    """A request's body as it came, read whole; ``json`` is None where it is none."""

    def __init__(self, request: web.Request, raw: bytes) -> None:
        self.raw = raw
        self.headers: dict[str, str] = {}
        names = [hdrs.CONTENT_TYPE]
        if not body_was_decoded(request):
            names.append(hdrs.CONTENT_ENCODING)
        for name in names:
            if name in request.headers:
                self.headers[name] = request.headers[name]
        self.json: Any = _parse(raw, request.charset or "utf-8")

    @property
    def options(self) -> dict[str, Any]:
        """What makes aiohttp's client send the same."""
        return {"data": self.raw, "headers": self.headers}


async def read_body(request: web.Request) -> Body:
    """The body, whatever limit the host application has set.

    Raises PayloadTooLargeError, RequestError for one that is malformed.
    """
    raw = bytearray()
    try:
        async for chunk in request.content.iter_any():
            raw += chunk
            if len(raw) > MAX_BODY_BYTES:
                raise PayloadTooLargeError(f"The body is larger than {MAX_BODY_BYTES} bytes.")
    except (PayloadTooLargeError, OSError):
        raise
    except Exception as error:
        raise client_fault(error) from error
    return Body(request, bytes(raw))


def _parse(raw: bytes, charset: str) -> Any:
    try:
        return json.loads(raw.decode(charset))
    except (ValueError, LookupError, RecursionError):
        return None
