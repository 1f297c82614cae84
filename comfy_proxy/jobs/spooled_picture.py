"""A picture on its way through the proxy: its bytes, and what they show."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Final

from comfy_proxy.jobs.pictures import PictureInfo, inspect_picture
from comfy_proxy.stored_bytes import StoredBytes

MEMORY_BYTES: Final = 1_048_576
"""Bytes of a picture that stay in memory; a larger one goes to a temporary file."""
SUM_BYTES: Final = 64 * 2**20
"""Bytes of all pictures of unfinished jobs that may be in memory before ``FEW_BYTES`` is the limit
for each new one: a thousand jobs with a megabyte each must not take a gigabyte."""
FEW_BYTES: Final = 32_768


class SpooledPicture(StoredBytes):
    """The bytes of a picture; disk work and the look at it run on ``executor``."""

    def __init__(self, executor: Executor, memory_bytes: int = MEMORY_BYTES) -> None:
        super().__init__(memory_bytes=memory_bytes, executor=executor)
        self._info: PictureInfo | None = None

    @property
    def info(self) -> PictureInfo:
        """What the picture is. Raises RuntimeError before :meth:`inspect`."""
        if self._info is None:
            raise RuntimeError("the picture was not inspected yet")
        return self._info

    def known(self, info: PictureInfo) -> None:
        """An earlier process has looked at it: it is ``info``."""
        self._info = info

    async def inspect(self, *, field: str) -> PictureInfo:
        """Find out what the picture is, on the executor; raises InvalidFieldError.

        See :func:`~comfy_proxy.jobs.pictures.inspect_picture`.
        """

        def look() -> PictureInfo:
            with self.open() as file:
                return inspect_picture(file, field=field)

        self._info = await self._in_thread(look)
        return self._info
