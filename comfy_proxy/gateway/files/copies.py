"""The files of all instances as one: who has a file; :mod:`file_staging` brings it to others.

Four kinds, by name:

* uploads that came through here: the newest bytes are known by their hash and put wherever that
  version is not known to be;
* marked outputs (``@2/…``): read from their owner, put under exactly that path elsewhere, the
  owner itself included, for graphs name that path;
* outputs without a mark: those of the one who made that name last, else of the first that has it.
  They are copied to one that lacks the name, and never put over another result;
* other inputs (put on a disk directly, or before the proxy was restarted): an instance that has
  the file keeps its own, one that lacks it gets a copy from one that has it;
* whatever has ``..`` in its name, which ``/view`` shows to nobody: it cannot be copied, and is used
  where it is, unless it is an upload whose bytes are here.

Instances that share a directory are one place: what is in it is asked for and put there once, and
where all share it nothing is copied at all, unless an upload has gone from it.

An instance is believed to hold what it held until it was away. One that fails to take a copy is
without it until somebody needs it there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from loguru import logger

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.ownership import FileName, Ownership
from comfy_proxy.errors import InstanceError, UnavailableError
from comfy_proxy.gateway.files.client import THERE, Look, look
from comfy_proxy.gateway.files.file_staging import FileStaging
from comfy_proxy.gateway.files.keyed_locks import KeyedLocks
from comfy_proxy.gateway.files.marks import MARKED_TYPES, unmark
from comfy_proxy.gateway.files.records import Holdings, Makers, Uploads
from comfy_proxy.gateway.files.shared_storage import SharedStorage
from comfy_proxy.stored_bytes import StoredBytes

if TYPE_CHECKING:
    from comfy_proxy.cluster.cluster import Cluster

T = TypeVar("T")

RETRY_AFTER_S = 5
SPREAD_PATIENCE_S = 2.0
"""How long the client of an upload waits for the copies; whoever needs one waits for it then."""


class FileCopies:
    """The files of one cluster; :meth:`close` at the end."""

    def __init__(self, cluster: Cluster, ownership: Ownership) -> None:
        self.cluster = cluster
        self.ownership = ownership
        self.uploads = Uploads()
        self.makers = Makers(ownership.files, cluster.clock)
        self.storage = SharedStorage(cluster, lambda changed: self.holdings.forget(changed))
        self.holdings = Holdings(place=self.storage.place)
        self.upload_locks = KeyedLocks()
        self._staging = FileStaging(self)
        self._by_id = {instance.id: instance for instance in cluster.instances}
        self._tasks: set[asyncio.Task[Any]] = set()
        for instance in cluster.instances:
            instance.on_interruption.append(self._interrupted)

    async def close(self) -> None:
        """End what is still being copied, and remove the bytes."""
        await self.storage.close()
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

    def _interrupted(self, instance: Instance) -> None:
        self.holdings.forget(instance)
        self.storage.interrupted(instance)

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
        owner = self.owner(file.subfolder, file.type)[0] or self.makers.of(file)
        is_owners = owner is not None and self.storage.same(owner, instance, file.type)
        if owner is not None and file.type in MARKED_TYPES:
            return is_owners
        return version is not None or is_owners

    async def locate(self, file: FileName) -> Instance | None:
        """Who answers for a name without a mark; None if nobody has it.

        The one who made it last, if that is on record; else the first that has it. If a result is
        gone from its maker, one that was given a copy answers; a file of that name that another
        instance made does not count. Raises
        UnavailableError if the record names an instance that is away: the same name elsewhere
        may be another picture.
        """
        # Names that were told without a mark when all shared the directory are those of its files.
        if former := [one for one in self.storage.former(file.type) if one.healthy]:
            for holder in await self.holders(file, former):
                return holder
        recorded = self.makers.of(file)
        if recorded is not None:
            if await self.holders(file, await self.cluster.healthy([recorded])):
                return recorded
            if file.type in MARKED_TYPES and not recorded.healthy:
                raise UnavailableError(
                    "The ComfyUI instance that has this file cannot be reached.",
                    retry_after_s=RETRY_AFTER_S,
                )
        others = [instance for instance in self.healthy() if instance is not recorded]
        is_gone = file.type in MARKED_TYPES and self.makers.is_sure(file)
        if is_gone:
            others = [one for one in others if self.holdings.version(one, file) is not None]
        holders = await self.holders(file, others)
        return holders[0] if holders else recorded if is_gone else None

    async def holders(self, file: FileName, asked: Iterable[Instance]) -> list[Instance]:
        """Those of ``asked`` that have exactly this path, in that order."""
        asked = list(asked)
        looks = await asyncio.gather(*(self.try_look(instance, file) for instance in asked))
        return [one for one, found in zip(asked, looks, strict=True) if found and found.there]

    async def look(self, instance: Instance, file: FileName) -> Look:
        """What ``instance`` tells of ``file``. Raises InstanceError.

        A file that it shows to nobody is there if our records say so.
        """
        found = await look(instance, self.cluster, file)
        maker = self.makers.of(file)
        believed = self.holdings.version(instance, file) is not None or (
            maker is not None and self.storage.same(maker, instance, file.type)
        )
        return THERE if found.status == 400 and believed else found

    async def try_look(self, instance: Instance, file: FileName) -> Look | None:
        """As :meth:`look`; None if it does not answer."""
        try:
            return await self.look(instance, file)
        except InstanceError:
            return None

    def healthy(self) -> list[Instance]:
        return [instance for instance in self.cluster.instances if instance.healthy]

    # --- what happens to files ---------------------------------------------------------

    def received(
        self, file: FileName, content: StoredBytes | None, at: Instance, *, life: int
    ) -> None:
        """``at`` has just taken ``content`` as ``file``: the newest bytes of that name.

        None if they cannot be read back: then only ``at`` has them, and older bytes are forgotten.
        """
        if content is None:
            self.uploads.forget(file)
        else:
            self.uploads.keep(file, content)
        self.holdings.note(at, file, content.digest if content else "", life=life)
        self.makers.record(file, at)

    def made(
        self, file: FileName, at: Instance, made_at: float | None = None, *, is_sure: bool = True
    ) -> None:
        """A node at ``at`` has written ``file``, or shows it again.

        ``is_sure`` is False if only a text names the file, which may mean another one. ``made_at``
        (seconds since the epoch) is when, now if None; nothing changes if another instance is known
        to have made the name since.
        """
        is_last = self.makers.record(file, at, made_at, is_sure=is_sure)
        if is_last and file.type in MARKED_TYPES and file in self.uploads:
            self.uploads.forget(file)
            self.holdings.discard(at, file)

    async def spread(self, file: FileName, *, but: Instance) -> None:
        """Put an upload on every other healthy instance; one that fails goes without.

        Returns after ``SPREAD_PATIENCE_S`` at the latest; the copying goes on.
        """
        others = [instance for instance in self.healthy() if instance is not but]
        copies = [self.begin(self.stage(file, instance)) for instance in others]
        try:
            async with self.cluster.clock.timeout(SPREAD_PATIENCE_S):
                await asyncio.gather(*map(asyncio.shield, copies))
        except TimeoutError:
            slow = [one.host for one, copy in zip(others, copies, strict=True) if not copy.done()]
            logger.info("{} is still being copied to {}", file, ", ".join(slow))

    async def stage(self, file: FileName, instance: Instance, *, fresh: bool = False) -> bool:
        """See to it that ``instance`` has ``file`` under exactly that path, if anybody has it.

        False if it has another result under that name, which is not to be overwritten: who means
        ``file`` must be served elsewhere. ``fresh``: nothing is believed to be there, it is asked.
        Never fails: what could not be brought is told by ComfyUI's own answer.
        """
        return await self._staging.stage(file, instance, fresh=fresh)
