"""How a file gets to the instance where it is needed, under exactly its path (PROTOCOL.md trap 18).

* An upload: its newest bytes are put wherever that version is not known to be.
* A prefixed result (``@2/…``): read from its owner, and put under exactly the prefixed path, at the
  owner itself too, since graphs name that path.
* A result without a prefix: copied to an instance that lacks the name, and never put over another
  result of that name.
* Another input: an instance that has the name keeps its own file, one that lacks it gets a copy.
* A name with ``..``: ``/view`` refuses it, so the file cannot be read to be copied. It is used
  where it is, unless it is an upload whose bytes are here.

Each file is brought to a place by one task at a time; a directory that all instances share is one
place. Nothing is copied there, unless an upload has gone from it.

Instances may share a directory though ``SHARED_STORAGE`` does not say so. A file must not be
written over itself then, which empties it for a moment while a prompt may be reading it: so it is
asked first whether the same bytes are there, and where nothing is, nothing is written over
(``put``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from loguru import logger

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import InstanceError, UnavailableError
from comfy_proxy.gateway.files.client import Look, download, put
from comfy_proxy.gateway.files.file_holders import FileHolders
from comfy_proxy.gateway.files.file_name import RESULT_TYPES, FileName, is_hidden
from comfy_proxy.gateway.files.keyed_locks import KeyedLocks
from comfy_proxy.gateway.files.records import Upload
from comfy_proxy.stored_bytes import StoredBytes


class FileStaging:
    """Brings files to instances, by what ``files`` knows and learns of them."""

    def __init__(self, files: FileHolders) -> None:
        self._files = files
        self._cluster = files.cluster
        self._locks = KeyedLocks()

    async def stage(self, file: FileName, instance: Instance, *, fresh: bool = False) -> bool:
        """See to it that ``instance`` has ``file`` under exactly that path, if anybody has it.

        False if it has another result under that name, which is not to be overwritten: who means
        ``file`` must be served elsewhere. ``fresh``: nothing is believed to be there, it is asked.
        Never fails: what could not be brought is told by ComfyUI's own answer.
        """
        place = self._files.storage.place(instance, file.type)
        async with self._locks((file, place)):
            try:
                return await self._stage(file, instance, fresh=fresh)
            except (InstanceError, UnavailableError, OSError, ValueError) as error:
                logger.warning("{} is without {}: {}", instance.host, file, error)
                return True

    async def _stage(self, file: FileName, instance: Instance, *, fresh: bool) -> bool:
        if file in self._files.uploads:
            return await self._stage_upload(file, instance, fresh=fresh)
        owner, inner = self._files.owner(file.subfolder, file.type)
        if owner is not None:
            source = FileName(filename=file.filename, subfolder=inner, type=file.type)
            await self._stage_output(file, instance, owner, source)
        elif self._files.storage.is_common(file.type):
            pass  # whoever has it, this one has it
        elif file.type in RESULT_TYPES:
            return await self._stage_result(file, instance)
        else:
            return await self._stage_input(file, instance, fresh=fresh)
        return True

    # --- uploads -----------------------------------------------------------------------

    async def _stage_upload(self, file: FileName, instance: Instance, *, fresh: bool) -> bool:
        while upload := self._files.uploads.get(file):
            if not fresh and self._files.holdings.version(instance, file) == upload.digest:
                return True
            try:
                return await self._bring_upload(file, upload, instance)
            except FileNotFoundError:
                # Newer bytes came meanwhile, or these were crowded out or tidied away.
                if upload.content is None:
                    raise
                self._files.uploads.lost(file, upload.content)
        return await self._stage(file, instance, fresh=fresh)

    async def _bring_upload(self, file: FileName, upload: Upload, instance: Instance) -> bool:
        """Raises FileNotFoundError if the bytes are closed meanwhile."""
        holdings = self._files.holdings
        life = holdings.life(instance)
        found = await self._files.look(instance, file)
        present = await self._present(file, upload, instance, found)
        if present != upload.digest:
            if present is not None and file.type in RESULT_TYPES and present not in upload.earlier:
                return False
            async with self._uploaded(file, upload) as content:
                if content is None:
                    return await self._stage_input(file, instance, fresh=False)
                await self._write(instance, file, content, found)
        holdings.note(instance, file, upload.digest, life=life)
        return True

    async def _present(
        self, file: FileName, upload: Upload, instance: Instance, found: Look
    ) -> str | None:
        """The digest of what is there under an upload's name; None if nothing is.

        The same bytes are not to be written again: a prompt may be reading them just now.
        """
        if not found.there:
            return None
        if self._files.storage.is_common(file.type):
            return upload.digest  # nobody has missed anything: it is what was made of it since
        if is_hidden(file):
            return self._files.holdings.version(instance, file) or ""
        if found.size != upload.size and file.type not in RESULT_TYPES:
            return ""  # something else, whatever it is
        held = self._files.holdings.version(instance, file)
        return held if held == upload.digest else await self._digest(instance, file)

    @asynccontextmanager
    async def _uploaded(self, file: FileName, upload: Upload) -> AsyncIterator[StoredBytes | None]:
        """The bytes, from here or from whoever has them."""
        if upload.content is not None:
            yield upload.content
            return
        for source in self._files.healthy():
            if self._files.holdings.version(source, file) == upload.digest:
                async with self._downloaded(source, file) as content:
                    if content is not None and content.digest == upload.digest:
                        yield content
                        return
        yield None

    # --- results -----------------------------------------------------------------------

    async def _stage_output(
        self, file: FileName, instance: Instance, owner: Instance, source: FileName
    ) -> None:
        """A prefixed one; its owner may have written another one under that name since."""
        holdings = self._files.holdings
        life = holdings.life(instance)
        found = await self._files.try_look(owner, source) if owner.healthy else None
        if found is None or not found.there:
            await self._stage_input(file, instance, fresh=False)
        elif holdings.version(instance, file) != found.version:
            async with self._downloaded(owner, source) as content:
                if content is not None:
                    await self._put(instance, file, content, found.version, life)

    async def _stage_result(self, file: FileName, instance: Instance) -> bool:
        """One without a prefix. False if ``instance`` has another result of that name."""
        holdings = self._files.holdings
        life = holdings.life(instance)
        found = await self._files.look(instance, file)
        try:
            source = await self._files.locate(file)
        except UnavailableError:
            return not found.there
        if source is None or source is instance:
            return True
        newest = await self._files.look(source, file)
        if found.there and holdings.version(instance, file) == f"{newest.version} {found.version}":
            return True
        async with self._downloaded(source, file) as content:
            if content is None:  # gone, or shown to nobody: a file of that name here is another one
                return not (found.there or is_hidden(file))
            if not found.there:
                await self._write(instance, file, content, found)
                found = await self._files.look(instance, file)
            elif await self._digest(instance, file) != content.digest:
                return False
        holdings.note(instance, file, f"{newest.version} {found.version}", life=life)
        return True

    # --- everything else ---------------------------------------------------------------

    async def _stage_input(self, file: FileName, instance: Instance, *, fresh: bool) -> bool:
        """An input that is no upload of ours: an instance that has the name keeps its own file, one
        that lacks it gets a copy. False if it lies elsewhere and cannot be copied."""
        holdings = self._files.holdings
        if not fresh and holdings.version(instance, file) is not None:
            return True
        life = holdings.life(instance)
        found = await self._files.look(instance, file)
        if found.there:
            holdings.note(instance, file, "", life=life)
        if found.there or not (found.status == 404 or is_hidden(file)):
            return True
        source = await self._files.locate(file)
        if source is None or source is instance:
            return True
        async with self._downloaded(source, file) as content:
            if content is None:
                return not is_hidden(file)
            await self._put(instance, file, content, "", life, found)
            return True

    async def _put(
        self,
        instance: Instance,
        file: FileName,
        content: StoredBytes,
        version: str,
        life: int,
        found: Look | None = None,
    ) -> None:
        """Put it there, unless the same bytes are: a prompt may be reading them just now."""
        holdings = self._files.holdings
        found = found or await self._files.look(instance, file)
        same = found.there and found.size == content.size
        if not (same and await self._digest(instance, file) == content.digest):
            await self._write(instance, file, content, found)
        holdings.note(instance, file, version, life=life)

    async def _write(
        self, instance: Instance, file: FileName, content: StoredBytes, found: Look
    ) -> None:
        """Put it there, where it was seen as ``found`` before."""
        self._files.holdings.discard(instance, file)
        # A hidden name in a folder is answered by 400, whether it is there or not.
        overwrite = found.status != 404
        # One instance at a time: if they share the directory the second one must not compare its
        # bytes with a half of them, and then keep both under two names.
        async with self._locks(file):
            await put(instance, self._cluster, file, content, overwrite=overwrite)

    async def _digest(self, instance: Instance, file: FileName) -> str | None:
        async with self._downloaded(instance, file) as present:
            return None if present is None else present.digest

    @asynccontextmanager
    async def _downloaded(
        self, instance: Instance, file: FileName
    ) -> AsyncIterator[StoredBytes | None]:
        content = await download(instance, self._cluster, file)
        try:
            yield content
        finally:
            if content is not None:
                content.close()
