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
"""Entries of one instance that are still to be read; beyond them the one that ended first is not
kept. They pile up only while the instance cannot be asked."""
MAX_READS = 3
"""How often an entry is asked for, at so many changes of the queue: ComfyUI writes it a moment
after it has told the end. One that is not there then was deleted, and is not kept."""
NEWEST = 16
"""The last entries of the history that are read for a prompt whose id no path can hold."""
_KEPT_ENDINGS = (Ending.SUCCESS, Ending.ERROR, Ending.INTERRUPTED)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A prompt that has ended, and how often its entry was asked for."""

    prompt: Prompt
    reads: int = 0


class HistoryKeeper:
    """Fills ``entries``, by one request for each end, one at a time at each instance.

    The entry of a prompt that was posted with more than MAX_ENTRY_BYTES is not asked for: to copy
    and write it takes ComfyUI seconds in which its event loop does nothing else. It is kept when a
    client asks for it (:meth:`shown`).

    ``on_changed`` callbacks hear the id of a prompt whose entry is to be read from now on, or is no
    longer to be read, because it was or because that was given up.
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
        """Have the entry of ``prompt``, which has ended at ``instance``, read at the next
        :meth:`look`."""
        wanted = self._wanted[instance]
        wanted[prompt.prompt_id] = _Wanted(prompt)
        tell(self.on_changed, prompt.prompt_id)
        if len(wanted) > MAX_WANTED:
            self._unwanted(next(iter(wanted)), instance)

    def wanted_at(self, prompt_id: str) -> Instance | None:
        """The instance where its entry is still to be read; None if it is not to be read."""
        return next((one for one, wanted in self._wanted.items() if prompt_id in wanted), None)

    def _unwanted(self, prompt_id: str, instance: Instance) -> None:
        if self._wanted[instance].pop(prompt_id, None) is not None:
            tell(self.on_changed, prompt_id)

    def unread(self, instance: Instance) -> list[Prompt]:
        """The prompts that have ended at ``instance``, and whose entries have not been read yet:
        while it cannot be asked they are in no history."""
        return [wanted.prompt for wanted in self._wanted[instance].values()]

    def look(self, instance: Instance) -> None:
        """``instance`` has answered a check, or its queue has changed: read what is wanted of
        it."""
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
        """Read what is wanted of ``instance``; an entry that is not there waits for the next
        look."""
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
        """Keep the entry of that prompt. Raises InstanceError: then it is still wanted."""
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
        """The entry at ``instance``; None if it has none, or one that is too long to be kept.
        Raises InstanceError, and OSError if the disk is full."""
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
        """A client is shown ``entry`` of ``answer``, which ``instance`` was asked for at
        ``asked_at`` (monotonic seconds) and which was scanned for KEPT: keep it if it is long."""
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
        """``entry`` as it is kept; in a thread if that takes long. Raises OSError."""
        size = entry.value.end - entry.value.start
        if size < LONG_BYTES and answer.text.in_memory:
            return KeptEntry.of(entry, answer, instance, self._storage, asked_at)
        return await asyncio.to_thread(
            KeptEntry.of, entry, answer, instance, self._storage, asked_at
        )
