"""What a client sends on its socket: its feature flags first, which are answered here, and messages
for custom nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Protocol

from aiohttp import WSMsgType

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.events.client_feed import ClientFeed
from comfy_proxy.gateway.events.own_sockets import OwnSockets, Surroundings
from comfy_proxy.lenient_json import loads

SEND_TIMEOUT_S = 1.0
"""Seconds that a client's message waits for its new sockets at the instances. Beyond it the message
goes to those that are there."""
_UNSENDABLE = (0, 1005, 1006, 1015)
"""No code at all, and those that must not be on the wire (RFC 6455 7.4.1)."""
NOT_HEARD = object()
"""The kind of what ComfyUI does not count as a message: binary, no JSON, no JSON object."""


class Speaker(Protocol):
    """The client: ``session.py``."""

    common: Surroundings
    everywhere: bool
    farewell: tuple[int, bytes]
    feed: ClientFeed
    first_message: str | None
    has_spoken: bool
    own: OwnSockets | None

    def begin(self, instances: Iterable[Instance], predecessor: None) -> None:
        """Open sockets of its own at ``instances``."""

    def needed(self) -> OwnSockets:
        """What those sockets need."""


async def take(client: Speaker, message: Any) -> bool:
    """Pass a message of the client on; False if it was the last."""
    if message.type is WSMsgType.CLOSE and message.data not in _UNSENDABLE:
        client.farewell = message.data, (message.extra or "").encode()
    if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
        return False
    client.feed.traffic.to_instance(message.data)
    if not client.has_spoken and (kind := message_kind(message.data)) is not NOT_HEARD:
        client.has_spoken = True
        if kind == "feature_flags":
            await _introduce(client, message.data)
            return True
    await _send(client, message.data)
    return True


def answer_flags(client: Speaker) -> None:
    """Tell the client an instance's feature flags, if it waits for them and they are known."""
    text = client.common.shared.flags()
    if text is None and client.own is not None:
        text = client.own.flags
    if text is not None:
        client.feed.answer_flags(text, client.common.limits.in_flags)


async def _introduce(client: Speaker, flags: str) -> None:
    """Its feature flags: each socket of its own begins with them, and one answer comes back."""
    client.first_message = flags
    if client.own is not None:
        await client.own.upstreams.introduce()
    await client.common.limits.learn()
    client.feed.flags_due = True
    answer_flags(client)


async def _send(client: Speaker, data: str | bytes) -> None:
    """A message for a custom node: to all instances, as nobody knows where that listens."""
    upstreams = client.needed().upstreams
    if not client.everywhere:
        client.everywhere = True
        client.begin(client.common.cluster.instances, None)
        joining = (
            upstreams.joined(one.instance, SEND_TIMEOUT_S)
            for one in upstreams
            if one.instance.healthy and not one.attempted
        )
        await asyncio.gather(*joining)
    await upstreams.send(data)


def message_kind(data: str | bytes) -> object:
    """``type`` of a client's message, as ComfyUI reads it; or NOT_HEARD."""
    if isinstance(data, bytes):
        return NOT_HEARD
    try:
        message = loads(data)
    except ValueError:
        return NOT_HEARD
    return message.get("type") if isinstance(message, dict) else NOT_HEARD
