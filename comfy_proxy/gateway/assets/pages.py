"""A page of ``GET /api/assets`` of one instance. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from comfy_proxy.gateway.assets.cursor import is_cursor
from comfy_proxy.gateway.exchange.fanout import Answer
from comfy_proxy.gateway.exchange.native import load

MAX_PAGE = 500
"""ComfyUI gives so many assets at once; a larger ``limit`` is its 400."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AssetPage:
    """``total`` counts all that the filters let pass; ``next_cursor`` is None at the end, and where
    the order has no cursors (``last_access_time``)."""

    assets: list[Any] = field(repr=False)
    total: int
    has_more: bool
    next_cursor: str | None


def read_page(answer: Answer) -> AssetPage | None:
    """None for what is no page of assets."""
    data = load(answer)
    assets = data.get("assets") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(assets, list):
        return None
    total, told = data.get("total"), data.get("next_cursor")
    cursor = told if is_cursor(told) else None
    return AssetPage(
        assets=assets,
        total=total if isinstance(total, int) else len(assets),
        has_more=data.get("has_more") is True or cursor is not None,
        next_cursor=cursor,
    )
