"""Pictures in and out: what an upload is, and the format a result is wanted in.

Everything here is synchronous and CPU-bound; callers run it on an executor.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import BinaryIO, Final, Literal

from PIL import ExifTags, Image, ImageFile

from comfy_proxy.errors import InvalidFieldError, ResultError
from comfy_proxy.jobs.media.file_info import PictureInfo
from comfy_proxy.jobs.media.picture_files import (
    FORMATS,
    TooManyPixelsError,
    UnreadableError,
    decode,
    open_picture,
    verify,
)

MAX_UPLOAD_PIXELS: Final = 100_000_000
"""Pixels of an uploaded picture; more is refused with ``image_too_large``: decoding takes 4 bytes
of memory for each."""
MAX_RESULT_PIXELS: Final = 16384 * 16384
"""Pixels of a result, as many as ComfyUI's own nodes make; with more the job fails."""
SUBJECT_ALPHA: Final = 8  # of 255: pixels up to this are the noise of a matte, not its subject
DEFAULT_JPEG_QUALITY: Final = 92
DEFAULT_WEBP_QUALITY: Final = 90


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A finished picture: encoded bytes, their media type and file extension, size in pixels."""

    data: bytes
    media_type: str
    extension: str
    width: int
    height: int


def inspect_picture(file: BinaryIO, *, field: str) -> PictureInfo:
    """What ``file`` holds, by its content; its first frame is decoded to prove that it is whole.

    Raises InvalidFieldError naming ``field``: ``empty_image``, ``invalid_image`` (none of the
    formats, broken, cut off, no pixels) or ``image_too_large`` (over 100 megapixels).
    """
    file.seek(0)
    if not file.read(1):
        raise InvalidFieldError(field, f"The picture in {field} is empty.", code="empty_image")
    try:
        image, name = open_picture(file, MAX_UPLOAD_PIXELS)
        return _inspect(image, name)
    except TooManyPixelsError:
        limit = MAX_UPLOAD_PIXELS // 1_000_000
        message = f"The picture in {field} has more than {limit} megapixels."
        raise InvalidFieldError(field, message, code="image_too_large") from None
    except UnreadableError as error:
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
        # Decoded at an eighth of each side: all bytes are read and checked, with little memory.
        image.draft(image.mode, (1, 1))
    decode(image, name)
    if name == "TIFF":  # Pillow turns a TIFF while it decodes it
        size, turned = image.size, False
    width, height = reversed(size) if turned else size
    kind = FORMATS[name]
    return PictureInfo(
        format=name,
        media_type=kind.media_type,
        extension=kind.extension,
        width=width,
        height=height,
        has_alpha=has_alpha,
        frames=frames,
    )


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF does not make a picture unreadable; ComfyUI ignores it too
        return 1


def convert_picture(
    data: bytes,
    *,
    format: Literal["PNG", "JPEG", "WEBP"],  # noqa: A002 - the parameter's name in the API
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
        image, name = open_picture(io.BytesIO(data), MAX_RESULT_PIXELS)
        if name == format == "PNG" and not crop:
            verify(image)
            return _picture(data, "PNG", image.size)
        decode(image, name)
        wanted = _normalised(image)
        if crop:
            wanted = _crop_to_subject(wanted)
        return _picture(_encode(wanted, format, quality), format, wanted.size)
    except TooManyPixelsError:
        raise ResultError("The result of the workflow is too large.") from None
    except UnreadableError as error:
        raise ResultError(f"The result of the workflow {error}.") from None


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
    # crop() would obey Pillow's module-wide pixel limit; resize() to the same size copies the
    # same pixels without it.
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
            # Lossless, `quality` is the effort of compression: 100 would take minutes for a few
            # per cent. `exact` keeps the colours under full transparency.
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
    kind = FORMATS[name]
    return Picture(
        data=data,
        media_type=kind.media_type,
        extension=kind.extension,
        width=size[0],
        height=size[1],
    )
