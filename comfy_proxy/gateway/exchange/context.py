"""What a request carries through the gateway, under typed keys of aiohttp."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from aiohttp import web

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


class Stoppable(Protocol):
    """A client's WebSocket that is served."""

    def stop(self) -> None:
        """The proxy goes down: end it, with a word to its client."""


SOCKETS: web.AppKey[set[Stoppable]] = web.AppKey("comfy_proxy.sockets")
"""The open WebSockets of an application, to be ended when it stops."""
