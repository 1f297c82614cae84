"""What a request carries through the gateway, under typed keys of aiohttp."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from aiohttp import WSCloseCode, web

from comfy_proxy.cluster.instance import Instance

USER_HEADER = "comfy-user"
"""Which user of ``--multi-user`` a client is."""

WITHOUT_POLICY: Final = "other"
"""The policy of a request that was refused before it had one."""


class Traffic(Protocol):
    """What went through a WebSocket, in bytes of its frames."""

    received_bytes: int
    sent_bytes: int


@dataclass(slots=True, eq=False)
class RequestContext:
    """What is known of one request while it is answered; :data:`CONTEXT` has it.

    One object under one key, because to look for a key costs two calls, and an exception where it
    is not there: with a key for each of these that was a part of what a small request costs.
    """

    id: str
    """The id in ``X-Request-ID``, in errors and in the log."""
    policy: str = WITHOUT_POLICY
    """Who was to answer: ``ours``, or the policy of its row in ``routes.py``."""
    instance: str | None = None
    """``host`` of the instance that was asked last, for the access log."""
    reason: str | None = None
    """Why it was answered with an error, for the access log: the error's own words."""
    user_at: Callable[[Instance, str], str] | None = None
    """What an instance calls the user whom the client names: each has ids of its own."""
    shows_file: bool = False
    """The answer is a file that a workflow or a client has made: a browser is to run none of it."""
    traffic: Traffic | None = None
    """What went through the WebSocket that the request has become; None if it has become none."""
    begun: web.StreamResponse | None = None
    """The answer whose headers have been sent, or are about to be; None before."""
    begun_at: float | None = None
    """When the headers of ``begun`` were sent, in seconds of the monotonic clock."""


CONTEXT: web.RequestKey[RequestContext] = web.RequestKey("comfy_proxy.context", RequestContext)
"""Every request has one, except those for routes of the host application."""

STOPPING: Final = b"the proxy is stopping"
"""Why a WebSocket is closed, unless there is another reason."""


class Stoppable(Protocol):
    """A client's WebSocket that is served."""

    def stop(self, code: int = WSCloseCode.GOING_AWAY, reason: bytes = STOPPING) -> None:
        """End it, and tell its client why: the proxy goes down, or its key is none any more."""


SOCKETS: web.AppKey[dict[Stoppable, web.Request]] = web.AppKey("comfy_proxy.sockets")
"""The open WebSockets of an application with the requests that they began as, to be ended when it
stops, or when their clients may not come in any more."""
