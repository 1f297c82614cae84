"""Reads the entry of each client's prompt when it has ended, so that it can be shown without its
instance (``kept_entries.py``), and finds out which entries were lost before anybody had them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from enum import Enum, auto
from typing import Protocol

from loguru import logger

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.instance_tasks import InstanceTasks
from comfy_proxy.cluster.prompt_lists import (
    HISTORY_TO_KEEP,
    HistoryEntry,
    history_path,
    read_history,
)
from comfy_proxy.errors import ComfyProxyError, InstanceError, UnavailableError
from comfy_proxy.gateway.exchange.native import LONG_BYTES
from comfy_proxy.gateway.exchange.scanned import ScannedAnswer, ask_queue, ask_scanned
from comfy_proxy.gateway.files.shared_storage import SharedStorage
from comfy_proxy.gateway.views.heard_entries import HeardEntries
from comfy_proxy.gateway.views.kept_entries import (
    MAX_ENTRY_BYTES,
    KeptEntries,
    KeptEntry,
    is_long,
)
from comfy_proxy.gateway.views.kept_files import stands_in
from comfy_proxy.gateway.views.wanted_entries import WantedEntries
from comfy_proxy.ledger.events import Change
from comfy_proxy.ledger.prompt import Prompt
from comfy_proxy.ledger.states import Ending

NEWEST = 16
"""The last entries of the history that are read for a prompt whose id no path can hold."""
_KEPT_ENDINGS = (Ending.SUCCESS, Ending.ERROR, Ending.INTERRUPTED)


class Losses(Protocol):
    """What becomes of prompts whose results are lost: ``prompts/lost_results.py``."""

    def untold_at(self, instance: Instance, /) -> Collection[str]:
        """Prompts that have ended well there just now, which nobody was told."""

    def shown(self, prompt_ids: Iterable[str | None] | None, /) -> None:
        """A client was shown that these have ended, or has deleted them; None: all."""

    def unread(self, prompt: Prompt, instance: Instance, /) -> None:
        """It has ended at ``instance``, and its entry is gone for certain."""

    def files_gone(self, entry: KeptEntry, /) -> None:
        """Files that ``entry`` names are gone from its instance."""


class _Without(Enum):
    """Why there is no entry to be kept."""

    ABSENT = auto()
    """The history of its instance lacks it."""
    UNWRITTEN = auto()
    """Its instance runs it still, and is about to write it."""
    LOST = auto()
    """It was lost with the process of its instance; that is proven."""
    UNUSABLE = auto()
    """It is too long to be kept, or its instance gave no history."""


class HistoryKeeper:
    """Fills ``entries``, by one request for each end, one at a time at each instance.

    The entry of a prompt that was posted with more than MAX_ENTRY_BYTES is not asked for: to copy
    and write it takes ComfyUI seconds in which its event loop does nothing else. It is kept when a
    client asks for it (:meth:`read`).

    An entry of ``wanted`` that its instance has no longer when it is asked is put together of what
    was ``heard``, if its files are there. ``losses`` is told of what is lost: if that cannot be
    done, and if the files of an entry are gone before anybody was told of its end.
    """

    def __init__(
        self,
        cluster: Cluster,
        storage: SharedStorage,
        entries: KeptEntries,
        wanted: WantedEntries,
        *,
        heard: HeardEntries,
        losses: Losses,
    ) -> None:
        self._cluster = cluster
        self._storage = storage
        self._heard = heard
        self.losses = losses
        self.entries = entries
        self.wanted = wanted
        self._readers = InstanceTasks(cluster.instances, self._read_all, "keep the history of")
        entries.on_files_gone.append(losses.files_gone)
        cluster.instances.on_removed.append(self._removed)

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
            self.wanted.add(prompt, prompt.instance)
            self.look(prompt.instance)

    def look(self, instance: Instance) -> None:
        """``instance`` has answered a check, or its queue has changed: read what is wanted of
        it."""
        if self.wanted.at(instance) or self._doubtful(instance):
            self._readers.wake(instance)

    def delete(self, prompt_ids: Iterable[str]) -> None:
        """Clients have deleted these, or posted others under their ids; unknown ids are ignored."""
        ids = tuple(prompt_ids)
        self.losses.shown(ids)
        self.entries.delete(ids)
        self.wanted.delete(ids)

    def clear(self) -> None:
        """A client has cleared the history."""
        self.losses.shown(None)
        self.entries.clear()
        self.wanted.clear()

    async def close(self) -> None:
        """Read no more."""
        await self._readers.close()

    def _removed(self, instance: Instance) -> None:
        """``instance`` has left: what was not read of it is lost."""
        for prompt in self.wanted.at(instance):
            self.losses.unread(prompt, instance)
            self.wanted.drop(prompt.prompt_id, instance)
        self.entries.removed(instance, self._storage.kinds)

    def _doubtful(self, instance: Instance) -> list[str]:
        """Prompts whose success nobody was told, and whose kept entries may not stand: ``instance``
        was in trouble since, and may have lost their files."""
        found = (self.entries.find(one) for one in self.losses.untold_at(instance))
        return [
            one.prompt_id
            for one in found
            if one is not None and one.instance is instance
            if one.may_be_lost(instance) and not self.entries.is_proven(one, instance)
        ]

    async def _read_all(self, instance: Instance) -> None:
        """Read what is wanted of ``instance``; an entry that is not there waits for the next
        look."""
        asked: set[str] = set()
        while True:
            wanted = [one.prompt_id for one in self.wanted.at(instance)]
            new = [one for one in (*wanted, *self._doubtful(instance)) if one not in asked]
            if not new:
                return
            asked.update(new)
            for prompt_id in new:
                try:
                    if prompt := self.wanted.find(prompt_id, instance):
                        await self._keep(prompt, instance)
                    elif prompt_id in self._doubtful(instance):
                        await self._prove(prompt_id, instance)
                except (InstanceError, UnavailableError) as error:
                    logger.debug("no end at {} can be kept: {}", instance.host, error.message)
                    return

    async def _keep(self, prompt: Prompt, instance: Instance) -> None:
        """Keep the entry of ``prompt``. Raises InstanceError: then it is still wanted."""
        prompt_id = prompt.prompt_id
        found = await self._found(prompt, instance)
        if self.wanted.find(prompt_id, instance) is not prompt:
            return  # deleted meanwhile, or read for a client
        if isinstance(found, KeptEntry):
            self.entries.add(found)
        elif found is _Without.LOST:
            made = await self._heard.entry(prompt, instance)
            if made is not None:
                self.entries.add(made)
            if made is None or not await stands_in(made, (instance,), self.entries, self._cluster):
                self.losses.unread(prompt, instance)
        elif found is _Without.UNWRITTEN or self.wanted.was_absent(prompt_id, instance):
            return
        self.wanted.drop(prompt_id, instance)

    async def _prove(self, prompt_id: str, instance: Instance) -> None:
        """Find out whether the kept entry of a prompt of which nobody was told can still be shown.
        Raises InstanceError, UnavailableError: then nobody knows."""
        found = await self._entry(prompt_id, instance)
        kept = self.entries.find(prompt_id)
        if kept is None or kept.instance is not instance:
            return
        if isinstance(found, KeptEntry):
            self.entries.add(found)
        elif found is _Without.ABSENT:
            await stands_in(kept, (instance,), self.entries, self._cluster)

    async def _found(self, prompt: Prompt, instance: Instance) -> KeptEntry | _Without:
        """The entry of ``prompt``, which has ended at ``instance``.

        It is lost if that was in trouble since it was sent the prompt, and has it neither in its
        queue nor, asked after that, in its history: ComfyUI moves a prompt from the one to the
        other without a gap (PROTOCOL.md trap 15). Without any trouble somebody has deleted it
        there. Raises InstanceError.
        """
        found = await self._entry(prompt.prompt_id, instance)
        if found is not _Without.ABSENT or not _may_be_lost(prompt, instance):
            return found
        queue = await ask_queue(instance, self._cluster)
        if queue is None or prompt.prompt_id in queue.view():
            return _Without.UNWRITTEN
        found = await self._entry(prompt.prompt_id, instance)
        return _Without.LOST if found is _Without.ABSENT else found

    async def _entry(self, prompt_id: str, instance: Instance) -> KeptEntry | _Without:
        """The entry at ``instance``, or that it is absent or unusable. Raises InstanceError."""
        began_at = self._cluster.clock.monotonic()
        path = history_path(prompt_id)
        if path == "/history":  # no path can hold its id
            path = f"/history?max_items={NEWEST}"
        try:
            answer = await ask_scanned(
                instance, self._cluster, path, HISTORY_TO_KEEP, replaceable=True
            )
            entries = read_history(answer.root)
            for entry in entries or ():
                if entry.prompt_id == prompt_id:
                    packed = await self._packed(entry, answer, instance, began_at)
                    return _Without.UNUSABLE if packed is None else packed
        except InstanceError:
            raise
        except (ComfyProxyError, OSError) as error:  # a full disk
            logger.warning("an end at {} cannot be kept: {}", instance.host, error)
            return _Without.UNUSABLE
        if entries is None or len(entries) >= NEWEST:
            return _Without.UNUSABLE
        return _Without.ABSENT

    async def read(
        self,
        entry: HistoryEntry,
        answer: ScannedAnswer,
        instance: Instance,
        asked_at: float,
        *,
        shown: bool = False,
    ) -> None:
        """``entry`` was read in an ``answer`` of ``instance``, which was asked for at ``asked_at``
        (monotonic seconds) and was scanned for HISTORY_TO_KEEP: keep it if it is wanted, so that it
        is not asked for twice, or if it is long and is ``shown`` to a client."""
        prompt_id = entry.prompt_id
        if prompt_id is None:
            return
        is_wanted = self.wanted.find(prompt_id, instance) is not None
        is_new = shown and is_long(entry) and self.entries.find(prompt_id) is None
        if not is_wanted and not is_new:
            return
        try:
            kept = await self._packed(entry, answer, instance, asked_at)
        except OSError as error:  # somebody has tidied the temporary directory
            logger.warning("an end at {} cannot be kept: {}", instance.host, error)
            return
        if is_wanted and self.wanted.find(prompt_id, instance) is None:
            return  # deleted meanwhile
        if kept is not None:
            self.entries.add(kept)
        self.wanted.drop(prompt_id, instance)

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


def _may_be_lost(prompt: Prompt, instance: Instance) -> bool:
    """Whether ``instance`` may have lost its entry with its process. Of a prompt that a process
    before this one has sent it nobody can say that there was no trouble."""
    sent_at = [one.sent_at for one in prompt.attempts if one.instance is instance]
    return not sent_at or instance.signs.troubled_since(sent_at[-1])
