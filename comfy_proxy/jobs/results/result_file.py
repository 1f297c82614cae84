"""One result of a job: its bytes, and what a client is told of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from comfy_proxy.stored_bytes import StoredBytes

MEMORY_BYTES: Final = 8 * 2**20
"""Bytes of a result that stay in memory; a larger one goes to a temporary file."""


ResultType = Literal["image", "animation", "video", "audio", "model3d", "text", "data", "file"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ResultFile:
    """``name`` is a file name of use to whoever saves it. ``width`` and ``height`` are pixels, None
    for what is no picture."""

    type: ResultType
    name: str
    media_type: str
    body: StoredBytes
    width: int | None = None
    height: int | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        return self.body.size

    @property
    def etag(self) -> str:
        """A strong validator, of the bytes (RFC 9110, 8.8.3)."""
        return f'"{self.body.digest[:32]}"'


Results = tuple[ResultFile, ...]
"""All results of a job in their order; there is at least one."""


def size_of(results: Results) -> int:
    """Bytes of all of them."""
    return sum(one.size for one in results)


def close(results: Results) -> None:
    """Forget their bytes. A reader that was opened before goes on to its end."""
    for one in results:
        one.body.close()
