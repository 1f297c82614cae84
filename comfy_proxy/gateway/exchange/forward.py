"""One HTTP exchange between a client and an instance: streamed both ways, nothing kept.

aiohttp's exceptions about an instance are translated here and nowhere else in the gateway. Who is
to blame is kept apart all the way: reading from the client, talking to the instance and writing to
the client are three places, because aiohttp raises the same errors in each.

The retry law (caddy's): a failed dial may always be tried on the next instance; after something
was sent only GET and HEAD, of routes that the table names: what a custom node's own route does
nobody here knows, and a GET that restarts an instance breaks its connection, and must not restart
the next one; never after the first byte went to the client.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import aiohttp
from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11
from loguru import logger

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import (
    ComfyProxyError,
    ConnectionBrokenError,
    InstanceError,
    InstanceTimeoutError,
    InstanceUnreachableError,
    InvalidAnswerError,
    NoHealthyInstanceError,
    RequestError,
)
from comfy_proxy.gateway.exchange.answers import ForwardedResponse, abort, gone
from comfy_proxy.gateway.exchange.client_watch import while_connected
from comfy_proxy.gateway.exchange.context import INSTANCE, ClientGoneError
from comfy_proxy.gateway.exchange.headers import (
    failing_handshake,
    request_headers,
    response_headers,
    sendable,
)
from comfy_proxy.gateway.exchange.target import instance_url
from comfy_proxy.gateway.routes import Policy, is_named, match
from comfy_proxy.metrics.records import PromptEvent

if TYPE_CHECKING:
    from comfy_proxy.cluster.cluster import Cluster

T = TypeVar("T")
Forwarder = Callable[[web.Request, Instance, "Cluster"], Awaitable[web.StreamResponse]]

AUTO_HEADERS = (hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE, hdrs.USER_AGENT)
"""What aiohttp's client would add: the client's request has them or has not."""

RETRY_AFTER_S = 5
_SAFE_TO_REPEAT = (hdrs.METH_GET, hdrs.METH_HEAD)
_GATEWAY_FAULTS = (502, 503, 504)


class DialError(InstanceUnreachableError):
    """No connection came about; nothing was sent."""


class DialTimeoutError(InstanceTimeoutError):
    """No connection came about in the time given; nothing was sent."""


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
    send = send or forward
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
            if not _may_repeat(request, error):
                raise
            logger.debug("instance {} passed over: {}", instance.host, error.message)
            passed_over.append(instance)


async def forward(
    request: web.Request, instance: Instance, cluster: Cluster, *, target: str | None = None
) -> web.StreamResponse:
    """Send ``request`` to ``instance`` and its answer to the client; returns it, already sent.

    ``target`` is asked for instead of the path and query that the client named, if given.
    Raises RequestError for a body that cannot be read, InstanceError if the instance failed before
    its answer began. If it breaks off later the client's connection is cut, so that a short body
    never looks whole. A client that leaves is no strike; the answer is one that nobody reads.
    """

    async def exchange() -> web.StreamResponse:
        body = RequestBody(request) if request.body_exists else None
        try:
            upstream = await _send(request, instance, cluster, body, target)
        except InvalidAnswerError:
            if request.method != hdrs.METH_HEAD or body is not None:
                raise
            # aiohttp's servers send the body of a stream after a HEAD too, and no client reads that
            upstream = await _send(request, instance, cluster, body, target, method=hdrs.METH_GET)
        try:
            if upstream.status == 101:
                raise RequestError("This is not a WebSocket handshake of version 13.")
            if upstream.status == 200 and is_prompt(request):
                cluster.prompt_forwarded(instance)
                cluster.tell_prompt(PromptEvent.FORWARDED, instance, None)
            return await relay(request, upstream, instance, cluster)
        finally:
            upstream.close()  # a finished answer has given its connection back already

    return await accounted(request, instance, "forward", exchange)


def is_repeatable(request: web.Request) -> bool:
    """GET and HEAD without a body, of a route that the table names: they only read."""
    if request.method not in _SAFE_TO_REPEAT or request.body_exists:
        return False
    return is_named(request.method, request.rel_url.raw_path)


def is_prompt(request: web.Request) -> bool:
    """``POST /prompt`` however it is spelt: it puts work into the instance's queue."""
    return match(request.method, request.rel_url.raw_path).policy is Policy.SCHEDULED


async def accounted(
    request: web.Request, instance: Instance, kind: str, exchange: Callable[[], Awaitable[T]]
) -> T | web.StreamResponse:
    """Run ``exchange`` as one attempt of ``instance``, for as long as the client is there."""
    request[INSTANCE] = instance.host
    try:
        async with while_connected(request), instance.attempt(kind):
            return await exchange()
    except ClientGoneError:
        return gone(request)
    except _AnswerFaultError as fault:
        logger.warning("instance {}: {}", instance.host, fault.message)
        return fault.answer


class RequestBody:
    """The client's body, for aiohttp's client to read; knows if it was the client who broke."""

    def __init__(self, request: web.Request) -> None:
        self._content = request.content
        self.error: Exception | None = None

    def __aiter__(self) -> RequestBody:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await self._content.readany()
        except Exception as error:
            self.error = error
            raise
        if not chunk:
            raise StopAsyncIteration
        return chunk


async def _send(
    request: web.Request,
    instance: Instance,
    cluster: Cluster,
    body: RequestBody | None,
    target: str | None,
    method: str | None = None,
) -> aiohttp.ClientResponse:
    settings = cluster.settings
    headers = request_headers(request, instance, settings)
    headers.extend(failing_handshake(request))
    try:
        return await cluster.connections.request(
            instance,
            method or request.method,
            instance_url(request, instance, settings, target),
            once=not is_repeatable(request),
            headers=headers,
            skip_auto_headers=AUTO_HEADERS,
            data=body,
            allow_redirects=False,
        )
    except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
        if body is not None and body.error is not None:
            raise client_fault(body.error) from error
        raise instance_fault(error, instance) from error


def client_fault(error: Exception) -> Exception:
    """Why the client's body could not be read: it is malformed (400), or the client has gone."""
    if isinstance(error, OSError):
        return ClientGoneError()
    return RequestError("The request body cannot be read: it is malformed.", code="invalid_body")


def instance_fault(error: Exception, instance: Instance) -> InstanceError:
    """aiohttp's exception as ours. The message names the instance by its number alone."""
    name = f"ComfyUI instance {instance.id}"
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return DialTimeoutError(f"{name} did not accept a connection in time.")
    if isinstance(error, aiohttp.ClientConnectorError):
        return DialError(f"{name} cannot be reached.")
    if isinstance(error, TimeoutError):
        return InstanceTimeoutError(f"{name} did not answer in time.")
    if isinstance(error, aiohttp.ClientResponseError):
        return InvalidAnswerError(f"{name} does not speak proper HTTP.")
    return ConnectionBrokenError(f"{name} broke off the connection.")


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
    is_whole = upstream.content.is_eof()  # a small body comes together with its head
    if is_whole:
        answer.hold_head()
    await _to_client(answer.prepare(request))
    rest = b""
    if request.method != hdrs.METH_HEAD:
        rest = await _read(upstream, request, answer)
        while rest and not is_whole:
            await _to_client(answer.write(rest))
            rest = await _read(upstream, request, answer)
    await _to_client(answer.write_eof(rest))
    if upstream.status in _GATEWAY_FAULTS:
        raise _AnswerFaultError(f"answered {upstream.status}", answer)
    return answer


async def _read(
    upstream: aiohttp.ClientResponse, request: web.Request, answer: web.StreamResponse
) -> bytes:
    try:
        return await upstream.content.readany()
    except (aiohttp.ClientError, OSError) as error:
        abort(request, answer)
        raise _BrokenAnswerError("broke off in the middle of an answer", answer) from error


async def _to_client(writing: Awaitable[T]) -> T:
    try:
        return await writing
    except ConnectionError as error:
        raise ClientGoneError from error


def _may_repeat(request: web.Request, error: ComfyProxyError) -> bool:
    if isinstance(error, DialError | DialTimeoutError):
        return True
    # InvalidAnswer is repeated nowhere: it came back, and will again.
    unanswered = isinstance(error, InstanceUnreachableError | InstanceTimeoutError)
    return unanswered and is_repeatable(request)
