"""What one client is sent: its greeting, the sum of the queues, and the instances' frames."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web
from loguru import logger

from comfy_proxy.gateway.events.batch import Batch
from comfy_proxy.gateway.events.frames import Pass, status_frame, told_status
from comfy_proxy.gateway.events.outbox import Outbox, OutboxFullError
from comfy_proxy.gateway.events.outbox_sum import OutboxSum
from comfy_proxy.gateway.events.sums import Sum
from comfy_proxy.gateway.exchange.socket_traffic import SocketTraffic


class ClientFeed:
    """Frames for the socket ``ws`` of ``client_id``, written from :meth:`greet` to :meth:`end`.

    ``queues`` is the sum that the client is told. ``on_overflow`` is called once if the client
    reads too slowly: what waits is then thrown away, and nothing more is put in; ``on_stuck`` if
    its connection has to be cut at once. ``waiting`` is what waits for all clients, ``batch`` what
    is written together. ``muted``: the client is sent nothing any more. ``flags_due``: it has asked
    for feature flags, and was not answered.
    """

    __slots__ = (
        *("_client_id", "_greeted", "_on_overflow", "_outbox", "_told_sum"),
        *("flags_due", "muted", "queues", "traffic"),
    )

    def __init__(
        self,
        client_id: str,
        ws: web.WebSocketResponse[bool],
        queues: Sum,
        *,
        on_overflow: Callable[[], None],
        on_stuck: Callable[[], None] = lambda: None,
        waiting: OutboxSum | None = None,
        batch: Batch | None = None,
    ) -> None:
        self.traffic = SocketTraffic()
        self.queues = queues
        self.muted = self.flags_due = False
        self._client_id = client_id
        self._on_overflow = on_overflow
        self._outbox = Outbox(
            ws,
            self.traffic,
            total=waiting,
            batch=batch,
            on_full=self._too_slow,
            on_stuck=on_stuck,
        )
        self._told_sum = 0
        self._greeted = False

    def greet(self, transport: asyncio.Transport | None = None) -> None:
        """Put ``status`` with the ``sid`` before all that waits already, as ComfyUI does.
        ``transport`` is the socket's."""
        self._told_sum = self.queues.total
        self._greeted = True
        self._outbox.begin(Pass(data=status_frame(self._told_sum, self._client_id)), transport)

    def status_changed(self) -> None:
        """Tell the client how many prompts wait or run, on all instances."""
        if self._greeted:  # the greeting has the sum of its moment
            self._told_sum = self.queues.total
            self.put(told_status(self._told_sum))

    def sum_corrected(self) -> None:
        """What the client was told last may be wrong, and no frame of an instance will tell."""
        if self.queues.total != self._told_sum:
            self.status_changed()

    def answer_flags(self, text: str, in_flags: Callable[[str], str]) -> None:
        """An instance's feature flags, if the client waits for them; ``in_flags`` makes of them
        those of all instances."""
        if self.flags_due:
            self.flags_due = False
            self.put(Pass(data=in_flags(text)))

    def put(self, frame: Pass) -> None:
        """Send a frame after all that waits."""
        if self.muted:
            return
        try:
            self._outbox.put(frame)
        except OutboxFullError:
            self._too_slow()

    def close(self) -> None:
        """The client has left: forget what waits for it."""
        self.muted = True
        self._outbox.clear()

    async def end(self) -> None:
        """Write no more."""
        await self._outbox.end()

    def _too_slow(self) -> None:
        self.traffic.too_slow = True
        self.close()
        logger.warning("client {} reads too slowly and is disconnected", self._client_id)
        self._on_overflow()
