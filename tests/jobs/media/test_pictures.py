"""Pictures in and out: what an upload is told to be, and what a result becomes."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pytest
from PIL import Image

from comfy_proxy.errors import InvalidFieldError, ResultError
from comfy_proxy.jobs.media.file_info import PictureInfo
from comfy_proxy.jobs.media.pictures import convert_picture, inspect_picture


def encoded(image: Image.Image, format_name: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format_name, **options)
    return out.getvalue()


def noise(width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    return Image.effect_noise((width, height), 80).convert(mode)


def inspect(data: bytes) -> PictureInfo:
    return inspect_picture(io.BytesIO(data), field="imageFile")


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


@pytest.mark.parametrize(
    ("format_name", "media_type", "extension"),
    [
        ("PNG", "image/png", ".png"),
        ("JPEG", "image/jpeg", ".jpg"),
        ("WEBP", "image/webp", ".webp"),
        ("GIF", "image/gif", ".gif"),
        ("BMP", "image/bmp", ".bmp"),
        ("TIFF", "image/tiff", ".tif"),
    ],
)
def test_each_format_is_told_by_content(format_name: str, media_type: str, extension: str) -> None:
    """All six formats are recognised, with their size."""
    info = inspect(encoded(noise(), format_name))
    assert (info.format, info.media_type, info.extension) == (format_name, media_type, extension)
    assert (info.width, info.height, info.frames, info.has_alpha) == (40, 30, 1, False)


def test_an_mpo_counts_as_jpeg() -> None:
    """A stereo camera's file is its first picture."""
    data = encoded(noise(), "MPO", save_all=True, append_images=[noise()])
    assert (inspect(data).format, inspect(data).frames) == ("JPEG", 1)


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize(("orientation", "size"), [(1, (40, 30)), (3, (40, 30)), (6, (30, 40))])
def test_size_is_after_exif_orientation(
    format_name: str, orientation: int, size: tuple[int, int]
) -> None:
    """Width and height are those that ComfyUI sees after it has turned the picture."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    info = inspect(encoded(noise(), format_name, exif=exif))
    assert (info.width, info.height) == size


@pytest.mark.parametrize(
    ("image", "format_name", "options", "expected"),
    [
        (noise(mode="RGBA"), "PNG", {}, True),
        (noise(mode="LA"), "PNG", {}, True),
        (noise(mode="RGBA"), "WEBP", {"lossless": True}, False),  # opaque: WEBP drops it
        (noise(mode="P"), "PNG", {"transparency": 3}, True),
        (noise(mode="P"), "GIF", {"transparency": 3}, True),
        (noise(mode="L"), "PNG", {"transparency": 3}, False),
        (noise(mode="CMYK"), "JPEG", {}, False),
    ],
)
def test_alpha_is_what_load_image_sees(
    image: Image.Image, format_name: str, options: dict[str, Any], expected: bool
) -> None:
    """An alpha band or a palette with transparency counts, a grey tRNS does not."""
    assert inspect(encoded(image, format_name, **options)).has_alpha is expected


@pytest.mark.parametrize(
    ("format_name", "frames"), [("GIF", 2), ("TIFF", 2), ("WEBP", 3), ("PNG", 3)]
)
def test_an_animation_has_more_than_one_frame(format_name: str, frames: int) -> None:
    """PNG and WEBP are counted; GIF and TIFF, which a file can make endless, only as more."""
    others = [noise(), noise()]
    assert inspect(encoded(noise(), format_name, save_all=True, append_images=others)).frames == (
        frames
    )


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("kept", [0.9, 0.5, 0.1])
def test_a_truncated_picture_is_refused(format_name: str, kept: float) -> None:
    """A file that was cut off is found out before any instance sees it."""
    data = encoded(noise(200, 200), format_name)
    with pytest.raises(InvalidFieldError) as caught:
        inspect(data[: int(len(data) * kept)])
    assert (caught.value.code, caught.value.field) == ("invalid_image", "imageFile")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty_image"),
        (b"just a text", "invalid_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "invalid_image"),
        (b"BM", "invalid_image"),
        (b"\x89PNG\r\n\x1a\n", "invalid_image"),
        (b"RIFF\0\0\0\0WEBP", "invalid_image"),
        (png_header(0, 0), "invalid_image"),
        (png_header(100_000, 100_000), "image_too_large"),
        (png_header(10_001, 10_000), "image_too_large"),
        (b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0" * 20, "image_too_large"),
        (b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0" + b"\0" * 4 + b"\xff" * 6, "image_too_large"),
        (b"RIFF\0\0\0\0WEBPVP8 " + b"\0" * 10 + b"\xff\x3f\xff\x3f", "image_too_large"),
        (b"RIFF\0\0\0\0WEBPVP8L" + b"\0" * 4 + b"\x2f" + b"\xff" * 8, "image_too_large"),
        (b"BM" + b"\0" * 12 + struct.pack("<IiiHHIIiiII", 40, 60000, 60000, 1, 24, *[0] * 6),
         "image_too_large"),
    ],
)  # fmt: skip
def test_bad_bytes_have_a_code(data: bytes, code: str) -> None:
    """Nothing, no picture, no pixels and a bomb in the header are told apart."""
    with pytest.raises(InvalidFieldError) as caught:
        inspect(data)
    assert caught.value.code == code


def test_every_corrupt_byte_gives_an_answer_or_a_clear_error() -> None:
    """No single flipped byte raises anything but InvalidFieldError."""
    for format_name in ("PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG"):
        data = encoded(noise(12, 9), format_name)
        for at in range(min(len(data), 400)):
            broken = bytearray(data)
            broken[at] ^= 0xFF
            try:
                inspect(bytes(broken))
            except InvalidFieldError as error:
                assert error.code in ("invalid_image", "image_too_large")  # noqa: PT017


@pytest.mark.long
def test_the_module_state_of_pillow_stays() -> None:
    """Another application in the process keeps its own pixel limit, and ours does not heed it."""
    limit = Image.MAX_IMAGE_PIXELS
    data = encoded(Image.new("1", (9500, 9500)), "PNG")  # over Pillow's limit, under ours
    assert inspect(data).width == 9500
    assert limit == Image.MAX_IMAGE_PIXELS


def subject() -> Image.Image:
    """50×40, transparent but for an opaque red 10×8 at (20, 15) and faint noise in a corner."""
    image = Image.new("RGBA", (50, 40), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (20, 15, 30, 23))
    image.putpixel((0, 0), (9, 9, 9, 5))
    return image


def reopened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def test_png_passes_byte_for_byte() -> None:
    """A PNG that is wanted as it is is not encoded again."""
    data = encoded(subject(), "PNG")
    picture = convert_picture(data, format="PNG", quality=None, crop=False)
    assert picture.data is data
    assert (picture.width, picture.height, picture.media_type) == (50, 40, "image/png")


def test_crop_cuts_to_the_subject_exactly() -> None:
    """The box ignores the matte's noise and the pixels in it are unchanged."""
    picture = convert_picture(encoded(subject(), "PNG"), format="PNG", quality=None, crop=True)
    assert (picture.width, picture.height) == (10, 8)
    assert reopened(picture.data).tobytes() == subject().crop((20, 15, 30, 23)).tobytes()


@pytest.mark.parametrize("image", [Image.new("RGBA", (9, 7), (0, 0, 0, 0)), noise(9, 7)])
def test_nothing_to_crop_leaves_the_size(image: Image.Image) -> None:
    """A fully transparent picture and one without alpha stay whole."""
    picture = convert_picture(encoded(image, "PNG"), format="PNG", quality=None, crop=True)
    assert (picture.width, picture.height) == (9, 7)


def test_jpeg_is_laid_on_white() -> None:
    """JPEG has no alpha: what was transparent is white."""
    picture = convert_picture(encoded(subject(), "PNG"), format="JPEG", quality=None, crop=False)
    image = reopened(picture.data)
    assert (image.format, image.mode, picture.extension) == ("JPEG", "RGB", ".jpg")
    corner = image.getpixel((49, 0))
    assert isinstance(corner, tuple)
    assert min(corner) > 250


def test_webp_keeps_alpha() -> None:
    """WEBP has the alpha of the result, exactly."""
    picture = convert_picture(encoded(subject(), "PNG"), format="WEBP", quality=None, crop=True)
    image = reopened(picture.data)
    assert (image.format, image.size) == ("WEBP", (10, 8))
    kept = convert_picture(encoded(subject(), "PNG"), format="WEBP", quality=80, crop=False)
    assert reopened(kept.data).getchannel("A").tobytes() == subject().getchannel("A").tobytes()


def test_webp_of_quality_100_is_lossless() -> None:
    """The highest quality changes no pixel."""
    source = noise(64, 64)
    picture = convert_picture(encoded(source, "PNG"), format="WEBP", quality=100, crop=False)
    assert reopened(picture.data).convert("RGB").tobytes() == source.tobytes()


@pytest.mark.parametrize("format_name", ["JPEG", "WEBP"])
def test_quality_changes_the_size(format_name: Any) -> None:
    """A lower quality makes a smaller file."""
    data = encoded(noise(128, 128), "PNG")
    sizes = [
        len(convert_picture(data, format=format_name, quality=quality, crop=False).data)
        for quality in (10, None)
    ]
    assert sizes[0] < sizes[1]


def test_an_animated_result_gives_its_first_frame() -> None:
    """Of an animation the first frame counts."""
    first = Image.new("RGB", (8, 8), "red")
    data = encoded(first, "GIF", save_all=True, append_images=[Image.new("RGB", (8, 8), "blue")])
    picture = convert_picture(data, format="PNG", quality=None, crop=False)
    assert reopened(picture.data).convert("RGB").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("kind", ["text", "cut", "flipped"])
def test_an_unreadable_result_is_a_result_error(format_name: Any, crop: bool, kind: str) -> None:
    """Whatever an instance sends, the job fails with invalid_result."""
    whole = encoded(noise(), "PNG")
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    data = {"text": b"<html>", "cut": whole[:-40], "flipped": bytes(flipped)}[kind]
    with pytest.raises(ResultError):
        convert_picture(data, format=format_name, quality=None, crop=crop)
