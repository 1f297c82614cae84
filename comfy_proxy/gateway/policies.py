"""Policy → the part that answers. Adding a policy: a name in ``routes.py``, a line here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiohttp import web

from comfy_proxy.errors import NoHealthyInstanceError
from comfy_proxy.gateway.exchange.context import CONTEXT
from comfy_proxy.gateway.exchange.forward import forward_balanced
from comfy_proxy.gateway.exchange.headers import is_websocket_upgrade
from comfy_proxy.gateway.exchange.websocket import forward_websocket
from comfy_proxy.gateway.gateway import Gateway
from comfy_proxy.gateway.routes import Match, Policy

STORED_FILES: Final = frozenset(("/view", "/userdata/{file}", "/assets/{asset_id}/content"))
"""Rows that answer with files of workflows and of clients. A custom node may have more of its own:
its page is made of that route's answers, so nobody but it can tell."""

Answer = Callable[[web.Request, Match], Awaitable[web.StreamResponse]]
"""How a part answers a request: a bound method of it."""


def _primary(gateway: Gateway) -> Answer:
    async def answer(request: web.Request, match: Match) -> web.StreamResponse:
        """The first healthy instance answers, HTTP or WebSocket."""
        send = gateway.first_page.forwarder(request, match)
        if is_websocket_upgrade(request):
            send = forward_websocket
        return await forward_balanced(request, gateway.cluster, send)

    return answer


POLICIES: Mapping[Policy, Callable[[Gateway], Answer]] = {
    Policy.PRIMARY: _primary,
    Policy.SCHEDULED: lambda gateway: gateway.intake.answer,
    Policy.EVENTS: lambda gateway: gateway.events.answer,
    Policy.OWNER_BY_PROMPT: lambda gateway: gateway.by_prompt.answer,
    Policy.OWNER_BY_FILE: lambda gateway: gateway.file_view.answer,
    Policy.FIRST_FOUND: lambda gateway: gateway.first_found.answer,
    Policy.UPLOAD: lambda gateway: gateway.uploads.answer,
    Policy.MERGED: lambda gateway: gateway.merged.answer,
    Policy.OBJECT_INFO: lambda gateway: gateway.object_info.answer,
    Policy.BROADCAST: lambda gateway: gateway.commands.broadcast,
    Policy.MERGED_ASSETS: lambda gateway: gateway.assets.merged.answer,
    Policy.OWNER_BY_ASSET: lambda gateway: gateway.assets.by_id.answer,
    Policy.NEW_ASSET: lambda gateway: gateway.assets.new.answer,
    Policy.ASSET_SCAN: lambda gateway: gateway.assets.scans.answer,
    Policy.STATE: lambda gateway: gateway.state.answer,
    Policy.FEATURES: lambda gateway: gateway.features.answer,
    Policy.SUBSCRIPTION: lambda gateway: gateway.log_subscriptions.answer,
    Policy.CUSTOM: lambda gateway: gateway.custom.answer,
}

WITH_ONE: Mapping[Policy, Callable[[Gateway], Answer]] = {
    Policy.EVENTS: lambda gateway: gateway.features.events_of_one,
    Policy.FEATURES: lambda gateway: gateway.features.of_one,
    Policy.BROADCAST: lambda gateway: gateway.commands.broadcast,  # what is loaded is to be known
}
"""What is answered otherwise than by forwarding where there is one instance only."""


async def answer(request: web.Request, match: Match, gateway: Gateway) -> web.StreamResponse:
    """Answer ``request`` as its row of the table says; with one instance nearly always forward."""
    request[CONTEXT].shows_file = match.pattern in STORED_FILES
    if gateway.several:
        await gateway.state.know_user(request)
        policy = POLICIES[match.policy]
    else:
        if match.policy is Policy.SCHEDULED and gateway.cluster.instances[0].drained:
            raise NoHealthyInstanceError("The only ComfyUI instance is drained.", retry_after_s=30)
        policy = WITH_ONE.get(match.policy, POLICIES[Policy.PRIMARY])
    return await policy(gateway)(request, match)
