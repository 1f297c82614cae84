"""Formats, quality, crop, scale, alpha, orientation, animation: from upload to result."""

from __future__ import annotations

import hashlib
import io

import pytest
from job_client import JobClient, encode, noise, open_picture
from PIL import Image

from comfy_proxy.embedded.worker import EmbeddedWorker

Pair = tuple[EmbeddedWorker, EmbeddedWorker]


def photo(width: int = 96, height: int = 64, mode: str = "RGB") -> Image.Image:
    """Smooth colours: what JPEG and WEBP are made for."""
    ramp = Image.linear_gradient("L").resize((width, height))
    bands = [ramp, ramp.rotate(180), ramp, Image.new("L", ramp.size, 128)]
    return Image.merge(mode, bands[: len(mode)])


async def made(jobs: JobClient, name: str, picture: bytes, **fields: object) -> Image.Image:
    job_id = await jobs.submit(name, picture, **fields)
    return open_picture(await jobs.result(job_id))


@pytest.mark.long
@pytest.mark.parametrize(
    ("given", "expected", "media_type"),
    [
        ("PNG", "PNG", "image/png"),
        ("jpeg", "JPEG", "image/jpeg"),
        ("WebP", "WEBP", "image/webp"),
    ],
)
async def test_format(jobs: JobClient, given: str, expected: str, media_type: str) -> None:
    """The result is what was asked for, by its bytes and by its content type."""
    job_id = await jobs.submit("upscale-image", encode(photo()), format=given)
    await jobs.ends(job_id)
    async with jobs.http.get(f"/api/jobs/{job_id}/result") as answer:
        assert answer.content_type == media_type
        image = open_picture(await answer.read())
    assert (image.format, image.size) == (expected, (192, 128))


@pytest.mark.long
@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
async def test_quality(jobs: JobClient, kind: str) -> None:
    """Less quality, fewer bytes."""
    sizes = []
    for quality in (5, 60, 95):
        job_id = await jobs.submit(
            "upscale-image", encode(photo()), format=kind, quality=quality, scale=4
        )
        sizes.append(len(await jobs.result(job_id)))
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize(("scale", "size"), [(0.5, (48, 32)), (1, (96, 64)), (2.5, (240, 160))])
async def test_scale(jobs: JobClient, scale: float, size: tuple[int, int]) -> None:
    """The result has exactly the size that was asked for."""
    assert (await made(jobs, "upscale-image", encode(photo()), scale=scale)).size == size


@pytest.mark.long
@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGBA"), ("WEBP", "RGBA"), ("JPEG", "RGB")])
async def test_alpha(jobs: JobClient, kind: str, mode: str) -> None:
    """Upscaling keeps an alpha channel where the format has one; JPEG is laid on white."""
    picture = photo(mode="RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, 48, 64))
    image = await made(jobs, "upscale-image", encode(picture), format=kind)
    assert (image.mode, image.size) == (mode, (192, 128))
    left, right = image.getpixel((20, 64)), image.getpixel((170, 64))
    if mode == "RGBA":
        assert left[3] == 0
        assert abs(right[3] - 128) <= 2
    else:
        assert min(left) >= 250


def subject() -> Image.Image:
    """A disc that a background remover finds, on plain grey."""
    picture = Image.new("RGB", (128, 128), (200, 200, 200))
    disc = Image.new("L", (64, 64), 0)
    disc.paste(Image.radial_gradient("L").resize((64, 64)).point([255] * 160 + [0] * 96))
    picture.paste(Image.new("RGB", (64, 64), (180, 20, 30)), (20, 40), disc)
    return picture


@pytest.mark.long
async def test_crop(jobs: JobClient) -> None:
    """By default the result is cut to the subject; ``crop=false`` keeps the whole canvas."""
    whole = await made(jobs, "remove-background", encode(subject()), crop="false")
    cut = await made(jobs, "remove-background", encode(subject()))
    assert (whole.size, whole.mode, cut.mode) == ((128, 128), "RGBA", "RGBA")
    assert cut.width < 100
    assert cut.height < 100
    assert whole.getpixel((2, 2))[3] == 0
    assert whole.getpixel((52, 72))[3] > 200


@pytest.mark.long
async def test_both_steps(jobs: JobClient) -> None:
    """``upscale-remove-bg`` enlarges and cuts out in one job."""
    image = await made(jobs, "upscale-remove-bg", encode(subject()), scale=2)
    assert image.mode == "RGBA"
    assert max(image.size) > 90


async def test_orientation_is_applied_once(jobs: JobClient) -> None:
    """A picture that lies on its side stands in the result, which says nothing of turning."""
    picture = Image.new("RGB", (60, 40), "blue")
    picture.paste("red", (0, 0, 30, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    image = await made(
        jobs,
        "upscale-image",
        encode(picture, "JPEG", exif=exif, quality=95),
        scale=1,
        format="JPEG",
    )
    assert image.size == (40, 60)
    assert image.getexif().get(0x0112, 1) == 1
    top, bottom = image.getpixel((20, 10)), image.getpixel((20, 50))
    assert top[0] > 200 > top[2]
    assert bottom[2] > 200 > bottom[0]


@pytest.mark.long
@pytest.mark.parametrize("name", ["upscale-image", "remove-background"])
async def test_an_animation_gives_its_first_frame(jobs: JobClient, name: str) -> None:
    """Of an animated GIF the first frame counts, and one picture comes out."""
    first, second = subject(), Image.new("RGB", (128, 128), "green")
    out = io.BytesIO()
    first.save(out, "GIF", save_all=True, append_images=[second, second], duration=50)
    image = await made(jobs, name, out.getvalue())
    assert getattr(image, "n_frames", 1) == 1
    red, green, _ = image.convert("RGB").getpixel((image.width // 2, image.height // 2))[:3]
    if name == "remove-background":
        assert red > green
    else:
        assert image.size == (256, 256)
        assert image.getpixel((100, 140))[0] > 120


async def test_the_upload_is_byte_for_byte(jobs: JobClient, workers: Pair) -> None:
    """What lies on the instance's disk is what the client sent, to the last byte."""
    picture = noise(64, 64) + b"trailing bytes that no decoder looks at"
    await jobs.ends(await jobs.submit("upscale-image", picture))
    (worker,) = [worker for worker in workers if worker.uploads]
    folder, _, name = worker.uploads[0].partition("/")
    stored = (worker.folders.base / folder / name).read_bytes()
    assert hashlib.sha256(stored).hexdigest() == hashlib.sha256(picture).hexdigest()


@pytest.mark.parametrize(("format_name", "extension"), [("PNG", "png"), ("JPEG", "jpg")])
async def test_a_result_has_a_useful_file_name(
    jobs: JobClient, format_name: str, extension: str
) -> None:
    """What a browser saves it as."""
    job_id = await jobs.submit(format=format_name)
    await jobs.ends(job_id)
    async with jobs.http.get(f"/api/jobs/{job_id}/result") as answer:
        assert answer.content_disposition is not None
        assert answer.content_disposition.filename == f"timed-{job_id[:8]}.{extension}"
