"""One HTTP exchange between a client and an instance: streamed both ways, nothing kept.

Who is to blame is kept apart all the way: reading from the client, talking to the instance and
writing to the client are three places, because aiohttp raises the same errors in each.

What is repeated at the next instance is said in ``retries.py``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TypeVar

import aiohttp
from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11
from loguru import logger

from comfy_proxy.bodies import ClientBody, ClientGoneError, SentBody
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import (
    ConnectionBrokenError,
    InstanceError,
    InvalidAnswerError,
    NoHealthyInstanceError,
    RequestError,
)
from comfy_proxy.gateway.exchange.answers import ForwardedResponse, abort, gone
from comfy_proxy.gateway.exchange.blame import told_apart
from comfy_proxy.gateway.exchange.client_watch import while_connected
from comfy_proxy.gateway.exchange.context import CONTEXT
from comfy_proxy.gateway.exchange.headers import (
    failing_handshake,
    request_headers,
    response_headers,
    sendable,
)
from comfy_proxy.gateway.exchange.retries import is_repeatable, may_repeat
from comfy_proxy.gateway.exchange.target import instance_url
from comfy_proxy.gateway.routes import Policy, match
from comfy_proxy.metrics.records import PromptEvent
from comfy_proxy.request_path import our_path

T = TypeVar("T")
Forwarder = Callable[[web.Request, Instance, "Cluster"], Awaitable[web.StreamResponse]]

AUTO_HEADERS = (hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE, hdrs.USER_AGENT)
"""What aiohttp's client would add: the client's request has them or has not."""

RETRY_AFTER_S = 5
_GATEWAY_FAULTS = (502, 503, 504)


class _AnswerFaultError(InstanceError):
    """Told to the breaker, not to the client, who has got ``answer`` (or a part of it) already."""

    def __init__(self, message: str, answer: web.StreamResponse) -> None:
        super().__init__(message)
        self.answer = answer


class _BrokenAnswerError(_AnswerFaultError, ConnectionBrokenError):
    """The connection broke in the middle of ``answer``."""


async def forward_balanced(
    request: web.Request, cluster: Cluster, send: Forwarder | None = None
) -> web.StreamResponse:
    """Forward to the primary instance, or by the retry law to the next one.

    ``send`` is :func:`forward` unless told otherwise. Raises NoHealthyInstanceError (503 with
    Retry-After) when nobody is left, InstanceError when an instance failed beyond retrying.
    """
    send = send or partial(forward, replaceable=is_repeatable(request))
    passed_over: list[Instance] = []
    while True:
        try:
            instance = await cluster.primary(passed_over)
        except NoHealthyInstanceError as error:
            error.retry_after_s = error.retry_after_s or RETRY_AFTER_S
            raise
        try:
            return await send(request, instance, cluster)
        except InstanceError as error:
            if not may_repeat(request, error):
                raise
            logger.debug("instance {} passed over: {}", instance.host, error.message)
            passed_over.append(instance)


async def forward(
    request: web.Request,
    instance: Instance,
    cluster: Cluster,
    *,
    target: str | None = None,
    body: SentBody | None = None,
    replaceable: bool = False,
) -> web.StreamResponse:
    """Send ``request`` to ``instance`` and its answer to the client; returns it, already sent.

    ``target`` is asked for instead of the path and query that the client named, and ``body`` sent
    instead of its body, if given. ``replaceable`` as of :meth:`HangWatch.over`.
    Raises RequestError for a body that cannot be read, InstanceError if the instance failed before
    its answer began. If it breaks off later the client's connection is cut, so that a short body
    never looks whole. A client that leaves is no strike; the answer is one that nobody reads.
    """

    found = await forward_unless(
        request, instance, cluster, None, target=target, body=body, replaceable=replaceable
    )
    assert found is not None
    return found


async def forward_unless(
    request: web.Request,
    instance: Instance,
    cluster: Cluster,
    refuse: Callable[[aiohttp.ClientResponse], bool] | None,
    *,
    target: str | None = None,
    body: SentBody | None = None,
    replaceable: bool = False,
) -> web.StreamResponse | None:
    """As :func:`forward`, but None, and nothing is sent to the client, if ``refuse`` says so of the
    answer's head."""

    async def exchange() -> web.StreamResponse | None:
        upstream = await _answer_of(request, instance, cluster, target, body)
        watched.answered()
        try:
            if refuse is not None and refuse(upstream):
                return None
            if upstream.status == 101:
                raise RequestError("This is not a WebSocket handshake of version 13.")
            if upstream.status == 200 and request.method == "POST" and is_prompt(request):
                cluster.prompt_forwarded(instance)
                cluster.tell_prompt(PromptEvent.FORWARDED, instance, None)
            return await relay(request, upstream, instance, cluster)
        finally:
            upstream.close()  # a finished answer has given its connection back already

    with cluster.hang_watch.over(instance, replaceable=replaceable) as watched:
        return await accounted(request, instance, "forward", exchange)


def is_prompt(request: web.Request) -> bool:
    """``POST /prompt`` however it is spelt: it puts work into the instance's queue."""
    return match(request.method, our_path(request)).policy is Policy.SCHEDULED


async def accounted(
    request: web.Request, instance: Instance, kind: str, exchange: Callable[[], Awaitable[T]]
) -> T | web.StreamResponse:
    """Run ``exchange`` as one attempt of ``instance``, for as long as the client is there."""
    request[CONTEXT].instance = instance.host
    try:
        with while_connected(request), instance.attempt(kind):
            return await exchange()
    except ClientGoneError:
        return gone(request)
    except _AnswerFaultError as fault:
        logger.warning("instance {}: {}", instance.host, fault.message)
        return fault.answer


async def _answer_of(
    request: web.Request,
    instance: Instance,
    cluster: Cluster,
    target: str | None,
    body: SentBody | None,
) -> aiohttp.ClientResponse:
    try:
        return await _send(request, instance, cluster, target, body)
    except InvalidAnswerError:
        if request.method != hdrs.METH_HEAD or request.body_exists:
            raise
        # aiohttp's servers send the body of a stream after a HEAD too, and no client reads that
        return await _send(request, instance, cluster, target, body, method=hdrs.METH_GET)


async def _send(
    request: web.Request,
    instance: Instance,
    cluster: Cluster,
    target: str | None,
    body: SentBody | None,
    method: str | None = None,
) -> aiohttp.ClientResponse:
    settings = cluster.settings
    headers = request_headers(request, instance, settings)
    headers.extend(failing_handshake(request))
    source = ClientBody(request.content) if request.body_exists else None
    data: ClientBody | AsyncIterator[bytes] | None = source
    if body is not None:
        source, data = body.rest, body.chunks()
        if body.size is not None and hdrs.CONTENT_LENGTH in headers:  # else it came in chunks
            headers[hdrs.CONTENT_LENGTH] = str(body.size)
    with told_apart(instance, source):
        return await cluster.connections.request(
            instance,
            method or request.method,
            instance_url(request, instance, settings, target),
            once=not is_repeatable(request),
            headers=headers,
            skip_auto_headers=AUTO_HEADERS,
            data=data,
            allow_redirects=False,
        )


async def relay(
    request: web.Request,
    upstream: aiohttp.ClientResponse,
    instance: Instance,
    cluster: Cluster,
) -> web.StreamResponse:
    """Stream the answer to the client, each piece as it comes. Raises ClientGoneError."""
    answer = ForwardedResponse(
        status=upstream.status,
        reason=sendable(upstream.reason or ""),
        headers=response_headers(upstream, instance, cluster.settings),
    )
    if request.version < HttpVersion11 and hdrs.CONTENT_LENGTH not in answer.headers:
        answer.force_close()  # the end of the connection is the end of the body
    source = upstream.content
    if source.is_eof() and source.exception() is None:  # a small body comes with its head
        body = b"" if request.method == hdrs.METH_HEAD else source.read_nowait()
        await _to_client(answer.send_whole(request, body))
    else:
        await _to_client(answer.prepare(request))
        if request.method != hdrs.METH_HEAD:
            while piece := await _read(upstream, instance, request, answer):
                await _to_client(answer.write(piece))
        await _to_client(answer.write_eof())
    if upstream.status in _GATEWAY_FAULTS:
        raise _AnswerFaultError(f"answered {upstream.status}", answer)
    return answer


async def _read(
    upstream: aiohttp.ClientResponse,
    instance: Instance,
    request: web.Request,
    answer: web.StreamResponse,
) -> bytes:
    try:
        with told_apart(instance):
            return await upstream.content.readany()
    except InstanceError as error:
        abort(request, answer)
        raise _BrokenAnswerError("broke off in the middle of an answer", answer) from error


async def _to_client(writing: Awaitable[T]) -> T:
    try:
        return await writing
    except ConnectionError as error:
        raise ClientGoneError from error
