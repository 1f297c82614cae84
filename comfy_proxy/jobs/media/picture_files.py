"""Picture files: their formats told by content, opened and decoded under a pixel limit.

Pillow's format classes are used directly instead of ``Image.open``. That obeys a module-wide pixel
limit, on which other code in the process may depend, and gives warnings that cannot be caught in
one thread only.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO, Final, cast

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

_HEAD_BYTES: Final = 32  # enough for each signature and each declared size
_BOMBS: Final = (Image.DecompressionBombError, Image.DecompressionBombWarning)


@dataclass(frozen=True)
class _Format:
    reader: type[ImageFile.ImageFile]
    media_type: str
    extension: str


FORMATS: Final[dict[str, _Format]] = {
    "PNG": _Format(PngImagePlugin.PngImageFile, "image/png", ".png"),
    # The plain JPEG class reads an MPO as its first picture, which is what ComfyUI does.
    "JPEG": _Format(JpegImagePlugin.JpegImageFile, "image/jpeg", ".jpg"),
    "WEBP": _Format(WebPImagePlugin.WebPImageFile, "image/webp", ".webp"),
    "GIF": _Format(GifImagePlugin.GifImageFile, "image/gif", ".gif"),
    "BMP": _Format(BmpImagePlugin.BmpImageFile, "image/bmp", ".bmp"),
    "TIFF": _Format(TiffImagePlugin.TiffImageFile, "image/tiff", ".tif"),
}

_SIGNATURES: Final = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)


class TooManyPixelsError(Exception):
    """The picture has more pixels than allowed; known from its header, before it is decoded."""


class UnreadableError(Exception):
    """Not a picture of a known format, broken, or cut off; the message says which."""


def open_picture(file: BinaryIO, max_pixels: int) -> tuple[ImageFile.ImageFile, str]:
    """The picture with its header read, and the name of its format. The file stays the caller's.

    Raises UnreadableError, or TooManyPixelsError over ``max_pixels``.
    """
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    name = _format_of(head)
    if name is None:
        raise UnreadableError(f"is none of {', '.join(FORMATS)}")
    _check_size(_declared_size(name, head), max_pixels)
    try:
        image = FORMATS[name].reader(file)
    except _BOMBS:
        raise TooManyPixelsError from None
    except Exception:  # hostile input makes Pillow raise nearly anything; all of it means this
        raise UnreadableError(f"is a broken {name}") from None
    _check_size(image.size, max_pixels)
    return image, name


def _format_of(head: bytes) -> str | None:
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    return next((name for magic, name in _SIGNATURES if head.startswith(magic)), None)


def _declared_size(name: str, head: bytes) -> tuple[int, int] | None:
    """Width and height from the first bytes; None for formats whose reader tells them cheaply.

    The readers of the formats here allocate memory for the picture, or need more of the file,
    before its size can be looked at.
    """
    if name == "PNG" and len(head) >= 24 and head[12:16] == b"IHDR":
        return cast(tuple[int, int], struct.unpack(">II", head[16:24]))
    if name == "GIF" and len(head) >= 10:
        return cast(tuple[int, int], struct.unpack("<HH", head[6:10]))
    if name == "WEBP" and len(head) >= 30 and head[12:16] == b"VP8X":
        width, height = (int.from_bytes(head[at : at + 3], "little") for at in (24, 27))
        return width + 1, height + 1
    if name == "WEBP" and len(head) >= 30 and head[12:16] == b"VP8 ":
        width, height = struct.unpack("<HH", head[26:30])
        return width & 0x3FFF, height & 0x3FFF
    if name == "WEBP" and len(head) >= 25 and head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def _check_size(size: tuple[int, int] | None, max_pixels: int) -> None:
    if size is None:
        return
    if size[0] <= 0 or size[1] <= 0:
        raise UnreadableError("has no pixels")
    if size[0] * size[1] > max_pixels:
        raise TooManyPixelsError


def decode(image: ImageFile.ImageFile, name: str) -> None:
    """Decode the current frame whole; raises UnreadableError or TooManyPixelsError."""
    try:
        image.load()
    except _BOMBS:
        raise TooManyPixelsError from None
    except Exception:  # see open_picture
        raise UnreadableError(f"is a broken or truncated {name}") from None


def verify(image: ImageFile.ImageFile) -> None:
    """Check that a PNG's chunks are whole, by their checksums; no pixel is decoded.

    Raises UnreadableError.
    """
    try:
        image.verify()
    except Exception:  # see open_picture
        raise UnreadableError("is a broken or truncated PNG") from None
