"""WebSockets and event streams stay open for days: who was let in once, and may not come in any
more, loses them.

When keys or origins have changed (SIGHUP) each is judged again as if it came now. Other requests
that are being answered end by themselves.
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
"""The requests whose answers have no end of their own, ours and those that an instance sends; by
their ``id()``, because they cannot be hashed."""
REASON = b"your key or origin is not allowed any more"
"""What the close frame says (at most 123 bytes)."""
_ENDLESS = ("text/event-stream", "multipart/x-mixed-replace")


def note(request: web.Request, answer: web.StreamResponse) -> None:
    """``answer`` is about to begin; one that has an end of its own is not noted.

    An instance may have taken its time for it: if the client may not come in any more its
    connection is cut, and ConnectionResetError raised, as if it had left. From the beginning of the
    answer on :func:`end_unwelcome` finds it.
    """
    is_stream = answer.headers.get(hdrs.CONTENT_TYPE, "").lower().startswith(_ENDLESS)
    if not is_stream and answer.status != HTTPStatus.SWITCHING_PROTOCOLS:
        return
    if not _is_welcome(request, request.config_dict[SETTINGS]):
        _cut(request)
        raise ConnectionResetError("the client may not come in any more")
    if is_stream:
        request.config_dict[EVENT_STREAMS][id(request)] = request


def forget(request: web.Request) -> None:
    """Its answer has ended."""
    request.config_dict[EVENT_STREAMS].pop(id(request), None)


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
    """What was written goes out first."""
    if request.transport is not None:
        request.transport.close()
