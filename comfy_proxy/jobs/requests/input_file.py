"""A file on its way through the proxy: its bytes, and what they are."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Final

from comfy_proxy.jobs.media.file_info import FileInfo, FileKind
from comfy_proxy.jobs.media.file_kinds import inspect_file
from comfy_proxy.stored_bytes import StoredBytes, run_in

MEMORY_BYTES: Final = 1_048_576
"""Bytes of a file that stay in memory; a larger one goes to a temporary file."""
SUM_BYTES: Final = 64 * 2**20
"""Bytes of all files of unfinished jobs that may be in memory; beyond, a new file stays there only
up to FEW_BYTES: a thousand jobs with a megabyte each must not take a gigabyte."""
FEW_BYTES: Final = 32_768
"""Bytes of a new file that stay in memory once SUM_BYTES are reached."""


class InputFile(StoredBytes):
    """The bytes of one file; disk work and the look at it run on ``executor``.

    ``client_name`` is what the client calls it, "" if it does not say.
    """

    def __init__(
        self, executor: Executor, memory_bytes: int = MEMORY_BYTES, client_name: str = ""
    ) -> None:
        super().__init__(memory_bytes=memory_bytes, executor=executor)
        self.client_name = client_name
        self._info: FileInfo | None = None

    @property
    def info(self) -> FileInfo:
        """What the file is. Raises RuntimeError before :meth:`inspect`."""
        if self._info is None:
            raise RuntimeError("the file was not inspected yet")
        return self._info

    def known(self, info: FileInfo) -> None:
        """An earlier process has looked at it: it is ``info``."""
        self._info = info

    async def inspect(self, kind: FileKind, *, field: str) -> FileInfo:
        """Find out what the file is, on the executor; raises InvalidFieldError naming ``field``.

        ``kind`` is what its parameter takes; the codes of the error are those of
        :func:`~comfy_proxy.jobs.media.file_kinds.inspect_file`.
        """

        def look() -> FileInfo:
            with self.open() as file:
                return inspect_file(file, kind, field=field, client_name=self.client_name)

        self._info = await run_in(self._executor, look)
        return self._info
