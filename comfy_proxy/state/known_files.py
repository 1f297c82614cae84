"""Which instance made which file, and the ends that no instance tells of: kept, so that a restart
changes no answer of ``/view`` and ``/history``. Names with ``@2`` in them need none of it: they
name their instance.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.gateway.files.file_name import FileName
from comfy_proxy.gateway.files.makers import MAX_RECORDS, Made, Makers
from comfy_proxy.gateway.prompts.own_history import OwnHistory
from comfy_proxy.lenient_json import dumps, dumps_exact, loads, loads_exact
from comfy_proxy.state.by_url import ByUrl
from comfy_proxy.state.store import StateStore

MADE: Final = "made-file"
LOST: Final = "lost-prompt"


class KnownFiles:
    """Observes ``makers``, and keeps MAX_RECORDS files, as those do; beyond them the one that was
    made first is forgotten."""

    def __init__(self, store: StateStore, makers: Makers, cluster: Cluster) -> None:
        self._store = store
        self._makers = makers
        self._cluster = cluster
        self._kept: OrderedDict[str, None] = OrderedDict()

    async def restore(self) -> None:
        """Record what the file tells, and write what is made from now on."""
        by_url = ByUrl(self._cluster.instances)
        for key, data in await self._store.entries(MADE):
            try:
                type_, subfolder, filename = loads(key)
                url, made_at, is_sure = loads(data)
                file = FileName(filename=filename, subfolder=subfolder, type=type_)
                instance = by_url.get(url)
                if instance is not None:
                    self._makers.record(file, instance, made_at, is_sure=is_sure)
            except (TypeError, ValueError) as error:
                logger.error("a file in the state file cannot be read: {!r}", error)
            self._kept[key] = None
        self._makers.on_made.append(self._made)

    def _made(self, made: Made) -> None:
        file = made.file
        key = dumps([file.type, file.subfolder, file.filename]).decode()
        self._kept[key] = None
        self._kept.move_to_end(key)
        self._store.put(MADE, key, dumps([str(made.at.url), made.made_at, made.is_sure]))
        if len(self._kept) > MAX_RECORDS:
            oldest, _ = self._kept.popitem(last=False)
            self._store.delete(MADE, oldest)


class LostEntries:
    """Observes ``history``: the file holds the same entries."""

    def __init__(self, store: StateStore, history: OwnHistory) -> None:
        self._store = store
        self._history = history

    async def restore(self) -> None:
        """Add the entries that the file holds, and write what changes from now on."""
        for prompt_id, data in await self._store.entries(LOST):
            try:
                self._history.keep(prompt_id, loads_exact(data), len(data))
            except ValueError as error:
                logger.error("an entry in the state file cannot be read: {!r}", error)
        self._history.on_changed.append(self._changed)

    def _changed(self, prompt_id: str) -> None:
        entry = self._history.entry(prompt_id)
        if entry is None:
            self._store.delete(LOST, prompt_id)
        else:
            self._store.put(LOST, prompt_id, dumps_exact(entry))
