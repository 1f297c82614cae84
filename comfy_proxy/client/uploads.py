"""Files on their way to the proxy: a path, bytes, or something open."""

from __future__ import annotations

import io
import mimetypes
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from comfy_proxy.client.errors import ClientError

FileInput = str | os.PathLike[str] | bytes | IO[bytes]
"""A path (a text is one too), the bytes themselves, or a file that is open for reading bytes."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A file that is open: read as it is sent, a piece at a time.

    ``repeatable``: it can be read from its beginning once more. ``ours``: we opened it.
    """

    name: str
    media_type: str
    stream: IO[bytes]
    repeatable: bool
    ours: bool

    def close(self) -> None:
        """Close it if we opened it."""
        if self.ours:
            self.stream.close()


def is_file(value: Any) -> bool:
    """Whether a keyword argument is a file: anything but a text, a number or a truth."""
    return isinstance(value, bytes | os.PathLike) or hasattr(value, "read")


def open_upload(value: FileInput) -> Upload:
    """Raises OSError if a path cannot be opened, ClientError if ``value`` is nothing to read."""
    if isinstance(value, bytes):
        return _upload("file", io.BytesIO(value), ours=True)
    if isinstance(value, str | os.PathLike):
        path = Path(value)
        return _upload(path.name, path.open("rb"), ours=True)
    if not hasattr(value, "read") or isinstance(value, io.TextIOBase):
        raise ClientError(f"{value!r} is no path, no bytes and no file that is open for bytes.")
    name = getattr(value, "name", None)
    return _upload(Path(name).name if isinstance(name, str) else "file", value, ours=False)


def close_all(uploads: Mapping[str, Upload]) -> None:
    for upload in uploads.values():
        upload.close()


def _upload(name: str, stream: IO[bytes], *, ours: bool) -> Upload:
    # It goes into a header, where a control character or a byte that is no UTF-8 makes the form one
    # that nobody reads; the proxy looks at its ending only.
    name = "".join(one if one.isprintable() else "_" for one in name)
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    repeatable = hasattr(stream, "seekable") and stream.seekable()
    return Upload(name=name, media_type=kind, stream=stream, repeatable=repeatable, ours=ours)
