"""What is known of files: the uploads with their bytes, and who holds which version.

Both are bounded and forget the oldest; what is forgotten is found again by asking.
"""

from __future__ import annotations

import posixpath
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.roster import ByInstance
from comfy_proxy.gateway.files.file_name import FILE_TYPES, FileName
from comfy_proxy.gateway.files.makers import MAX_RECORDS
from comfy_proxy.stored_bytes import StoredBytes

MAX_STORED_FILES = 1_000
MAX_STORED_BYTES = 256 * 2**20
"""Of uploads whose bytes are kept here (256 MiB, mostly in temporary files). Beyond, the bytes that
were used longest ago go; the upload is then copied from an instance that has it."""
MAX_EARLIER = 8
"""How many older versions of an upload are known by their hash. A result under its name that is
none of them is taken for another file, and is not overwritten."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """The newest bytes under a name, by their SHA-256; ``content`` until it is crowded out.

    ``earlier``: the digests of what was uploaded under this name before, the latest few.
    """

    digest: str
    size: int
    earlier: tuple[str, ...] = ()
    content: StoredBytes | None = field(default=None, repr=False)


class UploadRecords:
    """The uploads by name: what each is, and the bytes of the latest of them."""

    def __init__(
        self,
        *,
        max_records: int = MAX_RECORDS,
        max_files: int = MAX_STORED_FILES,
        max_bytes: int = MAX_STORED_BYTES,
    ) -> None:
        self._max_records = max_records
        self._max_files = max_files
        self._max_bytes = max_bytes
        self._known: OrderedDict[FileName, Upload] = OrderedDict()
        self._stored: OrderedDict[FileName, StoredBytes] = OrderedDict()
        self._below: dict[str, dict[FileName, None]] = {}
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<Uploads {len(self._known)} names, {len(self._stored)} stored: {self._bytes} B>"

    def __contains__(self, file: FileName) -> bool:
        return file in self._known

    def keep(self, file: FileName, content: StoredBytes) -> None:
        """``content`` is what ``file`` is from now on; its closing is left to these records."""
        self._drop(file)
        before = self._known.get(file)
        earlier = () if before is None else (*before.earlier, before.digest)[-MAX_EARLIER:]
        self._known[file] = Upload(digest=content.digest, size=content.size, earlier=earlier)
        self._known.move_to_end(file)
        for folder in _folders(file):
            self._below.setdefault(folder, {})[file] = None
        self._stored[file] = content
        self._bytes += content.size
        while len(self._stored) > self._max_files or self._bytes > self._max_bytes:
            self._drop(next(iter(self._stored)))
        while len(self._known) > self._max_records:
            self.forget(next(iter(self._known)))

    def get(self, file: FileName) -> Upload | None:
        """The upload, now the last to be crowded out."""
        upload = self._known.get(file)
        if upload is None:
            return None
        self._known.move_to_end(file)
        content = self._stored.get(file)
        if content is not None:
            self._stored.move_to_end(file)
        return replace(upload, content=content)

    def below(self, folder: str) -> list[FileName]:
        """The uploads below that folder of the input directory, in the order of their first one."""
        return list(self._below.get(folder, ()))

    def lost(self, file: FileName, content: StoredBytes) -> None:
        """``content`` of ``file`` cannot be read: somebody tidied the temporary directory."""
        if self._stored.get(file) is content:
            self._drop(file)

    def forget(self, file: FileName) -> None:
        """It is no upload any more: an instance has made a file of that name itself, say."""
        self._drop(file)
        self._known.pop(file, None)
        for folder in _folders(file):
            files = self._below.get(folder, {})
            files.pop(file, None)
            if not files:
                self._below.pop(folder, None)

    def close(self) -> None:
        """Remove all bytes."""
        for file in tuple(self._stored):
            self._drop(file)

    def _drop(self, file: FileName) -> None:
        content = self._stored.pop(file, None)
        if content is not None:
            self._bytes -= content.size
            content.close()


def _folders(file: FileName) -> Iterator[str]:
    """The folders of the input directory that ``file`` is below; none for a result."""
    folder = file.subfolder if file.type == "input" else ""
    while folder.strip("/"):
        yield folder
        folder = posixpath.dirname(folder)


def _own_place(instance: Instance, kind: str) -> Hashable:
    return instance


class Holdings:
    """Which version of a file an instance holds, until it was away (:meth:`forget`).

    A version is the SHA-256 of an upload; of a result the ETag and size that its owner told when it
    was copied; or ``""``: it holds the file, whatever is in it. ``place`` is the same for instances
    that share a directory: what one of them holds they all hold.
    """

    def __init__(
        self,
        limit: int = MAX_RECORDS,
        place: Callable[[Instance, str], Hashable] = _own_place,
    ) -> None:
        self._limit = limit
        self._place = place
        self._versions: OrderedDict[tuple[Hashable, FileName], str] = OrderedDict()
        self._lives = ByInstance[int]()

    def version(self, instance: Instance, file: FileName) -> str | None:
        """What it holds under that name; None if that is not known."""
        return self._versions.get(self._key(instance, file))

    def life(self, instance: Instance) -> int:
        """Counts how often the instance may have lost its files. To be read before it is asked, and
        given to :meth:`note` with what it answered."""
        return self._lives.get(instance, 0)

    def note(self, instance: Instance, file: FileName, version: str, *, life: int) -> None:
        """It held that version in that ``life``; ignored if it was away since."""
        if instance.left or life != self.life(instance):
            return
        key = self._key(instance, file)
        self._versions[key] = version
        self._versions.move_to_end(key)
        if len(self._versions) > self._limit:
            self._versions.popitem(last=False)

    def discard(self, instance: Instance, file: FileName) -> None:
        self._versions.pop(self._key(instance, file), None)

    def forget(self, instance: Instance) -> None:
        """It was away, and may have come back empty."""
        self._lives[instance] = self.life(instance) + 1
        places = {instance, *(self._place(instance, kind) for kind in FILE_TYPES)}
        for key in [key for key in self._versions if key[0] in places]:
            del self._versions[key]

    def _key(self, instance: Instance, file: FileName) -> tuple[Hashable, FileName]:
        return self._place(instance, file.type), file
