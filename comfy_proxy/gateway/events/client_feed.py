"""What one client is sent: its greeting, the sum of the queues, and the instances' frames."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from loguru import logger

from comfy_proxy.clock import Clock
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.events.frames import Flags, Pass, Scan, Seen, Status, status_frame
from comfy_proxy.gateway.events.outbox import Outbox, OutboxFullError
from comfy_proxy.gateway.events.outbox_sum import OutboxSum
from comfy_proxy.gateway.events.scan_frames import ScanFrames
from comfy_proxy.gateway.events.sums import QueueSum
from comfy_proxy.gateway.exchange.socket_traffic import SocketTraffic


class ClientFeed:
    """Frames for the socket ``ws`` of ``client_id``; :meth:`run` writes them until cancelled.

    ``queues`` is the sum that the client is told. ``in_flags`` makes of one instance's feature
    flags those of all. ``on_overflow`` is called once if the client reads too slowly: what waits
    is then thrown away, and nothing more is put in; ``on_stuck`` if its connection has to be cut at
    once. ``waiting`` is what waits for all clients. ``muted``: the client is sent nothing any more.
    """

    def __init__(
        self,
        client_id: str,
        ws: web.WebSocketResponse[bool],
        queues: QueueSum,
        *,
        clock: Clock,
        in_flags: Callable[[str], str],
        on_overflow: Callable[[], None],
        on_stuck: Callable[[], None] = lambda: None,
        waiting: OutboxSum | None = None,
    ) -> None:
        self.traffic = SocketTraffic()
        self.queues = queues
        self.scans = ScanFrames(lambda text: self.put(Pass(data=text)), clock)
        self.muted = False
        self._client_id = client_id
        self._in_flags = in_flags
        self._on_overflow = on_overflow
        self._outbox = Outbox(
            ws, self.traffic, total=waiting, on_full=self._too_slow, on_stuck=on_stuck
        )
        self._told_sum = 0
        self._greeted = False
        self._flags_answered = False

    def greet(self) -> None:
        """Put ``status`` with the ``sid`` before all that waits already, as ComfyUI does."""
        self._told_sum = self.queues.total
        self._outbox.put_first(Pass(data=status_frame(self._told_sum, self._client_id)))
        self._greeted = True

    async def run(self) -> None:
        """Write what is put in, until the client has gone."""
        try:
            await self._outbox.run()
        except ConnectionError:
            logger.debug("client {} has gone", self._client_id)

    def take(self, seen: Seen, instance: Instance, *, is_greeting: bool) -> None:
        """What ``instance`` sent. ``is_greeting``: it is the first frame of a socket there."""
        match seen:
            case Status(queue_remaining=remaining):
                self.queues.told(instance, remaining)
                if is_greeting:  # the client has had its own
                    self.sum_corrected()
                else:
                    self.status_changed()
            case Flags(text=text):
                if not self._flags_answered:
                    self._flags_answered = True
                    self.put(Pass(data=self._in_flags(text)))
            case Scan(kind=kind, data=data, text=text):
                self.scans.take(kind, data, text, instance)
            case Pass():
                self.put(seen)
            case None:
                return
            case _:
                self.put(seen.frame)

    def status_changed(self) -> None:
        """Tell the client how many prompts wait or run, on all instances."""
        if self._greeted:  # the greeting has the sum of its moment
            self._told_sum = self.queues.total
            self.put(Pass(data=status_frame(self._told_sum)))

    def sum_corrected(self) -> None:
        """What the client was told last may be wrong, and no frame of an instance will tell."""
        if self.queues.total != self._told_sum:
            self.status_changed()

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

    def _too_slow(self) -> None:
        self.traffic.too_slow = True
        self.close()
        logger.warning("client {} reads too slowly and is disconnected", self._client_id)
        self._on_overflow()
