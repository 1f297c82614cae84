"""``GET /ws``: one client socket that sees all instances."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from aiohttp import web

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.dispatch.second_tries import SecondTries
from comfy_proxy.errors import NoHealthyInstanceError
from comfy_proxy.gateway.custom.askers import Askers
from comfy_proxy.gateway.events.audience import Everybody
from comfy_proxy.gateway.events.booking import FrameBooking, shared_booking
from comfy_proxy.gateway.events.clients import ConnectedClients
from comfy_proxy.gateway.events.listener import PromptListener
from comfy_proxy.gateway.events.outbox_sum import OutboxSum
from comfy_proxy.gateway.events.own_sockets import FlagLimits, Surroundings
from comfy_proxy.gateway.events.replaced_prompts import ReplacedPrompts
from comfy_proxy.gateway.events.session import EventSession, new_socket
from comfy_proxy.gateway.events.shared_sockets import SharedSockets
from comfy_proxy.gateway.events.sum_corrections import SumCorrections
from comfy_proxy.gateway.events.unknown_prompts import UnknownPrompts
from comfy_proxy.gateway.exchange.context import SOCKETS
from comfy_proxy.gateway.exchange.forward import forward_balanced
from comfy_proxy.gateway.exchange.headers import is_websocket_upgrade
from comfy_proxy.gateway.exchange.socket_traffic import begin_counting, end_counting
from comfy_proxy.gateway.files.made_files import MadeFiles
from comfy_proxy.gateway.routes import Match
from comfy_proxy.ledger.ledger import Ledger


class EventSessions:
    """The connected clients by clientId; the newest socket of an id is the one that hears.

    ``prefixed`` puts an instance into the files of an output. ``connected`` is told of each new
    socket of a client (its id) at an instance; ``everywhere`` says whether a client is to have one
    at each. ``clients`` is what others ask of them; ``corrections`` observes the ledger for all.
    """

    def __init__(
        self,
        cluster: Cluster,
        ledger: Ledger,
        *,
        made_files: MadeFiles,
        askers: Askers,
        connected: Callable[[str, Instance], None],
        everywhere: Callable[[str], bool],
        prefixed: Callable[[Any, Instance], Any],
        limits: FlagLimits,
    ) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._everywhere = everywhere
        self._sessions: dict[str, EventSession] = {}
        self.clients = ConnectedClients(self._sessions, cluster.clock)
        self.replaced = ReplacedPrompts()
        ledger.observers.append(self.replaced.observe)
        self._unknown = UnknownPrompts(cluster, ledger, self._sessions)
        self._everybody = Everybody(self._sessions, cluster.clock, self._unknown.told)
        booking = shared_booking(cluster, ledger, made_files, askers, self.replaced)
        self.shared = SharedSockets(
            cluster, ledger, audience=self._everybody, booking=booking, prefixed=prefixed
        )
        self._common = Surroundings(
            cluster=cluster,
            ledger=ledger,
            made_files=made_files,
            askers=askers,
            replaced=self.replaced,
            connected=connected,
            prefixed=prefixed,
            limits=limits,
            waiting=OutboxSum(cluster.clock),
            shared=self.shared,
            ended=self._ended,
        )
        self.corrections = SumCorrections(self._sessions, self.shared)
        self._endings: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to hear of instances that join and leave."""
        self._cluster.instances.each(self._joined)
        self._cluster.instances.on_removed.append(self._removed)

    def listen(self, client_id: str) -> PromptListener:
        """The client inside of the proxy, under that id from now on; there is one at most."""
        common, second_tries = self._common, SecondTries.of(self._cluster, self._ledger)
        listener = PromptListener(
            client_id,
            self._cluster,
            FrameBooking(
                client_id,
                self._ledger,
                common.made_files,
                second_tries,
                common.askers,
                common.replaced,
            ),
            connected=common.connected,
            prefixed=common.prefixed,
            batch=self.shared.batch,
        )
        self.clients.listener = listener
        return listener

    def _joined(self, instance: Instance) -> None:
        """Who needs a socket at each instance has it there too."""
        for session in self._sessions.values():
            if session.everywhere or self._everywhere(session.client_id):
                session.listen_at(instance)

    def _removed(self, instance: Instance) -> None:
        self._everybody.scans.lost(instance)
        self.replaced.removed(instance)
        self.shared.removed(instance)
        if self.clients.listener is not None:
            self.clients.listener.removed(instance)
        for session in self._sessions.values():
            if session.own is not None:
                session.own.removed(instance)
            session.feed.sum_corrected()

    async def close(self) -> None:
        """The application ends: no client is left."""
        self._everybody.scans.close()
        await self._unknown.close()
        await self.shared.close()
        if self.clients.listener is not None:
            await self.clients.listener.close()

    async def answer(self, request: web.Request, match: Match) -> web.StreamResponse:
        """The client's socket, which is served once all handlers have returned.

        What is no WebSocket handshake is forwarded: the instance tells what is wrong with it.
        """
        ws = new_socket()
        if not is_websocket_upgrade(request) or not ws.can_prepare(request):
            return await forward_balanced(request, self._cluster)
        client_id = request.query.get("clientId") or uuid.uuid4().hex
        if self.clients.is_inside(client_id):
            client_id = uuid.uuid4().hex  # read in a queue; it would hear of others' prompts
        session = EventSession(client_id, request, ws, self._common)
        request.config_dict[SOCKETS][session] = request
        served = False
        try:
            if not await self.shared.reached(lambda: session.deaf):
                raise NoHealthyInstanceError(
                    "No ComfyUI instance takes a WebSocket.", retry_after_s=5
                )
            self.open(session)
            begin_counting(request, session.feed.traffic)
            served = await session.greet()
        finally:
            if not served:
                await session.ended()
        ws.serve_later(session)
        return ws

    async def _ended(self, session: EventSession) -> None:
        """The client has left."""
        request = session.request
        end_counting(request, session.feed.traffic)
        ending = self.close_session(session)
        sockets = request.config_dict[SOCKETS]
        ending.add_done_callback(lambda _ending: sockets.pop(session, None))
        await asyncio.shield(ending)

    def open(self, session: EventSession) -> None:
        """Make ``session`` the one of its clientId, with sockets of its own where it has prompts
        already, and where its predecessor has some."""
        client_id = session.client_id
        old = self._sessions.get(client_id)
        self._sessions[client_id] = session
        if old is not None:
            old.mute()
        session.begin(self._wanted(client_id), old)
        self._unknown.look()

    def _wanted(self, client_id: str) -> Iterable[Instance]:
        """Where a client that comes now needs a socket at once."""
        if self._everywhere(client_id):
            return self._cluster.instances
        prompts = (one for one in self._ledger.live() if one.client_id == client_id)
        places = {place for one in prompts if (place := one.target or one.instance) is not None}
        return [one for one in places if not one.left]

    def close_session(self, session: EventSession) -> asyncio.Task[None]:
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

    def __len__(self) -> int:
        return len(self._sessions)
