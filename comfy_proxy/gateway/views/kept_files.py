"""Whether the files that a kept entry names are still those of its prompt.

An instance that comes back with an empty disk gives the names of results anew, to others' prompts.
Shown then, an entry of before would lead its client to another client's picture.
"""

from __future__ import annotations

import asyncio
from typing import Final

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import InstanceError
from comfy_proxy.gateway.files.client import look
from comfy_proxy.gateway.files.file_name import FileName
from comfy_proxy.gateway.views.kept_entries import KeptEntries, KeptEntry
from comfy_proxy.gateway.views.owner import away

LATE_S: Final = 1.0
"""Seconds after the end of a prompt in which a file of its may have been written: dates in HTTP
have no fractions. One that is younger is another prompt's."""


async def are_its_own(kept: KeptEntry, entries: KeptEntries, cluster: Cluster) -> bool:
    """False if a file is gone, or was written after the prompt of ``kept`` had ended: then it is
    forgotten. True without a question if they were looked at since the last trouble. Raises
    UnavailableError (503) if the instance, which has just lacked the entry, does not say."""
    at = kept.instance
    if at is None or entries.is_sure(kept):
        return True
    asked_at = cluster.clock.monotonic()
    try:
        same = await asyncio.gather(*(_is_its_own(kept, at, file, cluster) for file in kept.files))
    except InstanceError as error:
        raise away(at) from error
    if not all(same):
        entries.delete([kept.prompt_id])
        return False
    entries.found_same(kept, asked_at)
    return True


async def _is_its_own(kept: KeptEntry, at: Instance, file: FileName, cluster: Cluster) -> bool:
    found = await look(at, cluster, file)
    if not found.there or found.modified is None or kept.ended_ms is None:
        return found.there
    return found.modified <= kept.ended_ms / 1000 + LATE_S
