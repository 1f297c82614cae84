"""What the proxy puts on an instance for its own ends is no asset of anybody.

An instance with an asset database registers every upload, and tells the id in its answer. Clients
would find our copies of results in their list of assets beside the results themselves. So their
entries are deleted at once. The files stay, and a scan of the directory does not list them again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.exchange.fanout import asked
from comfy_proxy.gateway.files.asset_owners import is_asset_id

if TYPE_CHECKING:
    from comfy_proxy.cluster.cluster import Cluster

UNLIST_TIMEOUT_S = 5.0
"""For an instance to delete an entry; beyond, the copy is seen in the list and does no harm."""


def asset_in(answer: Any) -> str | None:
    """The id in the answer (JSON) to an upload; None where it tells none."""
    asset = answer.get("asset") if isinstance(answer, dict) else None
    asset_id = asset.get("id") if isinstance(asset, dict) else None
    return asset_id if isinstance(asset_id, str) and is_asset_id(asset_id) else None


async def unlist(instance: Instance, cluster: Cluster, answer: Any) -> None:
    """Delete the entry that ``answer`` to an upload tells of; nothing is asked if it tells of none.

    Raises aiohttp's errors and TimeoutError.
    """
    if (asset_id := asset_in(answer)) is None:
        return
    async with (
        cluster.clock.timeout(UNLIST_TIMEOUT_S),
        asked(instance, cluster, "DELETE", f"/api/assets/{asset_id}"),
    ):
        pass  # what it says changes nothing
