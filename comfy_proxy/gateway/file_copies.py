"""The files of all instances as one: who has a file, and how it gets to where it is needed.

Three kinds, by name:

* uploads that came through here: the newest bytes are known by their hash and put wherever that
  version is not known to be;
* marked outputs (``@2/…``): read from their owner, put under exactly that path elsewhere, the
  owner itself included, for graphs name that path;
* everything else (put on a disk directly, or before the proxy was restarted): an instance that
  has the file keeps its own, one that lacks it gets a copy from one that has it.

An instance is believed to hold what it held until it was away. One that fails to take a copy is
without it until somebody needs it there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from loguru import logger

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.ownership import FileName, Ownership
from comfy_proxy.errors import InstanceError, UnavailableError
from comfy_proxy.gateway.file_client import Look, download, look, put
from comfy_proxy.gateway.file_records import Holdings, Upload, Uploads
from comfy_proxy.gateway.keyed_locks import KeyedLocks
from comfy_proxy.gateway.marks import MARKED_TYPES, unmark
from comfy_proxy.gateway.stored_bytes import StoredBytes

if TYPE_CHECKING:
    from comfy_proxy.cluster.cluster import Cluster

T = TypeVar("T")

RETRY_AFTER_S = 5


class FileCopies:
    """The files of one cluster; :meth:`close` at the end."""

    def __init__(self, cluster: Cluster, ownership: Ownership) -> None:
        self.cluster = cluster
        self.ownership = ownership
        self.uploads = Uploads()
        self.holdings = Holdings()
        self.upload_locks = KeyedLocks()
        self._stage_locks = KeyedLocks()
        self._by_id = {instance.id: instance for instance in cluster.instances}
        self._tasks: set[asyncio.Task[Any]] = set()
        for instance in cluster.instances:
            instance.on_interruption.append(self.holdings.forget)

    async def close(self) -> None:
        """End what is still being copied, and remove the bytes."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.uploads.close()

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start what is to be finished even if the client who waits for it leaves."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits gets it too; nobody may be left

    # --- who has it --------------------------------------------------------------------

    def owner(self, subfolder: str, kind: str) -> tuple[Instance | None, str]:
        """The instance that the mark in ``subfolder`` names, and the subfolder there."""
        if kind not in MARKED_TYPES:
            return None, subfolder
        owner, inner = unmark(subfolder, self._by_id)
        return (None, subfolder) if owner is None else (self._by_id[owner], inner)

    def known_to_hold(self, file: FileName, instance: Instance) -> bool:
        """True if a graph that names ``file`` finds it there, or next to where it is needed.

        From what is known; nobody is asked.
        """
        version = self.holdings.version(instance, file)
        if upload := self.uploads.get(file):
            return version == upload.digest
        owner = self.owner(file.subfolder, file.type)[0] or self.ownership.files.owner(file)
        if owner is not None and file.type in MARKED_TYPES:
            return owner is instance
        return version is not None or owner is instance

    async def locate(self, file: FileName) -> Instance | None:
        """Who answers for a name without a mark; None if nobody has it.

        The one who made it last, if that is on record; else the first that has it. Raises
        UnavailableError if the record names an instance that is away: the same name elsewhere
        may be another picture.
        """
        recorded = self.ownership.files.owner(file)
        if recorded is not None:
            if recorded.healthy and await self.holders(file, [recorded]):
                return recorded
            if file.type in MARKED_TYPES and not recorded.healthy:
                raise UnavailableError(
                    "The ComfyUI instance that has this file cannot be reached.",
                    retry_after_s=RETRY_AFTER_S,
                )
        others = [instance for instance in self._healthy() if instance is not recorded]
        holders = await self.holders(file, others)
        return holders[0] if holders else None

    async def holders(self, file: FileName, asked: Iterable[Instance]) -> list[Instance]:
        """Those of ``asked`` that have exactly this path, in that order."""
        asked = list(asked)
        looks = await asyncio.gather(*(self._look(instance, file) for instance in asked))
        return [one for one, found in zip(asked, looks, strict=True) if found and found.there]

    # --- how it gets there -------------------------------------------------------------

    def received(self, file: FileName, content: StoredBytes, at: Instance, *, life: int) -> None:
        """``at`` has just taken ``content`` as ``file``: the newest bytes of that name."""
        self.uploads.keep(file, content)
        self.holdings.note(at, file, content.digest, life=life)
        self.ownership.files.record(file, at)

    async def spread(self, file: FileName, *, but: Instance) -> None:
        """Put an upload on every other healthy instance; one that fails goes without."""
        others = [instance for instance in self._healthy() if instance is not but]
        await asyncio.gather(*(self.stage(file, instance) for instance in others))

    async def stage(self, file: FileName, instance: Instance) -> None:
        """See to it that ``instance`` has ``file`` under exactly that path, if anybody has it.

        Never fails: what could not be brought is told by ComfyUI's own answer.
        """
        async with self._stage_locks((file, instance)):
            try:
                await self._stage(file, instance)
            except (InstanceError, UnavailableError, OSError, ValueError) as error:
                logger.warning("{} is without {}: {}", instance.host, file, error)

    async def _stage(self, file: FileName, instance: Instance) -> None:
        if upload := self.uploads.get(file):
            await self._stage_upload(file, upload, instance)
            return
        owner, inner = self.owner(file.subfolder, file.type)
        if owner is None:
            await self._stage_found(file, instance)
        else:
            source = FileName(filename=file.filename, subfolder=inner, type=file.type)
            await self._stage_output(file, instance, owner, source)

    async def _stage_upload(self, file: FileName, upload: Upload, instance: Instance) -> None:
        if self.holdings.version(instance, file) == upload.digest:
            return
        life = self.holdings.life(instance)
        if upload.content is not None:
            await self._put(instance, file, upload.content, upload.digest, life)
            return
        for source in self._healthy():
            if self.holdings.version(source, file) == upload.digest:
                async with self._downloaded(source, file) as content:
                    if content is not None and content.digest == upload.digest:
                        await self._put(instance, file, content, upload.digest, life)
                        return
        await self._stage_found(file, instance)

    async def _stage_output(
        self, file: FileName, instance: Instance, owner: Instance, source: FileName
    ) -> None:
        life, owner_life = self.holdings.life(instance), self.holdings.life(owner)
        held_life, _, held = (self.holdings.version(instance, file) or "").partition(" ")
        if held_life == str(owner_life):
            return  # the owner was not away since: what it has is what was copied
        found = await self._look(owner, source) if owner.healthy else None
        if found is None or not found.there:
            await self._stage_found(file, instance)
            return
        version = f"{owner_life} {found.version}"
        if held == found.version:
            self.holdings.note(instance, file, version, life=life)
            return
        async with self._downloaded(owner, source) as content:
            if content is not None:
                await self._put(instance, file, content, version, life)

    async def _stage_found(self, file: FileName, instance: Instance) -> None:
        if self.holdings.version(instance, file) is not None:
            return
        life = self.holdings.life(instance)
        found = await look(instance, self.cluster, file)
        if found.there:
            self.holdings.note(instance, file, "", life=life)
        if found.status != 404:
            return
        source = await self.locate(file)
        if source is None or source is instance:
            return
        async with self._downloaded(source, file) as content:
            if content is not None:
                await self._put(instance, file, content, "", life)

    async def _put(
        self, instance: Instance, file: FileName, content: StoredBytes, version: str, life: int
    ) -> None:
        """Put it there, unless the same bytes are: a prompt may be reading them just now."""
        found = await look(instance, self.cluster, file)
        same = False
        if found.there and found.size == content.size:
            async with self._downloaded(instance, file) as present:
                same = present is not None and present.digest == content.digest
        if not same:
            self.holdings.discard(instance, file)
            await put(instance, self.cluster, file, content)
        self.holdings.note(instance, file, version, life=life)

    @asynccontextmanager
    async def _downloaded(
        self, instance: Instance, file: FileName
    ) -> AsyncIterator[StoredBytes | None]:
        content = await download(instance, self.cluster, file)
        try:
            yield content
        finally:
            if content is not None:
                content.close()

    async def _look(self, instance: Instance, file: FileName) -> Look | None:
        try:
            return await look(instance, self.cluster, file)
        except InstanceError:
            return None

    def _healthy(self) -> list[Instance]:
        return [instance for instance in self.cluster.instances if instance.healthy]
