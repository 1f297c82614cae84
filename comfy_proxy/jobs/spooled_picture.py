"""A picture on its way through the proxy: its bytes, and what they show."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Final

from comfy_proxy.jobs.pictures import PictureInfo, inspect_picture
from comfy_proxy.stored_bytes import StoredBytes

MEMORY_BYTES: Final = 1_048_576
"""Bytes of a picture that stay in memory; a larger one goes to a temporary file."""


class SpooledPicture(StoredBytes):
    """The bytes of a picture; disk work and the look at it run on ``executor``."""

    def __init__(self, executor: Executor) -> None:
        super().__init__(memory_bytes=MEMORY_BYTES, executor=executor)
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
