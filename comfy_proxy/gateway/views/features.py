"""How large an upload may be, as clients are told: ``/features`` and the ``feature_flags`` frame.

``max_upload_size`` (bytes) is the least of what the instances and ``MAX_UPLOAD_SIZE`` allow, since
an upload may go to each of them. Everything else is the answering instance's; an answer that tells
no more than that limit already is passed on byte for byte.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterable
from functools import partial
from typing import Any

from aiohttp import web
from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.errors import InstanceError
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.exchange.context import CONTEXT
from comfy_proxy.gateway.exchange.fanout import Answer, ask
from comfy_proxy.gateway.exchange.forward import forward_balanced
from comfy_proxy.gateway.exchange.headers import is_websocket_upgrade, request_headers
from comfy_proxy.gateway.exchange.target import client_target
from comfy_proxy.gateway.exchange.websocket import forward_websocket
from comfy_proxy.gateway.routes import Match
from comfy_proxy.lenient_json import dumps_exact

LIMIT = "max_upload_size"
PATIENCE_S = 0.5
"""How long a client waits for the limits of the other instances. Of one that needs longer the limit
counts that it told before, if any."""

_PATH = "/features"
_FLAGS = b'"feature_flags"'
_LONGEST_FLAGS = 65_536
"""Bytes of a text frame; a longer one is passed on unread. A server has some dozen flags, and to
search each large frame for them costs time."""


class UploadLimits:
    """What each instance allows, in bytes, as it said last. One for each gateway."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._known = ByInstance[float]()

    def forget(self, instance: Instance) -> None:
        """For ``instance.on_interruption``: it may come back with another limit."""
        self._known.pop(instance, None)

    def told(self, instance: Instance, features: Any) -> None:
        """``features`` is what ``instance`` says of itself."""
        limit = _limit(features)
        self._known[instance] = math.inf if limit is None else limit

    def in_flags(self, frame: str) -> str:
        """One instance's frame with feature flags, as a client of all instances is to see it."""
        return flags_with_limit(frame.encode(), self.least()).decode()

    def least(self) -> float:
        """Bytes that each healthy instance allows, as far as it is known, and we do."""
        known = [limit for instance, limit in self._known.items() if instance.healthy]
        return min([self._cluster.settings.max_upload_size, *known])

    async def learn(self, instances: Iterable[Instance] | None = None) -> None:
        """Ask ``instances``, or those that have told nothing yet, for :data:`PATIENCE_S`."""
        if instances is None:
            instances = [one for one in self._cluster.instances if one not in self._known]
        await asyncio.gather(*(self._learn(one) for one in instances if one.healthy))

    async def _learn(self, instance: Instance) -> None:
        try:
            async with self._cluster.clock.timeout(PATIENCE_S):
                answer = await ask(instance, self._cluster, "GET", _PATH)
        except (InstanceError, TimeoutError) as error:
            logger.debug("/features of {} is not known: {!r}", instance.host, error)
        else:
            self.told(instance, native.load(answer))


class Features:
    """Answers ``/features``, and ``/ws`` where there is one instance."""

    def __init__(self, cluster: Cluster, limits: UploadLimits) -> None:
        self._cluster = cluster
        self._limits = limits

    async def answer(self, request: web.Request, match: Match) -> web.StreamResponse:
        """``GET /features`` with several instances: the primary's, with the least limit of all."""

        async def send(
            request: web.Request, instance: Instance, cluster: Cluster
        ) -> web.StreamResponse:
            others = [one for one in cluster.instances if one is not instance]
            asking = _asked(request, instance, cluster)
            answer, _ = await asyncio.gather(asking, self._limits.learn(others))
            self._limits.told(instance, native.load(answer))
            return _answered(answer, self._limits.least())

        return await forward_balanced(request, self._cluster, send)

    async def of_one(self, request: web.Request, match: Match) -> web.StreamResponse:
        """``GET /features`` of the only instance, with ``MAX_UPLOAD_SIZE`` if that is less."""

        async def send(
            request: web.Request, instance: Instance, cluster: Cluster
        ) -> web.StreamResponse:
            answer = await _asked(request, instance, cluster)
            return _answered(answer, cluster.settings.max_upload_size)

        return await forward_balanced(request, self._cluster, send)

    async def events_of_one(self, request: web.Request, match: Match) -> web.StreamResponse:
        """``GET /ws`` with one instance: its own socket, but for the limit in its flags."""
        if not is_websocket_upgrade(request):
            return await forward_balanced(request, self._cluster)
        limit = self._cluster.settings.max_upload_size
        send = partial(forward_websocket, to_client=partial(flags_with_limit, limit=limit))
        return await forward_balanced(request, self._cluster, send)


def flags_with_limit(frame: bytes, limit: float) -> bytes:
    """A text frame; of one with feature flags the limit becomes ``limit`` if that is less."""
    if len(frame) > _LONGEST_FLAGS or _FLAGS not in frame:
        return frame
    try:
        message = json.loads(frame)
        if message["type"] != "feature_flags":
            return frame
        changed = with_limit(message["data"], limit)
    except (KeyError, RecursionError, TypeError, ValueError):
        return frame
    return frame if changed is None else dumps_exact({**message, "data": changed})


def with_limit(features: Any, limit: float) -> dict[str, Any] | None:
    """``features`` with ``limit``; None if they are right as they are, or are no features."""
    if not isinstance(features, dict):
        return None
    own = _limit(features)
    return None if own is not None and own <= limit else {**features, LIMIT: limit}


def _limit(features: Any) -> float | None:
    limit = features.get(LIMIT) if isinstance(features, dict) else None
    known = isinstance(limit, int | float) and not isinstance(limit, bool) and limit == limit
    return limit if known else None


async def _asked(request: web.Request, instance: Instance, cluster: Cluster) -> Answer:
    """What ``instance`` says to this client; whole and uncompressed, since it may be changed."""
    request[CONTEXT].instance = instance.host
    target = client_target(request, cluster.settings)
    headers = request_headers(request, instance, cluster.settings)
    return await ask(instance, cluster, "GET", target, headers=headers)


def _answered(answer: Answer, limit: float) -> web.StreamResponse:
    changed = with_limit(native.load(answer), limit)
    return native.relayed(answer) if changed is None else native.reply(changed, answer)
