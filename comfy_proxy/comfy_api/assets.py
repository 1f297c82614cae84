"""The uploads of the Comfy API by id and by hash: what is remembered of each, and of how many.

An asset is a file of the input directory, put there by way of every other upload. Its bytes are
ComfyUI's to keep; here is what its client was told of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from comfy_proxy.clock import Clock
from comfy_proxy.gateway.files.file_name import FileName
from comfy_proxy.observers import tell

RETENTION: Final = timedelta(days=7)
"""How long an asset is known after it was used last, unless its client asks for another time."""
MAX_ASSETS: Final = 10_000
"""Assets that are known; beyond them the one that was used longest ago is forgotten."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asset:
    """An upload of ``owner``. ``hash`` is ``blake3:…``, ``path`` the name that its client gave it,
    ``file`` where it is. ``keep_s`` is the retention that its client asked for, None for ours."""

    id: str
    owner: str
    hash: str
    size: int
    content_type: str
    path: str
    file: FileName
    created: datetime
    expires: datetime
    keep_s: int | None = None


class AssetBook:
    """Assets, the one that was used last at the end. ``on_changed`` and ``on_forgotten`` callbacks
    hear of each."""

    def __init__(self, clock: Clock, *, max_assets: int = MAX_ASSETS) -> None:
        self._clock = clock
        self._max_assets = max_assets
        self._assets: OrderedDict[str, Asset] = OrderedDict()
        self._by_hash: dict[tuple[str, str], str] = {}
        self.on_changed: list[Callable[[Asset], None]] = []
        self.on_forgotten: list[Callable[[Asset], None]] = []

    def __repr__(self) -> str:
        return f"<AssetBook {len(self._assets)}>"

    def __len__(self) -> int:
        return len(self._assets)

    def expiry(self, keep_s: int | None) -> datetime:
        """When one that is used now is forgotten, if it is not used again."""
        keep = RETENTION if keep_s is None else timedelta(seconds=keep_s)
        return self._clock.now() + keep

    def add(self, asset: Asset) -> None:
        """A new one, or one of before this process."""
        self._assets[asset.id] = asset
        self._by_hash[asset.owner, asset.hash] = asset.id
        tell(self.on_changed, asset)
        while len(self._assets) > self._max_assets:
            self.forget(next(iter(self._assets.values())))

    def find(self, asset_id: str, owner: str) -> Asset | None:
        """The asset of that id; None if it is not ``owner``'s, or not known (any more)."""
        asset = self._assets.get(asset_id)
        if asset is None or asset.owner != owner:
            return None
        if asset.expires <= self._clock.now():
            self.forget(asset)
            return None
        return asset

    def by_hash(self, hash_: str, owner: str) -> Asset | None:
        """The asset of ``owner`` with these bytes."""
        asset_id = self._by_hash.get((owner, hash_.lower()))
        return None if asset_id is None else self.find(asset_id, owner)

    def used(self, asset: Asset, keep_s: int | None = None) -> Asset:
        """``asset`` is used now: it is known for longer, never for less long than before."""
        keep_s = asset.keep_s if keep_s is None else keep_s
        expires = max(asset.expires, self.expiry(keep_s))
        used = replace(asset, expires=expires, keep_s=keep_s)
        self._assets[asset.id] = used
        self._assets.move_to_end(asset.id)
        tell(self.on_changed, used)
        return used

    def forget(self, asset: Asset) -> None:
        """It is deleted, or too old, or its bytes are gone."""
        self._assets.pop(asset.id, None)
        if self._by_hash.get((asset.owner, asset.hash)) == asset.id:
            del self._by_hash[asset.owner, asset.hash]
        tell(self.on_forgotten, asset)
