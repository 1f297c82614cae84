"""One cursor over the lists of all instances: where each of them goes on. Pure.

It is opaque to clients, as ComfyUI's is: base64 of JSON. In it are the order, ``[value, id]`` of
the last asset that was looked at, and for each instance the cursor of the page on which its next
one stands. What stands on that page before the last asset has been shown already: it is passed
over by comparing, so that assets that come and go in the meantime do not shift anything.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from comfy_proxy.lenient_json import dumps, loads

_OURS = "~"
"""The first character of our cursors: one that an instance made never has it."""
MAX_PAGES = 4096
"""Characters of a cursor with the cursors of the instances in it. A longer one would not fit into a
request line, so it goes without them: then each list is read from its beginning, which is slow."""


def is_cursor(text: Any) -> bool:
    """Whether ``text`` may be a cursor of an instance: what is no ASCII came from nobody."""
    return isinstance(text, str) and text.isascii()


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """``sort`` is the name of a field; ComfyUI orders by it and then by ``id``, both alike."""

    sort: str
    descending: bool

    def key(self, asset: Any) -> Key:
        """The place of ``asset``; what has no value stands before all others, as in SQLite."""
        data = asset if isinstance(asset, dict) else {}
        return _key(data.get(self.sort), data.get("id"))

    def is_behind(self, key: Key, other: Key) -> bool:
        """Whether ``key`` comes after ``other`` in this order."""
        return key < other if self.descending else key > other

    def value(self, asset: Any) -> list[Any]:
        """What :meth:`passed` makes a key of."""
        data = asset if isinstance(asset, dict) else {}
        return [data.get(self.sort), data.get("id")]

    def passed(self, value: list[Any]) -> Key:
        return _key(*value)


Key = tuple[int, float, bytes, bytes]
"""Ordered as SQLite orders: nothing, numbers, texts by their bytes; then the id."""


def _key(value: Any, asset_id: Any) -> Key:
    own_id = asset_id.encode(errors="surrogatepass") if isinstance(asset_id, str) else b""
    if isinstance(value, str):
        return 2, 0.0, value.encode(errors="surrogatepass"), own_id
    if isinstance(value, int | float) and value == value:  # NaN has no place among the others
        return 1, _float(value), b"", own_id
    return 0, 0.0, b"", own_id


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


@dataclass(frozen=True, kw_only=True, slots=True)
class Cursor:
    """``last`` as of :meth:`Order.value`; ``pages`` are cursors by the ids of their instances, None
    for the first page."""

    order: Order
    last: list[Any]
    pages: Mapping[str, str | None]

    def text(self) -> str:
        """As clients get it."""
        text = self._text(self.pages)
        return text if len(text) <= MAX_PAGES else self._text({})

    def _text(self, pages: Mapping[str, str | None]) -> str:
        data = [self.order.sort, self.order.descending, self.last, dict(pages)]
        return _OURS + base64.urlsafe_b64encode(dumps(data)).decode().rstrip("=")

    @classmethod
    def of(cls, text: str) -> Cursor | None:
        """None if it is none of ours."""
        if not text.startswith(_OURS):
            return None
        try:
            raw = base64.urlsafe_b64decode(text[len(_OURS) :] + "=" * (-(len(text) - 1) % 4))
            data = loads(raw)
        except ValueError:
            return None
        match data:
            case [str(sort), bool(descending), [_, _] as last, dict(pages)]:
                if all(page is None or is_cursor(page) for page in pages.values()):
                    order = Order(sort=sort, descending=descending)
                    return cls(order=order, last=last, pages=pages)
        return None
