"""Policy → the function that answers. Adding a policy: a name in ``routes.py``, a line here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from comfy_proxy.gateway.events.sessions import events
from comfy_proxy.gateway.exchange.forward import forward, forward_balanced
from comfy_proxy.gateway.exchange.headers import is_websocket_upgrade
from comfy_proxy.gateway.exchange.websocket import forward_websocket
from comfy_proxy.gateway.files.uploads import upload
from comfy_proxy.gateway.files.view import view
from comfy_proxy.gateway.gateway import Gateway
from comfy_proxy.gateway.prompts.submission import prompt
from comfy_proxy.gateway.routes import Match, Policy
from comfy_proxy.gateway.state.shared_state import state
from comfy_proxy.gateway.views.features import events_of_one, features, features_of_one
from comfy_proxy.gateway.views.owners import broadcast, owner_by_prompt
from comfy_proxy.gateway.views.queue_and_history import merged

PolicyFunction = Callable[[web.Request, Match, Gateway], Awaitable[web.StreamResponse]]


async def primary(request: web.Request, match: Match, gateway: Gateway) -> web.StreamResponse:
    """The first healthy instance answers, HTTP or WebSocket."""
    send = forward_websocket if is_websocket_upgrade(request) else forward
    return await forward_balanced(request, gateway.cluster, send)


POLICIES: Mapping[Policy, PolicyFunction] = {
    Policy.PRIMARY: primary,
    Policy.SCHEDULED: prompt,
    Policy.EVENTS: events,
    Policy.OWNER_BY_PROMPT: owner_by_prompt,
    Policy.OWNER_BY_FILE: view,
    Policy.UPLOAD: upload,
    Policy.MERGED: merged,
    Policy.OBJECT_INFO: lambda request, match, gateway: gateway.object_info.answer(request, match),
    Policy.BROADCAST: broadcast,
    Policy.STATE: state,
    Policy.FEATURES: features,
}

WITH_ONE: Mapping[Policy, PolicyFunction] = {
    Policy.EVENTS: events_of_one,
    Policy.FEATURES: features_of_one,
}
"""What is answered otherwise than by forwarding where there is one instance only."""


async def answer(request: web.Request, match: Match, gateway: Gateway) -> web.StreamResponse:
    """Answer ``request`` as its row of the table says; with one instance nearly always forward."""
    policy = POLICIES[match.policy] if gateway.several else WITH_ONE.get(match.policy, primary)
    return await policy(request, match, gateway)
