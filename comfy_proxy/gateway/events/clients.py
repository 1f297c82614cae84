"""What the rest of the proxy asks of the clients that have a socket here, and tells them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_outcomes import ENDS
from comfy_proxy.gateway.events.frames import Pass, event_frame
from comfy_proxy.gateway.events.listener import PromptListener
from comfy_proxy.gateway.events.session import EventSession, signature
from comfy_proxy.ledger.prompt import Prompt

READY_TIMEOUT_S = 1.0
"""Seconds that a prompt waits for its client's socket at an instance. Beyond it the prompt goes
to another instance, if there is one that can run it and where its client can hear it."""


class ConnectedClients:
    """The newest ``sessions`` by clientId; ``listener`` is a client inside of the proxy, None if
    there is none."""

    def __init__(self, sessions: Mapping[str, EventSession], clock: Clock) -> None:
        self._sessions = sessions
        self._clock = clock
        self.listener: PromptListener | None = None

    def __repr__(self) -> str:
        return f"<ConnectedClients {len(self._sessions)}>"

    def listens(self, client_id: str) -> bool:
        """Whether a client of that id has a socket here, or is inside of the proxy."""
        return client_id in self._sessions or self._inside(client_id) is not None

    def is_inside(self, client_id: str) -> bool:
        """Whether that id is not for clients outside of the proxy."""
        return self._inside(client_id) is not None

    def _inside(self, client_id: str) -> PromptListener | None:
        listener = self.listener
        return listener if listener is not None and listener.client_id == client_id else None

    def hears(self, client_id: str, instance: Instance, since: float) -> bool:
        """Whether a client of that id has been told, or still may be, on its socket to ``instance``
        what happened there at ``since`` (monotonic seconds)."""
        if (listener := self._inside(client_id)) is not None:
            return listener.hears(instance, since)
        session = self._sessions.get(client_id)
        if session is None or session.own is None:
            return False
        return session.own.upstreams.hears(instance, since)

    def end_learnt(self, prompt: Prompt, entry: Mapping[str, Any], instance: Instance) -> None:
        """The history of ``instance`` tells how ``prompt`` has ended; its client may not know."""
        session = None if prompt.client_id is None else self._sessions.get(prompt.client_id)
        if session is not None:
            session.needed().missed_ends.learnt(prompt.prompt_id, entry, instance)

    def only_like(self, request: web.Request) -> str | None:
        """The id of the client with the address and the User-Agent of ``request``; None if none or
        several have a socket here."""
        own = signature(request)
        found = [one.client_id for one in self._sessions.values() if one.signature == own]
        return found[0] if len(found) == 1 else None

    def wake(self, instance: Instance) -> None:
        """``instance`` answered a check: whoever waits for its return may connect."""
        if self.listener is not None:
            self.listener.wake(instance)
        for session in self._sessions.values():
            if session.own is not None and (upstream := session.own.upstreams.get(instance)):
                upstream.retry.set()

    def tell(self, client_id: str | None, kind: str, data: Mapping[str, Any]) -> None:
        """Send the client of that id, if it has a socket here, an event as ComfyUI writes it."""
        session = self._sessions.get(client_id) if client_id is not None else None
        if session is not None:
            if kind in ENDS:
                session.told.given(str(data.get("prompt_id")))
            session.feed.put(Pass(data=event_frame(kind, data)))

    async def ready(self, client_id: str | None, instance: Instance) -> bool:
        """Open the client's socket at ``instance``, if it is not there, and wait for it, so that it
        misses nothing of a prompt.

        False if it cannot be there now. A client without a clientId, or without a socket here (it
        polls, or connects later) is waited for by nobody: True.
        """
        if client_id is None:
            return True
        if (listener := self._inside(client_id)) is not None:
            return await listener.ready(instance, READY_TIMEOUT_S)
        try:
            async with self._clock.timeout(READY_TIMEOUT_S):
                while (session := self._sessions.get(client_id)) is not None and not session.deaf:
                    upstreams = session.listen_at(instance).upstreams
                    if (there := upstreams.get(instance)) is not None and there.is_connected:
                        return True
                    if await upstreams.joined(instance, READY_TIMEOUT_S):
                        return True
                    if not session.deaf:  # else a newer socket may have taken its place
                        return False
        except TimeoutError:
            return False
        return True

    async def attend(self, client_id: str | None, instances: Iterable[Instance]) -> None:
        """The client asks something of ``instances`` that they may answer on its socket: it gets
        its own there. Only new sockets are waited for, and no longer than by a prompt."""
        session = None if client_id is None else self._sessions.get(client_id)
        if session is None or session.deaf:
            return
        upstreams = session.needed().upstreams
        new = [one for one in instances if (at := upstreams.get(one)) is None or not at.attempted]
        for instance in new:
            session.listen_at(instance)
        waited_for = (self.ready(client_id, one) for one in new if one.healthy)
        await asyncio.gather(*waited_for)
