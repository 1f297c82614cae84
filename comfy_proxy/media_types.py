"""The media type of a file by its name: one table, the same on every machine.

Python's own table, without what the machine adds (``/etc/mime.types``): a result must not be a
picture here and a mere file there. Of what ComfyUI makes it lacks some, which stand here.
"""

from __future__ import annotations

import mimetypes
from pathlib import PurePosixPath
from typing import Final

ANY_BYTES: Final = "application/octet-stream"
"""The media type of a file of which nothing is known (RFC 2046, 4.5.1)."""
_MORE: Final = {
    ".amr": "audio/amr",
    ".avif": "image/avif",
    ".fbx": "model/fbx",
    ".flac": "audio/flac",
    ".flv": "video/x-flv",
    ".glb": "model/gltf-binary",
    ".gltf": "model/gltf+json",
    ".m4a": "audio/mp4",
    ".m4v": "video/mp4",
    ".mka": "audio/x-matroska",
    ".mkv": "video/x-matroska",
    ".mpga": "audio/mpeg",
    ".obj": "model/obj",
    ".oga": "audio/ogg",
    ".ogg": "audio/ogg",
    ".ogv": "video/ogg",
    ".opus": "audio/ogg",
    ".ply": "model/ply",
    ".safetensors": ANY_BYTES,
    ".stl": "model/stl",
    ".usdz": "model/vnd.usdz+zip",
    ".webm": "video/webm",
    ".webp": "image/webp",
    ".wma": "audio/x-ms-wma",
    ".wmv": "video/x-ms-wmv",
}
_TYPES: Final = mimetypes.MimeTypes()
"""Python's table as it is shipped; never changed."""


def media_type_of(name: str) -> str:
    """The media type by the last extension of ``name``, which may be nothing but that (``.png``);
    :data:`ANY_BYTES` if it is not known."""
    extension = PurePosixPath(f"x{name}".lower()).suffix
    return _MORE.get(extension) or _TYPES.guess_type(f"x{extension}", strict=False)[0] or ANY_BYTES
