"""``PATCH /internal/logs/subscribe``: the frontend's log panel hears all instances.

The lines come on the client's own socket at each instance, so it gets one there before it
subscribes. ComfyUI forgets a subscription when that socket ends, so it is repeated at each new one
for as long as the client wants it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Final, Protocol

from aiohttp import web
from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import InstanceError
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.exchange.fanout import ask, ask_all
from comfy_proxy.gateway.routes import Match

PATH: Final = "/internal/logs/subscribe"
MAX_CLIENTS: Final = 1_000
MAX_ID: Final = 1_024
"""So many subscriptions are remembered, of clients whose id has so many characters at most; for one
more the oldest is not repeated any more."""


class Clients(Protocol):
    """The clients that have a socket here: ``clients.py``."""

    async def attend(self, client_id: str | None, instances: Iterable[Instance]) -> None:
        """Have the client hear on sockets of its own what ``instances`` tell it."""


class LogSubscriptions:
    """Those of all clients; :meth:`close` at the end. ``clients`` is set before the start."""

    clients: Clients

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._wanted: OrderedDict[str, None] = OrderedDict()  # clientIds
        self._tasks: set[asyncio.Task[None]] = set()

    async def answer(self, request: web.Request, match: Match) -> web.StreamResponse:
        """The policy ``subscription``: all instances are told, the first one's answer is the
        client's. Raises NoHealthyInstanceError."""
        body = await native.read_body(request)
        match body.json:
            case {"clientId": str(client_id), "enabled": enabled} if enabled:
                await self.clients.attend(client_id, self._cluster.instances)
        answers = await ask_all(self._cluster, request.method, match.pattern, **body.options)
        first = next(iter(answers.values()))
        if first.status < 400:
            self._note(body.json)
        return native.relayed(first)

    def wanted(self, client_id: str) -> bool:
        """Whether that client has subscribed: it is to have a socket at each instance."""
        return client_id in self._wanted

    def connected(self, client_id: str, instance: Instance) -> None:
        """The client has a new socket at ``instance``."""
        if client_id not in self._wanted:
            return
        task = asyncio.create_task(self._repeat(client_id, instance))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End what is under way."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _note(self, wanted: Any) -> None:
        match wanted:
            case {"clientId": str(client_id), "enabled": enabled} if len(client_id) <= MAX_ID:
                self._wanted.pop(client_id, None)
                if enabled:
                    self._wanted[client_id] = None
                if len(self._wanted) > MAX_CLIENTS:
                    self._wanted.popitem(last=False)

    async def _repeat(self, client_id: str, instance: Instance) -> None:
        wanted = {"enabled": True, "clientId": client_id}
        try:
            await ask(instance, self._cluster, "PATCH", PATH, json=wanted)
        except InstanceError as error:
            logger.debug("{} has not taken a log subscription: {}", instance.host, error.message)
