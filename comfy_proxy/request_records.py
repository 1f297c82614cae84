"""One record of each request that was answered: what metrics count and the access log prints."""

from __future__ import annotations

from aiohttp import hdrs, web

from comfy_proxy.counted_response import CountedResponse
from comfy_proxy.gateway.exchange.answers import CLIENT_CLOSED_REQUEST
from comfy_proxy.gateway.exchange.context import CONTEXT
from comfy_proxy.metrics.records import RequestRecord
from comfy_proxy.request_path import our_path

_WITHOUT_BODY = (204, 304)


def request_record(
    request: web.Request, answer: web.StreamResponse | None, *, started: float, ended: float
) -> RequestRecord:
    """The record of ``request``, made when our middleware ends.

    ``answer`` is what aiohttp will send, or has sent; None if the client left before there was one.
    An answer that aiohttp has yet to send is counted as sent in full. ``started`` and ``ended`` are
    seconds of the monotonic clock.
    """
    context = request[CONTEXT]
    begun, traffic = context.begun, context.traffic
    if begun is None and request.transport is None:
        answer = None  # nobody is left to send it to
    if traffic is not None:  # a WebSocket ends when its client leaves, however that is told us
        answer, received, sent = begun, traffic.received_bytes, traffic.sent_bytes
    else:
        received = request.content.total_raw_bytes if request.body_exists else 0
        sent = _sent_bytes(request, answer, begun)
    first_byte_at = ended if context.begun_at is None else context.begun_at
    return RequestRecord(
        method=request.method,
        path=our_path(request),
        policy=str(context.policy),  # an enum could not be a key of our JSON
        status=CLIENT_CLOSED_REQUEST if answer is None else answer.status,
        duration_s=ended - started,
        first_byte_s=None if begun is None and answer is None else first_byte_at - started,
        received_bytes=received,
        sent_bytes=sent,
        user_agent=request.headers.get(hdrs.USER_AGENT),
        client=request.remote,
        instance=context.instance,
        request_id=context.id,
        reason=context.reason,
    )


def _sent_bytes(
    request: web.Request, answer: web.StreamResponse | None, begun: web.StreamResponse | None
) -> int:
    """Bytes of the body: as streamed so far, else as aiohttp will send it when we have returned."""
    if isinstance(begun, CountedResponse):
        return begun.sent_bytes
    if begun is not None:
        return begun.body_length
    if answer is None or request.method == hdrs.METH_HEAD or answer.status in _WITHOUT_BODY:
        return 0
    body = getattr(answer, "body", None)
    return len(body) if isinstance(body, bytes | bytearray) else answer.content_length or 0
