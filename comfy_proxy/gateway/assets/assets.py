"""The parts that answer for assets, built and joined."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from comfy_proxy.gateway.assets.asking import AssetAsking
from comfy_proxy.gateway.assets.lists import MergedAssets
from comfy_proxy.gateway.assets.new_asset import NewAssets
from comfy_proxy.gateway.assets.one_asset import OneAsset
from comfy_proxy.gateway.assets.scans import AssetScans
from comfy_proxy.gateway.assets.tags import TagCounts
from comfy_proxy.gateway.assets.twins import AssetTwins
from comfy_proxy.gateway.files.uploads import Uploads
from comfy_proxy.gateway.views.by_pattern import ByPattern


class Assets:
    """One attribute for each policy of assets; see :class:`NewAssets` for ``inputs_changed``."""

    def __init__(self, uploads: Uploads, inputs_changed: Callable[[str], Awaitable[None]]) -> None:
        files = uploads.files
        asking = AssetAsking(files.cluster)
        twins = AssetTwins(asking, files.storage)
        lists = MergedAssets(files, asking, twins)
        self.merged = ByPattern(lists.views, TagCounts(asking, twins, lists).views)
        self.by_id = ByPattern(OneAsset(files, asking, twins).views)
        self.new = ByPattern(NewAssets(uploads, asking, inputs_changed).views)
        self.scans = ByPattern(AssetScans(asking).views)
