"""What a request carries through the gateway, under typed keys of aiohttp."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from aiohttp import WSCloseCode, web

from comfy_proxy.cluster.instance import Instance

REQUEST_ID: web.RequestKey[str] = web.RequestKey("comfy_proxy.request_id", str)
"""The id in ``X-Request-ID``, in errors and in the log."""

INSTANCE: web.RequestKey[str] = web.RequestKey("comfy_proxy.instance", str)
"""``host`` of the instance that was asked last, for the access log."""

POLICY: web.RequestKey[str] = web.RequestKey("comfy_proxy.policy", str)
"""Who was to answer: ``ours``, or the policy of its row in ``routes.py``."""


REASON: web.RequestKey[str] = web.RequestKey("comfy_proxy.reason", str)
"""Why it was answered with an error, for the access log: the error's own words."""

USER_HEADER = "comfy-user"
"""Which user of ``--multi-user`` a client is."""

USER_AT: web.RequestKey[Callable[[Instance, str], str]] = web.RequestKey("comfy_proxy.user_at")
"""What an instance calls the user whom the client names: each has ids of its own."""


STOPPING: Final = b"the proxy is stopping"
"""Why a WebSocket is closed, unless there is another reason."""


class Stoppable(Protocol):
    """A client's WebSocket that is served."""

    def stop(self, code: int = WSCloseCode.GOING_AWAY, reason: bytes = STOPPING) -> None:
        """End it, and tell its client why: the proxy goes down, or its key is none any more."""


SOCKETS: web.AppKey[dict[Stoppable, web.Request]] = web.AppKey("comfy_proxy.sockets")
"""The open WebSockets of an application with the requests that they began as, to be ended when it
stops, or when their clients may not come in any more."""
