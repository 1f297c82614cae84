"""``GET /api/assets``: the assets of all instances as one list, in one order, with one cursor.

Each instance is asked for its own list, with the client's filters and order, page by page as far as
the merged page needs. Of twins (``twins.py``) one is shown. ``total`` is the sum, less the hidden
ones that the filters let pass.

An instance without assets is left out; if none has any, the first one's own 404 is the answer, and
so is an instance's refusal of a query that it does not understand. While one is away the answer is
503 rather than half a list.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.assets.asking import AssetAsking
from comfy_proxy.gateway.assets.cursor import Cursor, Order
from comfy_proxy.gateway.assets.filters import Filters, without_paging
from comfy_proxy.gateway.assets.marks import marked
from comfy_proxy.gateway.assets.pages import MAX_PAGE, asset_text
from comfy_proxy.gateway.assets.streams import AssetStream, Refusal, Shown, merged
from comfy_proxy.gateway.assets.twins import MANY, AssetTwins, Entries
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.exchange.fanout import Answer
from comfy_proxy.gateway.exchange.pieces import Piece, listed
from comfy_proxy.gateway.files.file_holders import FileHolders
from comfy_proxy.gateway.routes import Match
from comfy_proxy.gateway.views.by_pattern import Views
from comfy_proxy.json_steps import made_in_turns
from comfy_proxy.lenient_json import dumps_exact

DEFAULT_LIMIT = 20
_SORTS = ("name", "created_at", "updated_at", "size", "last_access_time")


class MergedAssets:
    """The lists; who has each asset that is shown is noted in ``files``."""

    def __init__(self, files: FileHolders, asking: AssetAsking, twins: AssetTwins) -> None:
        self._cluster = files.cluster
        self._storage = files.storage
        self._owners = files.asset_owners
        self._asking = asking
        self._twins = twins
        self.views: Views = {"/assets": self.answer}

    async def answer(self, request: web.Request, match: Match) -> web.StreamResponse:
        """See the module. Raises UnavailableError."""
        wanted = _Wanted.of(request)
        if wanted is None:  # ComfyUI's own 400
            return native.relayed(await self._asking.refused(request))
        streams = self._streams(request, wanted)
        try:
            hidden, _ = await asyncio.gather(
                self._twins.hidden(request, self._cluster.instances),
                asyncio.gather(*(stream.fill() for stream in streams)),
            )
            having = [stream for stream in streams if not stream.is_without]
            if not having:
                return native.relayed(streams[0].answer)
            shown = await merged(having, wanted.order, hidden, wanted.skip, wanted.limit)
            total = await self._total(request, having, hidden)
        except Refusal as refusal:
            return native.relayed(refusal.answer)
        for instance, asset in shown.assets:
            self._owners.record(asset.get("id") if isinstance(asset, dict) else None, instance)
        pieces = await self._pieces(wanted, having, shown, total)
        return await native.reply_pieces(request, pieces, having[0].answer)

    def _streams(self, request: web.Request, wanted: _Wanted) -> list[AssetStream]:
        passed = None if wanted.cursor is None else wanted.order.passed(wanted.cursor.last)
        pages = {} if wanted.cursor is None else wanted.cursor.pages
        first = min(MAX_PAGE, wanted.skip + wanted.limit + 1)
        return [
            AssetStream(
                instance,
                partial(self._ask, request, instance, wanted.filters),
                wanted.order,
                page_size=first,
                after=pages.get(instance.id),
                passed=passed,
            )
            for instance in self._cluster.instances
        ]

    async def _ask(
        self,
        request: web.Request,
        instance: Instance,
        filters: list[tuple[str, str]],
        place: Mapping[str, str],
    ) -> Answer:
        path = f"/api/assets?{urlencode([*filters, *place.items()])}"
        return await self._asking.one(request, instance, "GET", path)

    async def _total(
        self,
        request: web.Request,
        streams: list[AssetStream],
        hidden: Mapping[Instance, Entries],
    ) -> int:
        left_out = await asyncio.gather(
            *(self.passing(request, one.instance, hidden[one.instance]) for one in streams)
        )
        return sum(one.total for one in streams) - sum(map(len, left_out))

    async def passing(self, request: web.Request, instance: Instance, entries: Entries) -> Entries:
        """Those of ``entries`` of ``instance`` that the request's filters let pass.

        The instance is asked if that cannot be told here. Raises UnavailableError.
        """
        filters = Filters.of(request.rel_url.query)
        work = partial(filters.passing, entries)
        entries = await asyncio.to_thread(work) if len(entries) > MANY else work()
        if filters.is_told or not entries:
            return entries
        query, order = without_paging(request.rel_url.query), Order(sort="name", descending=False)
        ask = partial(self._ask, request, instance, query)
        stream = AssetStream(instance, ask, order, page_size=MAX_PAGE)
        found: dict[str, Any] = {}
        await stream.fill()
        while (asset := stream.head) is not None:
            asset_id = asset.get("id") if isinstance(asset, dict) else None
            if isinstance(asset_id, str) and asset_id in entries:
                found[asset_id] = entries[asset_id]
            await stream.advance()
        return found

    async def _pieces(
        self, wanted: _Wanted, streams: list[AssetStream], shown: Shown, total: int
    ) -> list[Piece]:
        texts = await made_in_turns(
            asset_text(marked(asset, instance, self._storage)) for instance, asset in shown.assets
        )
        rest: dict[str, Any] = {"total": max(total, 0), "has_more": shown.has_more}
        if shown.has_more and wanted.has_cursors:
            pages = {stream.instance.id: stream.place for stream in streams}
            cursor = Cursor(order=wanted.order, last=shown.last, pages=pages)
            rest["next_cursor"] = cursor.text()
        assets = await listed([text] for text in texts)
        return [b'{"assets": [', *assets, b"], ", dumps_exact(rest)[1:]]


class _Wanted:
    """What a client asks for; the filters are left to the instances."""

    def __init__(self, request: web.Request, limit: int, skip: int, cursor: Cursor | None) -> None:
        query = request.rel_url.query
        self.order = _order(request)
        self.limit = limit
        self.skip = skip
        self.cursor = cursor
        self.filters = without_paging(query)
        self.filters += [(name, query[name]) for name in ("sort", "order") if name in query]

    @classmethod
    def of(cls, request: web.Request) -> _Wanted | None:
        """None for what ComfyUI refuses: a cursor of another order, or of nobody; odd numbers."""
        query = request.rel_url.query
        try:
            limit, skip = int(query.get("limit", DEFAULT_LIMIT)), int(query.get("offset", 0))
        except ValueError:
            return None
        if not 1 <= limit <= MAX_PAGE or skip < 0 or query.get("sort", _SORTS[0]) not in _SORTS:
            return None
        if "after" not in query:
            return cls(request, limit, skip, None)
        cursor = Cursor.of(query["after"])
        if cursor is None or cursor.order != _order(request):
            return None
        return cls(request, limit, 0, cursor)

    @property
    def has_cursors(self) -> bool:
        """ComfyUI has none for this one order."""
        return self.order.sort != "last_access_time"


def _order(request: web.Request) -> Order:
    query = request.rel_url.query
    return Order(
        sort=query.get("sort", "created_at"), descending=query.get("order", "desc") == "desc"
    )
