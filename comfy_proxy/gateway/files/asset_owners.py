"""Which instance has an asset, learnt from all that tells of asset ids.

Each ComfyUI of 2026 that runs with its asset database gives every file an id, a random UUID, so no
two instances ever give the same one. The ids of results are told by ``executed`` frames, histories
and jobs; the others by the answers to uploads and by lists.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from comfy_proxy.cluster.instance import Instance

MAX_ASSETS = 50_000
"""How many ids are on record; beyond, the one that was told longest ago goes. An id that is on no
record is asked for at all instances."""

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def is_asset_id(text: object) -> bool:
    """Whether ComfyUI takes ``text`` for the id of an asset: a hyphenated UUID, in any case."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


class AssetOwners:
    """Asset id → the instance that has it."""

    def __init__(self, limit: int = MAX_ASSETS) -> None:
        self._limit = limit
        self._owners: OrderedDict[str, Instance] = OrderedDict()

    def __repr__(self) -> str:
        return f"<AssetOwners of {len(self._owners)} assets>"

    def record(self, asset_id: object, instance: Instance) -> None:
        """``instance`` has told this id; nothing changes if it is none."""
        if instance.left or not isinstance(asset_id, str) or not is_asset_id(asset_id):
            return
        key = asset_id.lower()
        self._owners[key] = instance
        self._owners.move_to_end(key)
        if len(self._owners) > self._limit:
            self._owners.popitem(last=False)

    def of(self, asset_id: str) -> Instance | None:
        """The instance that told it; None if the id is on no record."""
        return self._owners.get(asset_id.lower())

    def removed(self, instance: Instance) -> None:
        """It has left, and has none any more."""
        self._owners = OrderedDict(one for one in self._owners.items() if one[1] is not instance)

    def forget(self, asset_id: str) -> None:
        """Its instance does not know it any more: the next request asks all of them."""
        self._owners.pop(asset_id.lower(), None)


def told_assets(output: Any) -> Iterator[str]:
    """The asset ids in an output of a prompt (any JSON): that of each object that names a file."""
    left = [output]
    while left:
        item = left.pop()
        if isinstance(item, dict):
            if isinstance(item.get("filename"), str) and is_asset_id(item.get("id")):
                yield item["id"]
            left += item.values()
        elif isinstance(item, list):
            left += item
