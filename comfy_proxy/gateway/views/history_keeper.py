"""Reads the entry of each client's prompt when it has ended, so that it can be shown without its
instance (``kept_entries.py``)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.instance_tasks import InstanceTasks
from comfy_proxy.cluster.prompt_lists import HistoryEntry, history_path, read_history
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.errors import ComfyProxyError, InstanceError
from comfy_proxy.gateway.exchange.native import LONG_BYTES
from comfy_proxy.gateway.exchange.scanned import ScannedAnswer, ask_scanned
from comfy_proxy.gateway.files.shared_storage import SharedStorage
from comfy_proxy.gateway.views.kept_entries import (
    KEPT,
    MAX_ENTRY_BYTES,
    KeptEntries,
    KeptEntry,
    is_long,
)
from comfy_proxy.ledger.events import Change
from comfy_proxy.ledger.prompt import Prompt
from comfy_proxy.ledger.states import Ending
from comfy_proxy.observers import tell

MAX_WANTED = 1_000
"""So many entries of one instance are still to be read; beyond it the one that ended first is not
kept. They pile up only while the instance cannot be asked."""
MAX_READS = 3
"""How often an entry is asked for. ComfyUI writes it a moment after it has told the end; one that
is not there after so many changes of the queue was deleted."""
NEWEST = 16
"""So many entries, which ended last, are read for a prompt whose id no path can hold."""
_KEPT_ENDINGS = (Ending.SUCCESS, Ending.ERROR, Ending.INTERRUPTED)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A prompt that has ended, and how often its entry was asked for."""

    prompt: Prompt
    reads: int = 0


class HistoryKeeper:
    """Has ``entries`` filled; one request for each end, and one at a time for each instance.

    A prompt that was posted with more than MAX_ENTRY_BYTES is not asked for: ComfyUI copies its
    entry and writes it on its event loop, which takes it seconds in which it does nothing else.
    What a client asks for is kept then (:meth:`shown`).

    ``on_changed`` hears the id of a prompt whose entry is to be read from now on, or no longer: it
    was, or is given up.
    """

    def __init__(self, cluster: Cluster, storage: SharedStorage, entries: KeptEntries) -> None:
        self._cluster = cluster
        self._storage = storage
        self.entries = entries
        self._wanted = ByInstance[dict[str, _Wanted]](lambda instance: {})
        self._readers = InstanceTasks(cluster.instances, self._read, "keep the history of")
        cluster.instances.on_removed.append(lambda one: entries.removed(one, storage.kinds))
        self.on_changed: list[Callable[[str], None]] = []

    def __repr__(self) -> str:
        return f"<HistoryKeeper of {self.entries!r}>"

    def observe(self, change: Change) -> None:
        """An observer of the ledger: which prompts have ended, and which begin anew."""
        prompt, end = change.prompt, change.prompt.end
        if change.is_acceptance:
            self.delete([prompt.prompt_id])
        if not change.is_end or prompt.job is not None or end is None or prompt.instance is None:
            return
        if prompt.reused:
            return  # what is in the history under its id may be of the one before
        length = 0 if prompt.post is None else len(prompt.post.body)
        if end.ending in _KEPT_ENDINGS and length <= MAX_ENTRY_BYTES:
            self.want(prompt, prompt.instance)
            self.look(prompt.instance)

    def want(self, prompt: Prompt, instance: Instance) -> None:
        """It has ended there, and its entry is to be read; somebody else says when to look."""
        wanted = self._wanted[instance]
        wanted[prompt.prompt_id] = _Wanted(prompt)
        tell(self.on_changed, prompt.prompt_id)
        if len(wanted) > MAX_WANTED:
            self._unwanted(next(iter(wanted)), instance)

    def wanted_at(self, prompt_id: str) -> Instance | None:
        """The instance where its entry is to be read; None if it is not, or not any more."""
        return next((one for one, wanted in self._wanted.items() if prompt_id in wanted), None)

    def _unwanted(self, prompt_id: str, instance: Instance) -> None:
        if self._wanted[instance].pop(prompt_id, None) is not None:
            tell(self.on_changed, prompt_id)

    def unread(self, instance: Instance) -> list[Prompt]:
        """Those that have ended there, and whose entry has not been read yet. While their instance
        cannot be asked no history has them."""
        return [wanted.prompt for wanted in self._wanted[instance].values()]

    def look(self, instance: Instance) -> None:
        """It has answered a check, or its queue has changed: what is wanted may be there now."""
        if self._wanted[instance]:
            self._readers.wake(instance)

    def delete(self, prompt_ids: Iterable[str]) -> None:
        """Clients have deleted these, or posted others under their ids; unknown ids are ignored."""
        ids = tuple(prompt_ids)
        self.entries.delete(ids)
        for instance in tuple(self._wanted):
            for prompt_id in ids:
                self._unwanted(prompt_id, instance)

    def clear(self) -> None:
        """A client has cleared the history."""
        self.entries.clear()
        for wanted in tuple(self._wanted.values()):
            self.delete(tuple(wanted))

    async def close(self) -> None:
        """Read no more."""
        await self._readers.close()

    async def _read(self, instance: Instance) -> None:
        """What is wanted of ``instance``; what is not there waits for the next look."""
        asked: set[str] = set()
        while new := [one for one in self._wanted[instance] if one not in asked]:
            asked.update(new)
            for prompt_id in new:
                try:
                    await self._keep(prompt_id, instance)
                except InstanceError as error:
                    logger.debug("no end at {} can be kept: {}", instance.host, error.message)
                    return

    async def _keep(self, prompt_id: str, instance: Instance) -> None:
        """Raises InstanceError: then it is wanted still."""
        wanted = self._wanted[instance]
        if prompt_id not in wanted:
            return  # deleted meanwhile
        try:
            entry = await self._entry(prompt_id, instance)
        except InstanceError:
            raise
        except (ComfyProxyError, OSError) as error:  # a full disk
            logger.warning("an end at {} cannot be kept: {}", instance.host, error)
            entry = None
        if (asked := wanted.get(prompt_id)) is None:
            return
        if entry is not None:
            self.entries.add(entry)
        elif asked.reads + 1 < MAX_READS:
            wanted[prompt_id] = _Wanted(asked.prompt, asked.reads + 1)
            return
        self._unwanted(prompt_id, instance)

    async def _entry(self, prompt_id: str, instance: Instance) -> KeptEntry | None:
        """None if ``instance`` has none, or one that is too long. Raises InstanceError, OSError."""
        began_at = self._cluster.clock.monotonic()
        path = history_path(prompt_id)
        if path == "/history":  # no path can hold its id
            path = f"/history?max_items={NEWEST}"
        answer = await ask_scanned(instance, self._cluster, path, KEPT, replaceable=True)
        for entry in read_history(answer.root) or ():
            if entry.prompt_id == prompt_id:
                return await self._packed(entry, answer, instance, began_at)
        return None

    async def shown(
        self, entry: HistoryEntry, answer: ScannedAnswer, instance: Instance, asked_at: float
    ) -> None:
        """A client is shown ``entry``, scanned for KEPT in what ``instance`` has said since
        ``asked_at`` (monotonic seconds): a long one is kept now."""
        if not is_long(entry) or entry.prompt_id is None:
            return
        if self.entries.find(entry.prompt_id) is not None:
            return
        try:
            kept = await self._packed(entry, answer, instance, asked_at)
        except OSError as error:  # somebody has tidied the temporary directory
            logger.warning("an end at {} cannot be kept: {}", instance.host, error)
            return
        if kept is not None:
            self.entries.add(kept)

    async def _packed(
        self, entry: HistoryEntry, answer: ScannedAnswer, instance: Instance, asked_at: float
    ) -> KeptEntry | None:
        """Raises OSError."""
        size = entry.value.end - entry.value.start
        if size < LONG_BYTES and answer.text.in_memory:
            return KeptEntry.of(entry, answer, instance, self._storage, asked_at)
        return await asyncio.to_thread(
            KeptEntry.of, entry, answer, instance, self._storage, asked_at
        )
