"""The list of one instance, read as far as it is needed, and several of them merged."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.assets.asking import lacks_assets
from comfy_proxy.gateway.assets.cursor import Key, Order
from comfy_proxy.gateway.assets.pages import MAX_PAGE, AssetPage, read_page
from comfy_proxy.gateway.assets.twins import Entries
from comfy_proxy.gateway.exchange.fanout import Answer

Asking = Callable[[Mapping[str, str]], Awaitable[Answer]]
"""Asks the instance for the page at these parameters (``limit``, ``after``, ``offset``)."""


class Refusal(Exception):  # noqa: N818
    """An instance with assets refuses the question: ``answer`` is what the client is to see."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class AssetStream:
    """The assets of ``instance`` in ``order``, from the page ``after`` on, those behind ``passed``.

    :meth:`fill` first; then ``head`` is the next one, None at the end.
    """

    def __init__(
        self,
        instance: Instance,
        ask: Asking,
        order: Order,
        *,
        page_size: int,
        after: str | None = None,
        passed: Key | None = None,
    ) -> None:
        self.instance = instance
        self.place = after
        """The cursor of the page on which the next asset stands."""
        self.total = 0
        self.is_without = False
        """True if the instance has no assets; then there is only its ``answer``."""
        self.answer: Answer
        self._ask = ask
        self._order = order
        self._page_size = page_size
        self._passed = passed
        self._assets: list[Any] = []
        self._at = 0
        self._read = 0
        self._page: AssetPage | None = None
        self._is_stuck = False  # it gives the same page again and again

    @property
    def head(self) -> Any | None:
        return self._assets[self._at] if self._at < len(self._assets) else None

    async def advance(self) -> None:
        """Go on to the next. Raises UnavailableError, Refusal."""
        self._at += 1
        await self.fill()

    async def fill(self) -> None:
        """Ask for pages until there is a next asset, or no more page.

        Raises UnavailableError; Refusal for what is neither a page nor an instance without assets.
        """
        while self._at >= len(self._assets) and (place := self._next_place()) is not None:
            answer = await self._ask(place)
            page = await read_page(answer)
            if page is None:
                self._not_a_page(answer)
                return
            if page == self._page:
                self._is_stuck = True
                return
            self.answer, self.total, self._page = answer, page.total, page
            self.place = place.get("after")
            self._read += len(page.assets)
            self._assets, self._at = list(filter(self._is_new, page.assets)), 0
            self._page_size = MAX_PAGE

    def _next_place(self) -> Mapping[str, str] | None:
        limit = {"limit": str(self._page_size)}
        if self.is_without or self._is_stuck:
            return None
        if (page := self._page) is None:
            return limit if self.place is None else {**limit, "after": self.place}
        if page.next_cursor is not None:
            return {**limit, "after": page.next_cursor}
        if page.has_more and page.assets and self.place is None:
            return {**limit, "offset": str(self._read)}
        return None

    def _not_a_page(self, answer: Answer) -> None:
        if self._page is not None or not (answer.status == 200 or lacks_assets(answer)):
            raise Refusal(answer)
        self.answer, self.is_without = answer, True

    def _is_new(self, asset: Any) -> bool:
        if asset is None:
            return False
        passed = self._passed
        return passed is None or self._order.is_behind(self._order.key(asset), passed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A page of all: each asset with its instance. ``last`` is what was looked at last, as of
    ``Order.value``."""

    assets: list[tuple[Instance, Any]]
    last: list[Any]
    has_more: bool


async def merged(
    streams: Sequence[AssetStream],
    order: Order,
    hidden: Mapping[Instance, Entries],
    skip: int,
    limit: int,
) -> Shown:
    """``limit`` assets of filled ``streams`` behind the first ``skip``, without the ``hidden``.

    Raises UnavailableError, Refusal.
    """
    shown: list[tuple[Instance, Any]] = []
    last: list[Any] = [None, None]
    seen = 0
    while (stream := _first(streams, order)) is not None:
        asset = stream.head
        asset_id = asset.get("id") if isinstance(asset, dict) else None
        is_hidden = isinstance(asset_id, str) and asset_id in hidden[stream.instance]
        if not is_hidden and len(shown) == limit:
            return Shown(assets=shown, last=last, has_more=True)
        last = order.value(asset)
        if not is_hidden:
            seen += 1
            if seen > skip:
                shown.append((stream.instance, asset))
            if seen % MAX_PAGE == 0:
                await asyncio.sleep(0)  # others have their turn in a long way to a far offset
        await stream.advance()
    return Shown(assets=shown, last=last, has_more=False)


def _first(streams: Sequence[AssetStream], order: Order) -> AssetStream | None:
    """The one whose next asset comes first; of equal ones the first of ``streams``."""
    found: tuple[Key, AssetStream] | None = None
    for stream in streams:
        if (asset := stream.head) is None:
            continue
        key = order.key(asset)
        if found is None or order.is_behind(found[0], key):
            found = key, stream
    return None if found is None else found[1]
