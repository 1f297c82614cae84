"""Which requests of clients may be sent to another instance when one has failed.

The retry law (caddy's): a failed dial may always be tried on the next instance; after something
was sent only GET and HEAD, of routes that the table names: what a custom node's own route does
nobody here knows, and a GET that restarts an instance breaks its connection, and must not restart
the next one; never after the first byte went to the client.
"""

from __future__ import annotations

from aiohttp import hdrs, web

from comfy_proxy.cluster.translation import nothing_sent
from comfy_proxy.errors import InstanceError, InstanceTimeoutError, InstanceUnreachableError
from comfy_proxy.gateway.routes import is_named
from comfy_proxy.request_path import our_path

_SAFE_TO_REPEAT = (hdrs.METH_GET, hdrs.METH_HEAD)


def is_repeatable(request: web.Request) -> bool:
    """GET and HEAD without a body, of a route that the table names: they only read."""
    if request.method not in _SAFE_TO_REPEAT or request.body_exists:
        return False
    return is_named(request.method, our_path(request))


def may_repeat(request: web.Request, error: InstanceError) -> bool:
    """Whether ``error`` leaves it to another instance to answer."""
    if nothing_sent(error):
        return True
    # InvalidAnswer is repeated nowhere: it came back, and will again.
    unanswered = isinstance(error, InstanceUnreachableError | InstanceTimeoutError)
    return unanswered and is_repeatable(request)
