"""A page of ``GET /api/assets`` of one instance, and its assets as they are written again.

An asset may have much in its metadata, which nobody here looks at: that stays text. A page of 48 MB
read into objects stopped the event loop for 0.5 s, and for seconds to collect them again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final

from comfy_proxy.full_collections import NoFullCollection
from comfy_proxy.gateway.assets.cursor import is_cursor
from comfy_proxy.gateway.exchange.fanout import Answer
from comfy_proxy.json_listing import Listing
from comfy_proxy.json_scanner import ANY, JsonScanner
from comfy_proxy.json_steps import feed
from comfy_proxy.lenient_json import dumps_exact, loads_exact

MAX_PAGE = 500
"""ComfyUI gives so many assets at once; a larger ``limit`` is its 400."""
LONG_BYTES: Final = 4_096
"""Bytes of an asset, and of a member of _UNREAD in it: if both have so many, that stays text."""
MANY_BRACKETS: Final = 256
"""Brackets in an asset from which on its metadata stays text too. A client may have chosen it to be
so deep (900) that it cannot be read here, or be read and not written: no asset would be listed."""
_UNREAD: Final = ("user_metadata", "metadata")


@dataclass(frozen=True, slots=True)
class Unread:
    """The text of a value as its instance wrote it."""

    text: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class AssetPage:
    """``total`` counts all that the filters let pass; ``next_cursor`` is None at the end, and where
    the order has no cursors (``last_access_time``). ``quiet`` keeps full garbage collections off
    for as long as a long page exists."""

    assets: list[Any] = field(repr=False)
    total: int
    has_more: bool
    next_cursor: str | None
    quiet: NoFullCollection | None = field(default=None, repr=False, compare=False)


async def read_page(answer: Answer) -> AssetPage | None:
    """None for what is no page of assets. Between two steps of a long one the event loop has its
    turn."""
    if answer.status != 200:
        return None
    text, listing = answer.body, Listing(answer.body, "assets")
    quiet, assets = NoFullCollection.for_bytes(len(text)), []
    try:
        for spans in listing.steps():
            assets += [await _asset(text[start:end]) for start, end in spans]
            if quiet is not None:
                await asyncio.sleep(0)
    except ValueError:
        return None
    if not listing.found:
        return None
    total, told = listing.rest.get("total"), listing.rest.get("next_cursor")
    cursor = told if is_cursor(told) else None
    return AssetPage(
        assets=assets,
        total=total if isinstance(total, int) else len(assets),
        has_more=listing.rest.get("has_more") is True or cursor is not None,
        next_cursor=cursor,
        quiet=quiet,
    )


def asset_text(asset: Any) -> bytes:
    """The JSON of one as ComfyUI writes it, with what was not read as it came."""
    if not isinstance(asset, dict) or not any(type(one) is Unread for one in asset.values()):
        return dumps_exact(asset)
    members = [
        b"%s: %s" % (dumps_exact(key), one.text if type(one) is Unread else dumps_exact(one))
        for key, one in asset.items()
    ]
    return b"{%s}" % b", ".join(members)


async def _asset(text: bytes) -> Any:
    """The asset that ``text`` is, with its long metadata as :class:`Unread`. Raises ValueError."""
    if not _is_long(text):
        return loads_exact(text)
    scanner = JsonScanner({ANY: {}})
    await feed(scanner, text)
    root = scanner.result()
    if root is None or not root.is_object:
        return loads_exact(text)
    asset: dict[str, Any] = {}
    for member in root.members or ():
        name, part = member.name(), text[member.start : member.end]
        if name is None:  # too long for the scanner
            return loads_exact(text)
        stays = name in _UNREAD and _is_long(part)
        asset[name] = Unread(part) if stays else loads_exact(part)
    return asset


def _is_long(text: bytes) -> bool:
    return len(text) >= LONG_BYTES or text.count(b"[") + text.count(b"{") >= MANY_BRACKETS
