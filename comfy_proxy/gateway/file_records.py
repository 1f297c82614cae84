"""What is known of files: the uploads with their bytes, and which instance holds which version.

Both are bounded and forget the oldest; what is forgotten is found again by asking.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.ownership import MAX_RECORDS, FileName
from comfy_proxy.gateway.stored_bytes import StoredBytes

MAX_STORED_FILES = 1_000
MAX_STORED_BYTES = 256 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """The newest bytes under a name, by their SHA-256; ``content`` until it is crowded out."""

    digest: str
    size: int
    content: StoredBytes | None = field(default=None, repr=False)


class Uploads:
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
        self._known: OrderedDict[FileName, tuple[str, int]] = OrderedDict()
        self._stored: OrderedDict[FileName, StoredBytes] = OrderedDict()
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<Uploads {len(self._known)} names, {len(self._stored)} stored: {self._bytes} B>"

    def __contains__(self, file: FileName) -> bool:
        return file in self._known

    def keep(self, file: FileName, content: StoredBytes) -> None:
        """``content`` is what ``file`` is from now on; it is closed here, some time."""
        self._drop(file)
        self._known[file] = content.digest, content.size
        self._known.move_to_end(file)
        self._stored[file] = content
        self._bytes += content.size
        while len(self._stored) > self._max_files or self._bytes > self._max_bytes:
            self._drop(next(iter(self._stored)))
        while len(self._known) > self._max_records:
            self._drop(self._known.popitem(last=False)[0])

    def get(self, file: FileName) -> Upload | None:
        """The upload, now the last to be crowded out."""
        if file not in self._known:
            return None
        self._known.move_to_end(file)
        digest, size = self._known[file]
        content = self._stored.get(file)
        if content is not None:
            self._stored.move_to_end(file)
        return Upload(digest=digest, size=size, content=content)

    def close(self) -> None:
        """Remove all bytes."""
        for file in tuple(self._stored):
            self._drop(file)

    def _drop(self, file: FileName) -> None:
        content = self._stored.pop(file, None)
        if content is not None:
            self._bytes -= content.size
            content.close()


class Holdings:
    """Which version of a file an instance holds, until it was away (``on_interruption``).

    A version is the SHA-256 of an upload, what tells the versions of an owner's output apart, or
    ``""``: it holds the file, whatever is in it.
    """

    def __init__(self, limit: int = MAX_RECORDS) -> None:
        self._limit = limit
        self._versions: OrderedDict[tuple[Instance, FileName], str] = OrderedDict()
        self._lives: dict[Instance, int] = {}

    def version(self, instance: Instance, file: FileName) -> str | None:
        """What it holds under that name; None if that is not known."""
        return self._versions.get((instance, file))

    def life(self, instance: Instance) -> int:
        """Changes whenever the instance may have lost its files; for :meth:`note`."""
        return self._lives.get(instance, 0)

    def note(self, instance: Instance, file: FileName, version: str, *, life: int) -> None:
        """It held that version in that ``life``, which began before the instance was asked."""
        if life != self.life(instance):
            return
        self._versions[instance, file] = version
        self._versions.move_to_end((instance, file))
        if len(self._versions) > self._limit:
            self._versions.popitem(last=False)

    def discard(self, instance: Instance, file: FileName) -> None:
        self._versions.pop((instance, file), None)

    def forget(self, instance: Instance) -> None:
        """It was away, and may have come back empty."""
        self._lives[instance] = self.life(instance) + 1
        for key in [key for key in self._versions if key[0] is instance]:
            del self._versions[key]
