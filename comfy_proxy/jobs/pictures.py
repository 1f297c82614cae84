"""Pictures in and out: what an upload is, and the format a result is wanted in.

Everything here is synchronous and CPU-bound; callers run it on an executor. Pillow's format
classes are used directly instead of ``Image.open``: that reads a module-wide pixel limit (other
code in the process may depend on it) and warns in a way that cannot be caught in one thread only.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import BinaryIO, Final, Literal, cast

from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from comfy_proxy.errors import InvalidFieldError, ResultError

MAX_UPLOAD_PIXELS: Final = 100_000_000
MAX_RESULT_PIXELS: Final = 16384 * 16384  # the largest picture that ComfyUI's own nodes make
SUBJECT_ALPHA: Final = 8  # of 255: fainter pixels are the noise of a matte, not its subject
DEFAULT_JPEG_QUALITY: Final = 92
DEFAULT_WEBP_QUALITY: Final = 90

_HEAD_BYTES: Final = 32
_BOMBS: Final = (Image.DecompressionBombError, Image.DecompressionBombWarning)


@dataclass(frozen=True)
class _Format:
    reader: type[ImageFile.ImageFile]
    media_type: str
    extension: str


_FORMATS: Final[dict[str, _Format]] = {
    "PNG": _Format(PngImagePlugin.PngImageFile, "image/png", "png"),
    # The plain JPEG class reads an MPO as its first picture, which is what ComfyUI does.
    "JPEG": _Format(JpegImagePlugin.JpegImageFile, "image/jpeg", "jpg"),
    "WEBP": _Format(WebPImagePlugin.WebPImageFile, "image/webp", "webp"),
    "GIF": _Format(GifImagePlugin.GifImageFile, "image/gif", "gif"),
    "BMP": _Format(BmpImagePlugin.BmpImageFile, "image/bmp", "bmp"),
    "TIFF": _Format(TiffImagePlugin.TiffImageFile, "image/tiff", "tif"),
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


@dataclass(frozen=True, kw_only=True)
class PictureInfo:
    """What an uploaded picture is.

    ``width`` and ``height`` are pixels after EXIF orientation. ``has_alpha`` is true where
    ComfyUI's LoadImage finds an alpha channel (protocol trap 26). ``frames`` is 1 for a still and
    more for an animation; GIF and TIFF are not counted to their end, which a hostile file could
    put very far away: theirs is 2.
    """

    format: str
    media_type: str
    extension: str
    width: int
    height: int
    has_alpha: bool
    frames: int


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A finished picture: encoded bytes, their media type and file extension, size in pixels."""

    data: bytes
    media_type: str
    extension: str
    width: int
    height: int


class _TooLargeError(Exception):
    """More pixels than allowed, decided from the header."""


class _UnreadableError(Exception):
    """Not a picture of a known format, broken, or cut off; the message says which."""


def inspect_picture(file: BinaryIO, *, field: str) -> PictureInfo:
    """What ``file`` holds, told by its content; its first frame is decoded to prove it whole.

    Raises InvalidFieldError naming ``field``: ``empty_image``, ``invalid_image`` (none of the
    formats, broken, cut off, no pixels) or ``image_too_large`` (over 100 megapixels).
    """
    file.seek(0)
    if not file.read(1):
        raise InvalidFieldError(field, f"The picture in {field} is empty.", code="empty_image")
    try:
        image, name = _open(file, MAX_UPLOAD_PIXELS)
        return _inspect(image, name)
    except _TooLargeError:
        limit = MAX_UPLOAD_PIXELS // 1_000_000
        message = f"The picture in {field} has more than {limit} megapixels."
        raise InvalidFieldError(field, message, code="image_too_large") from None
    except _UnreadableError as error:
        message = f"The picture in {field} {error}."
        raise InvalidFieldError(field, message, code="invalid_image") from None


def _inspect(image: ImageFile.ImageFile, name: str) -> PictureInfo:
    animated = bool(getattr(image, "is_animated", False))
    frames = 1
    if animated:
        frames = 2 if name in ("GIF", "TIFF") else int(getattr(image, "n_frames", 2))
    size = image.size
    has_alpha = "A" in image.getbands() or (image.mode == "P" and "transparency" in image.info)
    turned = _orientation(image) in (5, 6, 7, 8)
    if name == "JPEG":
        image.draft(image.mode, (1, 1))  # an eighth of each side: all bytes read, little memory
    _decode(image, name)
    if name == "TIFF":  # Pillow turns a TIFF while it decodes it
        size, turned = image.size, False
    width, height = reversed(size) if turned else size
    kind = _FORMATS[name]
    return PictureInfo(
        format=name,
        media_type=kind.media_type,
        extension=kind.extension,
        width=width,
        height=height,
        has_alpha=has_alpha,
        frames=frames,
    )


def _open(file: BinaryIO, max_pixels: int) -> tuple[ImageFile.ImageFile, str]:
    """The picture's header, read; the name of its format. The file stays the caller's."""
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    name = _format_of(head)
    if name is None:
        raise _UnreadableError(f"is none of {', '.join(_FORMATS)}")
    _check_size(_declared_size(name, head), max_pixels)
    try:
        image = _FORMATS[name].reader(file)
    except _BOMBS:
        raise _TooLargeError from None
    except Exception:  # hostile input makes Pillow raise nearly anything; all of it means this
        raise _UnreadableError(f"is a broken {name}") from None
    _check_size(image.size, max_pixels)
    return image, name


def _format_of(head: bytes) -> str | None:
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    return next((name for magic, name in _SIGNATURES if head.startswith(magic)), None)


def _declared_size(name: str, head: bytes) -> tuple[int, int] | None:
    """Size from the first bytes, for the formats whose reader allocates or demands more."""
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
        raise _UnreadableError("has no pixels")
    if size[0] * size[1] > max_pixels:
        raise _TooLargeError


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF does not make a picture unreadable; ComfyUI ignores it too
        return 1


def _decode(image: ImageFile.ImageFile, name: str) -> None:
    try:
        image.load()
    except _BOMBS:
        raise _TooLargeError from None
    except Exception:  # see _open
        raise _UnreadableError(f"is a broken or truncated {name}") from None


def convert_picture(
    data: bytes,
    *,
    format: Literal["PNG", "JPEG", "WEBP"],  # noqa: A002 - the contract's own word
    quality: int | None = None,
    crop: bool = False,
) -> Picture:
    """A result's bytes → the picture as the client wants it; of an animation the first frame.

    ``crop`` cuts to the bounding box of what is not transparent; a picture without alpha, or with
    nothing but transparency, stays as it is. Alpha is kept in PNG and WEBP and laid on white in
    JPEG. A PNG wanted as PNG and uncropped goes through byte for byte. ``quality`` (1-100) is
    JPEG's (default 92) or WEBP's (default 90, lossy; 100 means lossless).
    Raises ResultError if the bytes are no picture that can be read.
    """
    try:
        image, name = _open(io.BytesIO(data), MAX_RESULT_PIXELS)
        if name == format == "PNG" and not crop:
            _verify(image)
            return _picture(data, "PNG", image.size)
        _decode(image, name)
        wanted = _normalised(image)
        if crop:
            wanted = _crop_to_subject(wanted)
        return _picture(_encode(wanted, format, quality), format, wanted.size)
    except _TooLargeError:
        raise ResultError("The result of the workflow is too large.") from None
    except _UnreadableError as error:
        raise ResultError(f"The result of the workflow {error}.") from None


def _verify(image: ImageFile.ImageFile) -> None:
    """All chunks whole, by their checksums; no pixel is decoded."""
    try:
        image.verify()
    except Exception:  # see _open
        raise _UnreadableError("is a broken or truncated PNG") from None


def _normalised(image: Image.Image) -> Image.Image:
    has_alpha = "A" in image.getbands() or "transparency" in image.info
    mode = "RGBA" if has_alpha else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _crop_to_subject(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image
    subject = image.getchannel("A").point([int(value > SUBJECT_ALPHA) for value in range(256)])
    box = subject.getbbox()
    if box is None or box == (0, 0, *image.size):
        return image
    # crop() would consult the module-wide pixel limit; this copies the same pixels.
    size = (box[2] - box[0], box[3] - box[1])
    return image.resize(size, Image.Resampling.NEAREST, box=box)


def _encode(image: Image.Image, format: str, quality: int | None) -> bytes:  # noqa: A002
    out = io.BytesIO()
    try:
        if format == "JPEG":
            flat = _on_white(image)
            flat.save(out, "JPEG", quality=quality or DEFAULT_JPEG_QUALITY, subsampling=0)
        elif format == "WEBP":
            lossless = quality == 100
            # quality means effort there; 100 would take minutes for a few percent
            level = 60 if lossless else quality or DEFAULT_WEBP_QUALITY
            image.save(out, "WEBP", quality=level, lossless=lossless, exact=lossless)
        else:
            image.save(out, "PNG", compress_level=4)
    except (OSError, ValueError) as error:
        raise ResultError(f"The result cannot be written as {format}.") from error
    return out.getvalue()


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image
    flat = Image.new("RGB", image.size, "white")
    flat.paste(image, mask=image.getchannel("A"))
    return flat


def _picture(data: bytes, name: str, size: tuple[int, int]) -> Picture:
    kind = _FORMATS[name]
    return Picture(
        data=data,
        media_type=kind.media_type,
        extension=kind.extension,
        width=size[0],
        height=size[1],
    )
