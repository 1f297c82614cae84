"""What instances said of prompts that have ended (``gateway/views/kept_entries.py``), in the file:
so an instance that dies with the proxy, or after it, does not take its history along.

Between the end of a prompt and the moment in which its entry is kept the file says that it is to
be read still (``unread_ends.py``).
"""

from __future__ import annotations

import struct
import uuid
from typing import Final

from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.gateway.views.kept_entries import KeptEntries, KeptEntry
from comfy_proxy.ledger.events import Found
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.state import kept_record
from comfy_proxy.state.by_url import ByUrl
from comfy_proxy.state.store import StateStore

KEPT: Final = "kept-entry"


class KeptHistory:
    """Observes ``entries``: the file holds the same ones, within the same bounds.

    Each write of an entry gets a new key, so that an entry that is kept anew is the last in the
    file too.
    """

    def __init__(
        self, store: StateStore, entries: KeptEntries, cluster: Cluster, ledger: Ledger
    ) -> None:
        self._store = store
        self._entries = entries
        self._ledger = ledger
        self._by_url = several_by_url(cluster)
        self._keys: dict[str, str] = {}

    async def restore(self) -> None:
        """Add the entries that the file holds, the newest last, and write what changes from then
        on. Those of an instance that the configuration no longer has are deleted."""
        self._entries.on_gone.append(self._gone)
        async for batch in self._store.batches(KEPT):
            for key, data in batch:
                self._restore(key, data)
        self._entries.on_kept.append(self._kept)

    def _restore(self, key: str, data: bytes) -> None:
        try:
            entry = kept_record.read(data, self._by_url)
        except (KeyError, TypeError, ValueError, struct.error) as error:
            logger.error("an entry of the history in the state file cannot be read: {!r}", error)
            entry = None
        if entry is None or entry.instance is None:
            self._store.delete(KEPT, key)
            return
        self._entries.delete([entry.prompt_id])
        self._keys[entry.prompt_id] = key
        self._entries.add(entry)
        self._ledger.apply(Found(prompt_id=entry.prompt_id, instance=entry.instance))

    def _kept(self, entry: KeptEntry) -> None:
        if entry.instance is not None:  # nothing new is kept of an instance that has left
            key = self._keys[entry.prompt_id] = uuid.uuid4().hex
            self._store.put(KEPT, key, kept_record.written(entry, entry.instance))

    def _gone(self, prompt_id: str) -> None:
        if (key := self._keys.pop(prompt_id, None)) is not None:
            self._store.delete(KEPT, key)


def several_by_url(cluster: Cluster) -> ByUrl:
    """The instances by their URLs; none if there is a single one. Clients speak to that directly,
    so the proxy does not hear what they delete in its history."""
    return ByUrl(cluster.instances if len(cluster.instances) > 1 else ())
