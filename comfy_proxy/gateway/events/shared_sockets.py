"""The proxy's own sockets, one to each instance: what they tell is told to all clients that have
none of their own there.

ComfyUI sends ``status`` and broadcasts to every socket, so one socket of ours hears them for
everybody: each frame is read once, however many clients look on. What is addressed to somebody
never comes here, because nobody knows these sockets' clientIds: each is made for one handshake
(PROTOCOL.md trap 2). Pictures of prompts without a client_id do come; ``frames.py`` drops them.

The sockets are begun with the first client, and kept until the application ends: the next client
need not wait for any instance.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, Final, Protocol

from aiohttp import WSCloseCode
from multidict import CIMultiDict, MultiDict

from comfy_proxy.clock import Timer
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.comfyui_frames import FEATURE_FLAGS
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.gateway.events.batch import Batch
from comfy_proxy.gateway.events.booking import FrameBooking
from comfy_proxy.gateway.events.frames import Ended, Flags, Seen, Status
from comfy_proxy.gateway.events.sums import QueueSum
from comfy_proxy.gateway.events.upstream_client import Query, Upstream
from comfy_proxy.gateway.events.upstreams import SILENCE_S, Upstreams
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.tracing import untraced

CONNECT_TIMEOUT_S = 5.0
"""Seconds that a client waits for a first instance. Beyond it its handshake is answered 503."""
JOIN_TIMEOUT_S = 1.0
"""Seconds that the first client then waits for the other instances, whose queues are part of its
greeting. Beyond it it is greeted, and they join later. Who comes after it waits for none."""


class Audience(Protocol):
    """Who is told what the shared sockets hear."""

    def told(self, seen: Seen, instance: Instance) -> None:
        """A frame; the sum of the queues has changed already if it is a ``status``."""

    def greeted(self, instance: Instance) -> None:
        """A new socket there has told how many prompts wait or run: the sum may be another one."""

    def lost(self, instance: Instance) -> None:
        """Nothing is heard of it: the sum may be another one, the end of a scan was missed."""


class SharedSockets:
    """``queues`` is the sum that they tell. ``booking`` puts on record what they tell; ``prefixed``
    puts an instance into the files of an output. ``batch`` is for what all clients are told, on
    whatever sockets it came."""

    def __init__(
        self,
        cluster: Cluster,
        ledger: Ledger,
        *,
        audience: Audience,
        booking: FrameBooking,
        prefixed: Callable[[Any, Instance], Any],
    ) -> None:
        self.batch = Batch()
        self.queues = QueueSum(ledger)
        self._cluster = cluster
        self._listener = _Listener(self.queues, ledger, audience, booking)
        self._upstreams = Upstreams(self._listener, cluster, prefixed, self.batch)
        self._doubts = ByInstance[Timer]()
        self._started = False
        self._joined = False

    def __repr__(self) -> str:
        return f"<SharedSockets {self.queues}>"

    def get(self, instance: Instance) -> Upstream | None:
        """The socket there; None if there is none yet."""
        return self._upstreams.get(instance)

    def flags(self) -> str | None:
        """An instance's feature flags, as it sent them: of those that are connected the first one's
        that has any."""
        known = self._listener.flags
        for instance in self._cluster.instances:
            upstream = self._upstreams.get(instance)
            if instance in known and upstream is not None and upstream.is_connected:
                return known[instance]
        return None

    async def reached(self, gone: Callable[[], bool]) -> bool:
        """True as soon as any instance has a socket; False if none takes one, or ``gone()``. Begins
        them, or has them tried again now, if none is there."""
        if not self._started and not self._listener.deaf:
            self._started = True
            self._cluster.instances.each(self._add)
        sockets = self._upstreams
        if not self._any_connected():
            failures = {one: one.failures for one in sockets}
            for one in sockets:
                one.retry.set()
            await sockets.until(
                lambda: (
                    gone()
                    or self._any_connected()
                    or all(one.failures > failures.get(one, 0) for one in sockets)
                ),
                CONNECT_TIMEOUT_S,
            )
        if gone() or not self._any_connected():
            return False
        if not self._joined:
            await sockets.until(
                lambda: gone() or all(one.attempted or not one.instance.healthy for one in sockets),
                JOIN_TIMEOUT_S,
            )
            self._joined = True
        return not gone()

    def _any_connected(self) -> bool:
        return any(one.is_connected for one in self._upstreams)

    def look_again(self) -> None:
        """Who waits for an instance may have gone."""
        self._upstreams.look_again()

    def wake(self, instance: Instance) -> None:
        """``instance`` answered a check: it may be dialled."""
        if (upstream := self._upstreams.get(instance)) is not None:
            upstream.retry.set()

    def queue_lost(self, instance: Instance, *, hung: bool = True) -> bool:
        """What its frames told is old if none can come; nobody is told. True if so.

        ``hung``: it counts as well if frames are not to be expected, because its circuit is open.
        """
        upstream = self._upstreams.get(instance)
        if upstream is None or (upstream.is_connected and (instance.healthy or not hung)):
            return False
        self.queues.unheard(instance)
        return True

    def removed(self, instance: Instance) -> None:
        """``instance`` has left."""
        if (timer := self._doubts.pop(instance, None)) is not None:
            timer.cancel()
        self.queues.removed(instance)
        if (upstream := self._upstreams.remove(instance)) is not None:
            self._cluster.spawn(upstream.close(), context=untraced())

    async def close(self) -> None:
        """End them; none is begun any more."""
        self._listener.deaf = True
        for timer in self._doubts.values():
            timer.cancel()
        self._upstreams.abandon()
        await self._upstreams.close()

    def _add(self, instance: Instance) -> None:
        if not self._listener.deaf:
            self.queues.joined(instance)
            self._upstreams.open(instance)
            instance.prompts.on_load.append(lambda: self._load_told(instance))

    def _load_told(self, instance: Instance) -> None:
        """Somebody was told how long the queue of ``instance`` is. If that is not what the socket
        here has told it has SILENCE_S to tell it; beyond that it is replaced, because ComfyUI
        sends nothing to anybody while a client of its own blocks it."""
        if instance not in self._doubts and self._is_wrong(instance):
            asked_at = self._cluster.clock.monotonic()

            def check() -> None:
                self._doubts.pop(instance, None)
                upstream = self._upstreams.get(instance)
                if upstream and upstream.heard_at < asked_at and self._is_wrong(instance):
                    self._cluster.spawn(upstream.renew(), context=untraced())

            self._doubts[instance] = self._cluster.clock.call_later(SILENCE_S, check)

    def _is_wrong(self, instance: Instance) -> bool:
        upstream = self._upstreams.get(instance)
        if upstream is None or not upstream.is_connected or self._listener.deaf:
            return False
        return self.queues[instance].remaining != instance.prompts.queue_remaining


class _Listener:
    """An :class:`UpstreamClient` for everybody. ``flags`` are the instances' feature flags, as they
    were sent; ``deaf``: the application ends."""

    first_message: Final = FEATURE_FLAGS
    farewell: Final = (int(WSCloseCode.GOING_AWAY), b"")

    def __init__(
        self, queues: QueueSum, ledger: Ledger, audience: Audience, booking: FrameBooking
    ) -> None:
        self.flags = ByInstance[str]()
        self.deaf = False
        self._queues = queues
        self._ledger = ledger
        self._audience = audience
        self._booking = booking

    def handshake(self, instance: Instance) -> tuple[Query, CIMultiDict[str]]:
        """A clientId that nobody has or can guess, new for each socket."""
        return MultiDict(clientId=uuid.uuid4().hex), CIMultiDict()

    def take(self, upstream: Upstream, seen: Seen) -> None:
        """On record first, then told."""
        instance = upstream.instance
        if isinstance(seen, Ended) and not self._is_nobodys(seen.prompt_id):
            seen = seen.frame
        if not self._booking.book(seen, instance):
            return
        if isinstance(seen, Flags):
            self.flags[instance] = seen.text
        if isinstance(seen, Status):
            self._queues.told(instance, seen.queue_remaining)
            if not upstream.is_connected:
                self._audience.greeted(instance)
                return
        self._audience.told(seen, instance)

    def connected(self, instance: Instance) -> None:
        """The end of a scan may have been missed."""
        self._audience.lost(instance)

    def lost(self, instance: Instance) -> None:
        """It may be another process when it is back."""
        self.flags.pop(instance, None)

    def away(self, instance: Instance) -> None:
        """Nothing waits there, unless it may go on elsewhere."""
        if not self._ledger.doubtful(instance):
            self._queues.unheard(instance)
        self._audience.lost(instance)

    def _is_nobodys(self, prompt_id: str) -> bool:
        """ComfyUI tells everybody how a prompt without a client_id was interrupted."""
        prompt = self._ledger.find(prompt_id)
        return prompt is not None and prompt.client_id is None
