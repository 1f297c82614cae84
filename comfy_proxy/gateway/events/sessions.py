"""``GET /ws``: one client socket that sees all instances."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from aiohttp import web

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.prompt_outcomes import ENDS
from comfy_proxy.errors import NoHealthyInstanceError
from comfy_proxy.gateway.custom.askers import Askers
from comfy_proxy.gateway.events.frames import Pass, event_frame
from comfy_proxy.gateway.events.outbox_sum import OutboxSum
from comfy_proxy.gateway.events.session import EventSession, signature
from comfy_proxy.gateway.events.sum_corrections import SumCorrections
from comfy_proxy.gateway.events.told_prompts import ToldPrompts
from comfy_proxy.gateway.exchange.context import SOCKETS
from comfy_proxy.gateway.exchange.forward import forward_balanced
from comfy_proxy.gateway.exchange.headers import is_websocket_upgrade
from comfy_proxy.gateway.exchange.socket_traffic import counted
from comfy_proxy.gateway.files.made_files import MadeFiles
from comfy_proxy.gateway.routes import Match
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import Prompt
from comfy_proxy.tracing import untraced

READY_TIMEOUT_S = 1.0
"""Seconds that a prompt waits for its client's socket at an instance. Beyond it the prompt goes
to another instance, if there is one that can run it and where its client can hear it."""


class FlagLimits(Protocol):
    """What feature flags must say of all instances together."""

    def in_flags(self, frame: str) -> str:
        """One instance's frame with feature flags, as a client of all instances is to see it."""

    async def learn(self) -> None:
        """Ask the instances that have not told yet, for a short time."""


class EventSessions:
    """The connected clients by clientId; the newest socket of an id is the one that hears.

    ``prefixed`` puts an instance into the files of an output. ``connected`` is told of each new
    socket of a client (its id) at an instance. ``corrections`` observes the ledger for them.
    """

    def __init__(
        self,
        cluster: Cluster,
        ledger: Ledger,
        *,
        made_files: MadeFiles,
        askers: Askers,
        connected: Callable[[str, Instance], None],
        prefixed: Callable[[Any, Instance], Any],
        limits: FlagLimits,
    ) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._made_files = made_files
        self._askers = askers
        self._connected = connected
        self._prefixed = prefixed
        self._limits = limits
        self._waiting = OutboxSum(cluster.clock)
        self._sessions: dict[str, EventSession] = {}
        self.corrections = SumCorrections(self._sessions)
        self._endings: set[asyncio.Task[None]] = set()
        cluster.instances.each(self._joined)
        cluster.instances.on_removed.append(self._removed)

    def _joined(self, instance: Instance) -> None:
        """Who is connected hears it too."""
        for session in self._sessions.values():
            if not session.deaf:
                session.feed.queues.joined(instance)
                session.upstreams.add(instance)

    def _removed(self, instance: Instance) -> None:
        for session in self._sessions.values():
            session.missed_ends.removed(instance)
            session.feed.scans.lost(instance)
            session.feed.queues.removed(instance)
            session.feed.sum_corrected()
            if (upstream := session.upstreams.remove(instance)) is not None:
                self._cluster.spawn(upstream.close(), context=untraced())

    async def answer(self, request: web.Request, match: Match) -> web.StreamResponse:
        """Join the client's socket with one to each instance; returns when the client has left.

        What is no WebSocket handshake is forwarded: the instance tells what is wrong with it.
        """
        ws = web.WebSocketResponse()
        if not is_websocket_upgrade(request) or not ws.can_prepare(request):
            return await forward_balanced(request, self._cluster)
        session = self._session(request.query.get("clientId") or uuid.uuid4().hex)
        sockets = request.config_dict.get(SOCKETS, {})
        sockets[session] = request
        connected = False
        try:
            connected = await self.open(session, request)
            if not connected:
                raise NoHealthyInstanceError(
                    "No ComfyUI instance takes a WebSocket.", retry_after_s=5
                )
            await self._limits.learn()  # a client may ask for them by its first message
            with counted(request, session.feed.traffic):
                return await session.run(request)
        finally:
            ending = self.close(session)
            ending.add_done_callback(lambda _ending: sockets.pop(session, None))
            if connected:  # a refusal is not kept back until a handshake has come to its end
                await asyncio.shield(ending)

    def _session(self, client_id: str) -> EventSession:
        old = self._sessions.get(client_id)
        return EventSession(
            client_id,
            self._cluster,
            self._ledger,
            told=ToldPrompts(self._ledger) if old is None else old.told,
            made_files=self._made_files,
            askers=self._askers,
            connected=self._connected,
            prefixed=self._prefixed,
            in_flags=self._limits.in_flags,
            waiting=self._waiting,
        )

    def __len__(self) -> int:
        return len(self._sessions)

    def listens(self, client_id: str) -> bool:
        """Whether a client of that id has a socket here."""
        return client_id in self._sessions

    def hears(self, client_id: str, instance: Instance, since: float) -> bool:
        """Whether a client of that id has been told, or still may be, on its socket to ``instance``
        what happened there at ``since`` (monotonic seconds)."""
        session = self._sessions.get(client_id)
        return session is not None and session.upstreams.hears(instance, since)

    def end_learnt(self, prompt: Prompt, entry: Mapping[str, Any], instance: Instance) -> None:
        """The history of ``instance`` tells how ``prompt`` has ended; its client may not know."""
        session = None if prompt.client_id is None else self._sessions.get(prompt.client_id)
        if session is not None:
            session.missed_ends.learnt(prompt.prompt_id, entry, instance)

    def only_like(self, request: web.Request) -> str | None:
        """The id of the client with the address and the User-Agent of ``request``; None if none or
        several have a socket here."""
        own = signature(request)
        found = [one.client_id for one in self._sessions.values() if one.signature == own]
        return found[0] if len(found) == 1 else None

    def wake(self, instance: Instance) -> None:
        """``instance`` answered a check: whoever waits for its return may connect."""
        for session in self._sessions.values():
            session.upstreams[instance].retry.set()

    def tell(self, client_id: str | None, kind: str, data: Mapping[str, Any]) -> None:
        """Send the client of that id, if it has a socket here, an event as ComfyUI writes it."""
        session = self._sessions.get(client_id) if client_id is not None else None
        if session is not None:
            if kind in ENDS:
                session.told.given(str(data.get("prompt_id")))
            session.feed.put(Pass(data=event_frame(kind, data)))

    async def ready(self, client_id: str | None, instance: Instance) -> bool:
        """Wait for the client's socket at ``instance``, so that it misses nothing of a prompt.

        False if it cannot be there now. A client without a clientId, or without a socket here (it
        polls, or connects later) is waited for by nobody: True.
        """
        if client_id is None:
            return True
        try:
            async with self._cluster.clock.timeout(READY_TIMEOUT_S):
                while (session := self._sessions.get(client_id)) is not None and not session.deaf:
                    if session.upstreams[instance].connected.is_set():
                        return True
                    if await session.upstreams.joined(instance, READY_TIMEOUT_S):
                        return True
                    if not session.deaf:  # else a newer socket may have taken its place
                        return False
        except TimeoutError:
            return False
        return True

    async def open(self, session: EventSession, request: web.Request) -> bool:
        """Make ``session`` the one of its clientId; False if no instance took a socket.

        The old one's socket at an instance ends before the new one's begins: closing it later
        would make the instance deaf for the new one (PROTOCOL.md trap 2).

        One that a newer socket replaced meanwhile is served too, deaf, as by ComfyUI.
        """
        old = self._sessions.get(session.client_id)
        self._sessions[session.client_id] = session
        if old is not None:
            old.mute()
        session.start(request, old)
        if await session.upstreams.connected() or session.feed.muted:
            return True
        newest = self._sessions.get(session.client_id) is session
        if newest and old is not None and old.resume(session):
            self._sessions[session.client_id] = old
        return False

    def close(self, session: EventSession) -> asyncio.Task[None]:
        """The client has left. The end goes on, whoever stops to wait for it."""
        ending = asyncio.create_task(self._close(session), name=f"end of {session.client_id}")
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)
        return ending

    async def _close(self, session: EventSession) -> None:
        """Until its sockets have ended it stays on record: the next of its clientId must wait."""
        await session.close()
        if self._sessions.get(session.client_id) is session:
            del self._sessions[session.client_id]
