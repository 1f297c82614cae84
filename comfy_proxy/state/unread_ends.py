"""Prompts that have ended at an instance, and whose entries in its history have not been read yet.
They are kept so that a kill of the proxy at that moment does not lose them, and so that a client is
answered 503 while their instance is away, not that they are unknown.

Such a record is written in the batch that deletes the prompt (``prompt_state.py``), and deleted in
the one that writes the kept entry (``kept_history.py``): a prompt is always in the file as one of
these.
"""

from __future__ import annotations

from typing import Final

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.gateway.views.wanted_entries import WantedEntries
from comfy_proxy.ledger.events import Found
from comfy_proxy.ledger.ledger import Ledger
from comfy_proxy.ledger.prompt import Prompt
from comfy_proxy.ledger.states import State
from comfy_proxy.state.kept_history import several_by_url
from comfy_proxy.state.store import StateStore

UNREAD: Final = "unread-end"


class UnreadEnds:
    """Observes ``wanted``."""

    def __init__(
        self, store: StateStore, wanted: WantedEntries, cluster: Cluster, ledger: Ledger
    ) -> None:
        self._store = store
        self._wanted = wanted
        self._ledger = ledger
        self._by_url = several_by_url(cluster)

    async def restore(self) -> None:
        """Have the entries of the prompts that the file names read, as soon as their instances
        answer a check. A prompt of an instance that the configuration no longer has is
        forgotten."""
        for prompt_id, url in await self._store.entries(UNREAD):
            instance = self._by_url.get(url.decode())
            if instance is None:
                self._store.delete(UNREAD, prompt_id)
                continue
            self._ledger.apply(Found(prompt_id=prompt_id, instance=instance))
            self._wanted.add(Prompt(prompt_id=prompt_id, state=State.ENDED), instance)
        self._wanted.on_changed.append(self._changed)

    def _changed(self, prompt_id: str) -> None:
        instance = self._wanted.instance_of(prompt_id)
        if instance is None:
            self._store.delete(UNREAD, prompt_id)
        else:
            self._store.put(UNREAD, prompt_id, str(instance.url).encode())
