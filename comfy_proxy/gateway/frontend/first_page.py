"""Static text of the frontend for clients that take it compressed.

A page load of the frontend of 2026 is 20 MB of scripts, styles and JSON, at each load and reload:
ComfyUI compresses nothing and forbids to store it. Here each file is packed once, and kept by its
path and the version that the instance names (ETag, else the date of its last change). At each
request the instance is asked whether it still has that version: a new one shows at once, an answer
is never given without the instance's own word to this very client, and a reload costs 304s.

Anything else than a plain GET or HEAD of a file in the allow list (``static_text.py``), by a client
that names a coding, is forwarded untouched; and so is an answer that is no text, has a coding
already or is of no known version. ``COMPRESS=false`` forwards all.
"""

from __future__ import annotations

from functools import partial

from aiohttp import hdrs, web

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.exchange.accept_encoding import chosen_coding
from comfy_proxy.gateway.exchange.forward import Forwarder, accounted
from comfy_proxy.gateway.exchange.target import client_target
from comfy_proxy.gateway.frontend import static_text, versions
from comfy_proxy.gateway.frontend.codings import CODINGS
from comfy_proxy.gateway.frontend.kept import Kept
from comfy_proxy.gateway.frontend.packing import Packing
from comfy_proxy.gateway.frontend.text_exchange import Shelf, TextExchange, Wanted
from comfy_proxy.gateway.routes import Match
from comfy_proxy.metrics.live import StaticTextTotals


class FirstPage:
    """One for each gateway. ``shelf`` holds what is packed, and counts what became of requests."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.shelf = Shelf(kept=Kept(), packing=Packing(cluster.clock))

    def forwarder(self, request: web.Request, match: Match) -> Forwarder | None:
        """How the primary's answer is got for ``request``, whose row is ``match``; None if it is
        to be forwarded as it is."""
        settings = self._cluster.settings
        if not settings.compress or hdrs.ACCEPT_ENCODING not in request.headers:
            return None
        if not static_text.is_static_text(request, match):
            return None
        coding = chosen_coding(request, tuple(CODINGS))
        tags = versions.tags_asked(request)
        if coding is None or tags is None or not static_text.is_plain(request, settings):
            return None
        wanted = Wanted(
            target=client_target(request, settings),
            coding=coding,
            tags=tags,
            since=None if tags else request.headers.get(hdrs.IF_MODIFIED_SINCE),
            made=static_text.is_made(match),
        )
        return partial(self._answer, wanted)

    @property
    def totals(self) -> StaticTextTotals:
        """What became of requests since the start, for the metrics."""
        return StaticTextTotals(**self.shelf.answers, saved_bytes=self.shelf.saved_bytes)

    async def close(self) -> None:
        """End what is being packed."""
        await self.shelf.packing.close()

    async def _answer(
        self, wanted: Wanted, request: web.Request, instance: Instance, cluster: Cluster
    ) -> web.StreamResponse:
        """What to answer for ``instance``, or its own answer, sent already. Raises InstanceError if
        that did not come whole: nothing was sent then, and another instance can be asked."""
        with cluster.hang_watch.over(instance, replaceable=True) as watched:
            exchange = TextExchange(
                self.shelf, wanted, request, instance, cluster, began=watched.answered
            )
            return await accounted(request, instance, "forward", exchange.run)
