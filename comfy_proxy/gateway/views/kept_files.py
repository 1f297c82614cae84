"""Whether a kept entry may be shown, which may depend on files that its instance has by now.

An instance that comes back with an empty disk gives the names of results anew, to others' prompts.
Shown then, an entry of before would lead its client to another client's picture.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container
from typing import Final

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import InstanceError
from comfy_proxy.gateway.files.client import look
from comfy_proxy.gateway.files.file_name import FileName
from comfy_proxy.gateway.views.kept_entries import KeptEntries, KeptEntry
from comfy_proxy.gateway.views.owner import away

LATE_S: Final = 1.0
"""Seconds after the end of a prompt in which one of its files may have been written: dates in HTTP
have no fractions. A file that was written later is another prompt's."""


async def stands_in(
    kept: KeptEntry, answered: Container[Instance], entries: KeptEntries, cluster: Cluster
) -> bool:
    """Whether ``kept`` is to be shown, which the answers of ``answered`` lack; the rule is in
    ``kept_entries.py``.

    Its instance is asked for its files if they are not proven. If one is gone, or was written after
    the prompt had ended, the entry is forgotten. Raises UnavailableError (503) if the instance does
    not tell.
    """
    at = kept.instance
    if at is None or at not in answered:
        return True
    if not kept.may_be_lost(at):
        return False
    if entries.is_proven(kept, at):
        return True
    asked_at = cluster.clock.monotonic()
    try:
        same = await asyncio.gather(*(_is_its_own(kept, at, file, cluster) for file in kept.files))
    except InstanceError as error:
        raise away(at) from error
    if not all(same):
        entries.files_gone(kept)
        return False
    entries.prove(kept, asked_at)
    return True


async def _is_its_own(kept: KeptEntry, at: Instance, file: FileName, cluster: Cluster) -> bool:
    found = await look(at, cluster, file)
    if not found.there or found.modified is None or kept.ended_ms is None:
        return found.there
    return found.modified <= kept.ended_ms / 1000 + LATE_S
