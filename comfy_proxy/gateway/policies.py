"""Policy → the part that answers. Adding a policy: a name in ``routes.py``, a line here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from comfy_proxy.gateway.exchange.forward import forward, forward_balanced
from comfy_proxy.gateway.exchange.headers import is_websocket_upgrade
from comfy_proxy.gateway.exchange.websocket import forward_websocket
from comfy_proxy.gateway.gateway import Gateway
from comfy_proxy.gateway.routes import Match, Policy
from comfy_proxy.gateway.views.object_info import object_info
from comfy_proxy.gateway.views.owners import broadcast, owner_by_prompt
from comfy_proxy.gateway.views.queue_and_history import merged

Answer = Callable[[web.Request, Match], Awaitable[web.StreamResponse]]
"""How a part answers a request: a bound method of it."""
PolicyFunction = Callable[[web.Request, Match, Gateway], Awaitable[web.StreamResponse]]


async def primary(request: web.Request, match: Match, gateway: Gateway) -> web.StreamResponse:
    """The first healthy instance answers, HTTP or WebSocket."""
    send = forward_websocket if is_websocket_upgrade(request) else forward
    return await forward_balanced(request, gateway.cluster, send)


def _function(function: PolicyFunction) -> Callable[[Gateway], Answer]:
    return lambda gateway: lambda request, match: function(request, match, gateway)


POLICIES: Mapping[Policy, Callable[[Gateway], Answer]] = {
    Policy.PRIMARY: _function(primary),
    Policy.SCHEDULED: lambda gateway: gateway.intake.answer,
    Policy.EVENTS: lambda gateway: gateway.events.answer,
    Policy.OWNER_BY_PROMPT: _function(owner_by_prompt),
    Policy.OWNER_BY_FILE: lambda gateway: gateway.file_view.answer,
    Policy.UPLOAD: lambda gateway: gateway.uploads.answer,
    Policy.MERGED: _function(merged),
    Policy.OBJECT_INFO: _function(object_info),
    Policy.BROADCAST: _function(broadcast),
    Policy.STATE: lambda gateway: gateway.state.answer,
    Policy.FEATURES: lambda gateway: gateway.features.answer,
}

WITH_ONE: Mapping[Policy, Callable[[Gateway], Answer]] = {
    Policy.EVENTS: lambda gateway: gateway.features.events_of_one,
    Policy.FEATURES: lambda gateway: gateway.features.of_one,
}
"""What is answered otherwise than by forwarding where there is one instance only."""


async def answer(request: web.Request, match: Match, gateway: Gateway) -> web.StreamResponse:
    """Answer ``request`` as its row of the table says; with one instance nearly always forward."""
    if gateway.several:
        policy = POLICIES[match.policy]
    else:
        policy = WITH_ONE.get(match.policy, POLICIES[Policy.PRIMARY])
    return await policy(gateway)(request, match)
