"""What one client has of its own: its sockets at instances, and what they alone need.

A client gets a socket of its own at an instance with its first prompt there, its first request to a
custom node's route, or its log subscription, and keeps it until it leaves. From its first frame on
everything that the instance tells the client comes on it; only of scans (``scan_frames.py``) the
shared sockets tell everybody.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from aiohttp import web
from multidict import CIMultiDict

from comfy_proxy.clock import Timer
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.dispatch.second_tries import SecondTries
from comfy_proxy.gateway.custom.askers import Askers
from comfy_proxy.gateway.events.booking import FrameBooking
from comfy_proxy.gateway.events.client_feed import ClientFeed
from comfy_proxy.gateway.events.frames import (
    Began,
    Ended,
    Flags,
    NodeStates,
    OfPrompt,
    Pass,
    Progress,
    Scan,
    Seen,
    Status,
    frame_of,
)
from comfy_proxy.gateway.events.missed_ends import MissedEnds
from comfy_proxy.gateway.events.outbox_sum import OutboxSum
from comfy_proxy.gateway.events.overlap import OVERLAP_S, Overlap
from comfy_proxy.gateway.events.replaced_prompts import ReplacedPrompts
from comfy_proxy.gateway.events.shared_sockets import SharedSockets
from comfy_proxy.gateway.events.sums import OwnSum
from comfy_proxy.gateway.events.told_prompts import ToldPrompts
from comfy_proxy.gateway.events.upstream_client import Query, Upstream
from comfy_proxy.gateway.events.upstreams import Upstreams
from comfy_proxy.gateway.exchange.headers import websocket_headers
from comfy_proxy.gateway.files.made_files import MadeFiles
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.security import query_without_key

_MOST = (Pass, Progress, NodeStates)
"""The frames of which a prompt has hundreds: previews, and how far it is. Nothing is to be done
with them but to tell the client."""


class FlagLimits(Protocol):
    """What feature flags must say of all instances together."""

    def in_flags(self, frame: str) -> str:
        """One instance's frame with feature flags, as a client of all instances is to see it."""

    async def learn(self) -> None:
        """Ask the instances that have not told yet, for a short time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What all clients have in common.

    ``prefixed`` puts an instance into the files of an output; ``connected`` is told of each new
    socket of a client (its id) at an instance; ``waiting`` is what waits for all clients. ``ended``
    is called with the session of one that has left.
    """

    cluster: Cluster
    ledger: Ledger
    made_files: MadeFiles
    askers: Askers
    replaced: ReplacedPrompts
    connected: Callable[[str, Instance], None]
    prefixed: Callable[[Any, Instance], Any]
    limits: FlagLimits
    waiting: OutboxSum
    shared: SharedSockets
    ended: Callable[[Any], Awaitable[None]]


class Owner(Protocol):
    """The client: ``session.py``. ``told`` is what it has been told of its prompts, ``feed`` what
    it is sent, ``request`` its handshake."""

    client_id: str
    first_message: str | None
    farewell: tuple[int, bytes]
    told: ToldPrompts
    feed: ClientFeed
    request: web.Request

    @property
    def deaf(self) -> bool:
        """True if the client is sent nothing any more."""


class OwnSockets:
    """An :class:`UpstreamClient` for one client; ``queues`` is the sum that it is told, ``flags``
    are an instance's feature flags, as it sent them last."""

    def __init__(self, owner: Owner, common: Surroundings) -> None:
        cluster = common.cluster
        self.queues = OwnSum(common.shared.queues)
        self.flags: str | None = None
        self.upstreams = Upstreams(self, cluster, common.prefixed, common.shared.batch)
        self._owner = owner
        self._common = common
        self._booking = FrameBooking(
            owner.client_id,
            common.ledger,
            common.made_files,
            SecondTries.of(cluster, common.ledger),
            common.askers,
            common.replaced,
        )
        self.missed_ends = MissedEnds(
            cluster, owner.told, owner.feed, self.upstreams, self.queues, common.prefixed
        )
        self._overlaps = ByInstance[Overlap]()
        self._timers: set[Timer] = set()
        owner.feed.queues = self.queues

    def __repr__(self) -> str:
        return f"<OwnSockets of {self._owner.client_id}>"

    # --- what the sockets ask ------------------------------------------------------------------

    @property
    def first_message(self) -> str | None:
        return self._owner.first_message

    @property
    def farewell(self) -> tuple[int, bytes]:
        return self._owner.farewell

    @property
    def deaf(self) -> bool:
        return self._owner.deaf

    def handshake(self, instance: Instance) -> tuple[Query, CIMultiDict[str]]:
        """As the client's own was. What the shared socket tells from now on its own may too."""
        if instance not in self.queues:
            self._overlaps[instance] = Overlap()
        settings, request = self._common.cluster.settings, self._owner.request
        query = query_without_key(request.query, settings.api_keys)
        query["clientId"] = self._owner.client_id
        return query, websocket_headers(request, instance, settings)

    # --- what they tell ------------------------------------------------------------------------

    def take(self, upstream: Upstream, seen: Seen) -> None:
        """What an instance sent, in the order in which it came: on record first, then told."""
        instance, told = upstream.instance, self._owner.told
        if instance not in self.queues:
            self._begin(instance)
        if isinstance(seen, _MOST) and not self._overlaps:  # the short way
            if self._booking.book(seen, instance):
                passed = seen if isinstance(seen, Pass) else told.passed(seen, instance)
                if passed is not None:
                    self._owner.feed.put(frame_of(passed))
            return
        if isinstance(seen, Began):
            self.missed_ends.began(seen.prompt_id, instance)
        if isinstance(seen, Ended) and seen.broadcast and not told.knows(seen.prompt_id):
            prompt = self._common.ledger.find(seen.prompt_id)
            if prompt is None or prompt.client_id != self._owner.client_id:
                seen = seen.frame
        if not self._booking.book(seen, instance):
            return
        shown = told.passed(seen, instance) if isinstance(seen, OfPrompt) else seen
        self._show(shown, instance, is_greeting=not upstream.is_connected)

    def _show(self, seen: Seen, instance: Instance, *, is_greeting: bool) -> None:
        feed = self._owner.feed
        match seen:
            case Status(queue_remaining=remaining):
                if (queue := self.queues.get(instance)) is not None:
                    queue.told(remaining)
                if is_greeting:  # the client has had its own
                    feed.sum_corrected()
                else:
                    feed.status_changed()
            case Flags(text=text):
                self.flags = text
                feed.answer_flags(text, self._common.limits.in_flags)
            case Scan() | None:
                return
            case _:
                frame = frame_of(seen)
                overlap = self._overlaps.get(instance) if self._overlaps else None
                if overlap is None or not overlap.is_told(frame.data, by_own=True):
                    feed.put(frame)

    def takes_shared(self, frame: Pass, instance: Instance) -> bool:
        """Whether the client is to be told what the shared socket to ``instance`` tells."""
        if (overlap := self._overlaps.get(instance)) is not None:
            return not overlap.is_told(frame.data, by_own=False)
        return instance not in self.queues

    def _begin(self, instance: Instance) -> None:
        """Its own socket there has told its first frame."""
        self.queues.begin(instance)

        def over() -> None:
            self._overlaps.pop(instance, None)
            self._timers.discard(timer)

        timer = self._common.cluster.clock.call_later(OVERLAP_S, over)
        self._timers.add(timer)

    def connected(self, instance: Instance) -> None:
        """A new socket is there."""
        self._common.connected(self._owner.client_id, instance)

    def lost(self, instance: Instance) -> None:
        """The socket there has ended."""
        self.missed_ends.lost(instance)

    def away(self, instance: Instance) -> None:
        """It cannot be reached: nothing waits there, unless it may go on elsewhere."""
        if self._common.ledger.doubtful(instance):
            return  # they count where they are until it is known whether they go on elsewhere
        if self.queue_lost(instance):
            self._owner.feed.sum_corrected()

    def queue_lost(self, instance: Instance, *, hung: bool = True) -> bool:
        """As of the shared sockets."""
        queue, upstream = self.queues.get(instance), self.upstreams.get(instance)
        if queue is None or upstream is None:
            return False
        if upstream.is_connected and (instance.healthy or not hung):
            return False
        queue.unheard()
        return True

    # --- its end -------------------------------------------------------------------------------

    def removed(self, instance: Instance) -> None:
        """``instance`` has left."""
        self.missed_ends.removed(instance)
        self.queues.removed(instance)
        if (upstream := self.upstreams.remove(instance)) is not None:
            self._common.cluster.spawn(upstream.close())

    async def close(self) -> None:
        """After it the clientId may be used again."""
        self.missed_ends.close()
        for timer in self._timers:
            timer.cancel()
        await self.upstreams.close()
