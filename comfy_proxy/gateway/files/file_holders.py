"""Which instances have a file: by what is known, and by asking. All instances' files are one.

What counts depends on the kind of file:

* an upload that came through here: its newest bytes are known by their hash, and an instance has it
  if it has that version;
* a prefixed result (``@2/…``) is its owner's; others may have a copy under exactly that path;
* a result without a prefix is that of the instance that made the name last, else of the first that
  has it. The same name at another instance is another file;
* another input (put on a disk directly, or before the proxy was restarted): every instance that has
  the name has the file;
* a name with ``..``: ``/view`` refuses it, so nobody can look at the file. It is believed to be
  where it was uploaded or made.

Where all instances share a directory it is one place: what one of them has, all have, and who made
a file says nothing.

An instance is believed to hold what it held until it was away: then its disk may have been emptied.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import InstanceError, UnavailableError
from comfy_proxy.gateway.files.asset_owners import AssetOwners
from comfy_proxy.gateway.files.client import THERE, Look, look
from comfy_proxy.gateway.files.disks import Disks
from comfy_proxy.gateway.files.file_name import RESULT_TYPES, FileName
from comfy_proxy.gateway.files.instance_prefix import split_prefix
from comfy_proxy.gateway.files.makers import Makers
from comfy_proxy.gateway.files.records import Holdings, UploadRecords
from comfy_proxy.gateway.files.shared_storage import SharedStorage
from comfy_proxy.stored_bytes import StoredBytes

if TYPE_CHECKING:
    from comfy_proxy.cluster.cluster import Cluster

RETRY_AFTER_S = 5
"""What a client is told to wait if the only instance that has a file is away."""


class FileHolders:
    """The records of one cluster's files; :meth:`close` at the end."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.uploads = UploadRecords()
        self.makers = Makers(cluster.clock)
        self.asset_owners = AssetOwners()
        self.storage = SharedStorage(cluster.settings.shared_storage)
        self.holdings = Holdings(place=self.storage.place)
        self.disks = Disks(cluster, self.makers, self.storage)
        cluster.instances.each(lambda one: one.on_interruption.append(self._interrupted))
        cluster.instances.on_removed.append(self._removed)

    def close(self) -> None:
        """Remove the bytes of uploads."""
        self.uploads.close()

    def _removed(self, instance: Instance) -> None:
        self._interrupted(instance)
        self.makers.removed(instance)
        self.asset_owners.removed(instance)

    def _interrupted(self, instance: Instance) -> None:
        # What the others tell just now of a directory that they share with it is in doubt too.
        for one in self.cluster.instances if self.storage.kinds else (instance,):
            self.holdings.forget(one)

    # --- who has it --------------------------------------------------------------------

    def owner(self, subfolder: str, kind: str) -> tuple[Instance | None, str]:
        """The instance that the prefix of ``subfolder`` names, and the subfolder there."""
        if kind not in RESULT_TYPES:
            return None, subfolder
        mark, inner = split_prefix(subfolder, self.disks)
        return (None, subfolder) if mark is None else (self.disks.of(mark), inner)

    def known_to_hold(self, file: FileName, instance: Instance) -> bool:
        """True if a graph that names ``file`` finds it there, by what is known; asks nobody."""
        version = self.holdings.version(instance, file)
        if upload := self.uploads.get(file):
            return version == upload.digest
        owner = self.owner(file.subfolder, file.type)[0] or self.makers.of(file)
        is_owners = owner is not None and self.storage.same(owner, instance, file.type)
        if owner is not None and file.type in RESULT_TYPES:
            return is_owners
        return version is not None or is_owners

    async def locate(self, file: FileName) -> Instance | None:
        """Who answers for a name without a prefix; None if nobody has it.

        The one who made it last, if that is on record; else the first that has it. If a result is
        gone from its maker, one that was given a copy answers; a file of that name that another
        instance made does not count. Raises UnavailableError if the maker of a result is away: the
        same name elsewhere may be another picture.
        """
        recorded = None if self.storage.is_common(file.type) else self.makers.of(file)
        if recorded is not None:
            if await self.holders(file, await self.cluster.healthy([recorded])):
                return recorded
            if file.type in RESULT_TYPES and not recorded.healthy:
                raise UnavailableError(
                    "The ComfyUI instance that has this file cannot be reached.",
                    retry_after_s=RETRY_AFTER_S,
                )
        others = [instance for instance in self.healthy() if instance is not recorded]
        is_gone = recorded is not None and file.type in RESULT_TYPES and self.makers.is_sure(file)
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
        if is_last and file.type in RESULT_TYPES and file in self.uploads:
            self.uploads.forget(file)
            self.holdings.discard(at, file)
