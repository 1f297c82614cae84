"""Whoever a socket to an instance is for: a client, or all of them together."""

from __future__ import annotations

from typing import Protocol

from multidict import CIMultiDict, MultiMapping

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.events.frames import Seen

Query = MultiMapping[str]
"""Of a URL."""


class Upstream(Protocol):
    """A socket to one instance, as far as its client is concerned."""

    @property
    def instance(self) -> Instance:
        """Where it leads."""

    @property
    def is_connected(self) -> bool:
        """False as well while its first frame is being taken."""


class UpstreamClient(Protocol):
    """The client for which an upstream socket is: what the socket asks it and tells it."""

    @property
    def first_message(self) -> str | None:
        """The client's feature flags, which count as the first message of a socket only; None if
        it has sent none."""

    @property
    def farewell(self) -> tuple[int, bytes]:
        """The code and the reason with which the socket is to be closed."""

    @property
    def deaf(self) -> bool:
        """True if the client is sent nothing any more."""

    def handshake(self, instance: Instance) -> tuple[Query, CIMultiDict[str]]:
        """The query (with the ``clientId``) and the headers of the next handshake there."""

    def take(self, upstream: Upstream, seen: Seen) -> None:
        """What a frame says, in the order in which they came."""

    def connected(self, instance: Instance) -> None:
        """A new socket is there, its first frame read."""

    def lost(self, instance: Instance) -> None:
        """A socket that was there has ended."""

    def away(self, instance: Instance) -> None:
        """An attempt to connect has failed, and not because the instance is busy."""
