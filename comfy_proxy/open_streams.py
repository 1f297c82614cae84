"""Ends the WebSockets and event streams of clients that may not come in any more.

They stay open for days. So when keys or origins have changed (SIGHUP) each is judged again as if it
came now. Other requests that are being answered end by themselves.
"""

from __future__ import annotations

from http import HTTPStatus

from aiohttp import WSCloseCode, hdrs, web
from loguru import logger

from comfy_proxy import security
from comfy_proxy.errors import ForbiddenError, UnauthorizedError
from comfy_proxy.gateway.exchange.context import SOCKETS
from comfy_proxy.keys import SETTINGS
from comfy_proxy.settings import Settings

EVENT_STREAMS: web.AppKey[dict[int, web.Request]] = web.AppKey("comfy_proxy.event_streams")
"""Requests whose answers have no end of their own, whether we or an instance send them; by
``id()``, because a request cannot be hashed."""
REASON = b"your key or origin is not allowed any more"
"""What the close frame says (at most 123 bytes)."""
_ENDLESS = ("text/event-stream", "multipart/x-mixed-replace")


def note(request: web.Request, answer: web.StreamResponse, app: web.Application) -> None:
    """``answer`` of ``app`` is about to begin: from now on :func:`end_unwelcome` finds it, if it
    has no end of its own.

    The keys may have changed while an instance prepared it. If the client may not come in any more
    its connection is cut, and ConnectionResetError raised, as if the client had left.
    """
    is_stream = answer.headers.get(hdrs.CONTENT_TYPE, "").lower().startswith(_ENDLESS)
    if not is_stream and answer.status != HTTPStatus.SWITCHING_PROTOCOLS:
        return
    if not _is_welcome(request, app[SETTINGS]):
        _cut(request)
        raise ConnectionResetError("the client may not come in any more")
    if is_stream:
        app[EVENT_STREAMS][id(request)] = request


def forget(request: web.Request, app: web.Application) -> None:
    """The answer to ``request`` has ended."""
    app[EVENT_STREAMS].pop(id(request), None)


def end_unwelcome(app: web.Application) -> None:
    """End those that would be refused now: WebSockets with 1008 and REASON; event streams by the
    end of their connection, after which an ``EventSource`` comes again and is refused."""
    settings = app[SETTINGS]
    sockets = [one for one, request in app[SOCKETS].items() if not _is_welcome(request, settings)]
    for socket in sockets:
        socket.stop(WSCloseCode.POLICY_VIOLATION, REASON)
    streams = [one for one in app[EVENT_STREAMS].values() if not _is_welcome(one, settings)]
    for request in streams:
        _cut(request)
    if sockets or streams:
        logger.warning(
            "{} WebSockets and {} event streams are ended: their keys or origins are not allowed"
            " any more",
            len(sockets),
            len(streams),
        )


def _is_welcome(request: web.Request, settings: Settings) -> bool:
    try:
        security.check(request, settings)
    except (ForbiddenError, UnauthorizedError):
        return False
    return True


def _cut(request: web.Request) -> None:
    """End the connection; what was written goes out first."""
    if request.transport is not None:
        request.transport.close()
