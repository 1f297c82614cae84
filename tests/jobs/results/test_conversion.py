"""Raw results → results: kinds, names, what is converted and what stays as it is."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from job_client import encode, noise
from made import stored
from PIL import Image

from comfy_proxy.cluster.output_file import OutputFile
from comfy_proxy.errors import ResultError
from comfy_proxy.jobs.results.conversion import make_results
from comfy_proxy.jobs.results.prompt_outputs import Told, ToldData, ToldText
from comfy_proxy.jobs.results.raw_results import RawResult
from comfy_proxy.jobs.results.result_file import Results
from comfy_proxy.jobs.workflows.workflow import ConvertOptions

AS_THEY_ARE = ConvertOptions(format=None, quality=None, crop=False)
JPEG = ConvertOptions(format="JPEG", quality=None, crop=False)
PNG = noise()


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    """Where pictures are converted."""
    with ThreadPoolExecutor(1) as made:
        yield made


def raw(told: Told | None, data: bytes) -> RawResult:
    return RawResult(told=told, body=stored(data))


def file(name: str, data: bytes = b"data", kind: str = "output") -> RawResult:
    return raw(OutputFile(filename=name, subfolder="", type=kind), data)


async def made(
    executor: ThreadPoolExecutor, *results: RawResult, options: ConvertOptions = AS_THEY_ARE
) -> Results:
    return await make_results(results, options, stem="job", executor=executor)


def animation(kind: str = "WEBP") -> bytes:
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue")]
    return encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)


@pytest.mark.parametrize(
    ("one", "kind", "name", "media_type"),
    [
        (file("a.png", PNG), "image", "a.png", "image/png"),
        (file("A.PNG", PNG), "image", "A.PNG", "image/png"),
        (file("a.png", PNG, "temp"), "image", "job.png", "image/png"),
        (raw(None, PNG), "image", "job.png", "image/png"),
        (file("a.webp", animation()), "animation", "a.webp", "image/webp"),
        (file("a.gif", animation("GIF")), "animation", "a.gif", "image/gif"),
        (file("a.svg", b"<svg/>"), "image", "a.svg", "image/svg+xml"),
        (file("a.mp4"), "video", "a.mp4", "video/mp4"),
        (file("a.mkv", kind="temp"), "video", "job.mkv", "video/x-matroska"),
        (file("a.flac"), "audio", "a.flac", "audio/flac"),
        (file("a.glb"), "model3d", "a.glb", "model/gltf-binary"),
        (file("a.txt"), "text", "a.txt", "text/plain"),
        (file("a.safetensors"), "file", "a.safetensors", "application/octet-stream"),
        (file("a"), "file", "a", "application/octet-stream"),
        (raw(ToldText(node="1", text="x"), b"x"), "text", "job.txt", "text/plain; charset=utf-8"),
        (raw(ToldData(node="1", data=1), b"1"), "data", "job.json", "application/json"),
    ],
)
async def test_kinds(
    executor: ThreadPoolExecutor, one: RawResult, kind: str, name: str, media_type: str
) -> None:
    """By the extension that ComfyUI gave, and the bytes are those that came."""
    before = await one.body.read()
    (result,) = await made(executor, one)
    assert (result.type, result.name, result.media_type) == (kind, name, media_type)
    assert await result.body.read() == before


async def test_still_pictures_alone_are_converted(executor: ThreadPoolExecutor) -> None:
    """An animation, a drawing and a video go through untouched, whatever format is wanted."""
    data = [animation(), b"<svg/>", b"video", PNG]
    names = ("a.webp", "b.svg", "c.mp4", "d.png")
    results = await made(executor, *map(file, names, data), options=JPEG)
    assert [await one.body.read() for one in results[:3]] == data[:3]
    assert [one.name for one in results] == ["a.webp", "b.svg", "c.mp4", "d.jpg"]
    assert Image.open(io.BytesIO(await results[3].body.read())).format == "JPEG"
    assert [(one.width, one.height) for one in results] == [
        (4, 3), (None, None), (None, None), (16, 12),
    ]  # fmt: skip


async def test_unnamed_ones_are_numbered(executor: ThreadPoolExecutor) -> None:
    """Each has its own name, whatever is between them."""
    text = ToldText(node="1", text="x")
    results = await made(
        executor, raw(text, b"x"), file("a.mp4"), raw(None, PNG), raw(text, b"x"), options=JPEG
    )
    assert [one.name for one in results] == ["job.txt", "a.mp4", "job-2.jpg", "job-3.txt"]


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("../../etc/passwd.mp4", "passwd.mp4"),
        ("C:\\temp\\a.mp4", "a.mp4"),
        ("..", "job"),
        ("/", "job"),
        ("", "job"),
        (".mp4", "mp4"),
        ("a\r\nX: y.mp4", "a__X: y.mp4"),
        ("a\0b.mp4", "a_b.mp4"),
        ("\u202egnp.mp4", "_gnp.mp4"),
        ('"ä".mp4', '"ä".mp4'),
        ("ä" * 300 + ".mp4", "ä" * 98 + ".mp4"),
        ("a." + "x" * 300, "a." + "x" * 198),
    ],
)
async def test_a_name_is_no_path(executor: ThreadPoolExecutor, told: str, name: str) -> None:
    """An instance's name is for whoever saves the file: no folders, no control characters, and no
    more than a file system takes."""
    (result,) = await made(executor, file(told))
    assert result.name == name


async def test_a_picture_that_is_none(executor: ThreadPoolExecutor) -> None:
    """As it is: somebody's format. Converted: the job fails, and all bytes are forgotten."""
    (result,) = await made(executor, file("a.png", b"none"))
    assert (result.type, result.width) == ("image", None)
    several = [file("a.mp4"), file("b.png", b"none"), file("c.mp4")]
    with pytest.raises(ResultError):
        await made(executor, *several, options=JPEG)
    assert all(one.body.closed for one in several)


async def test_no_thread_is_used_for_what_is_no_picture(executor: Any) -> None:
    """A job with texts alone does not wait behind the pictures of others."""
    executor.shutdown()
    assert len(await made(executor, raw(ToldText(node="1", text=""), b""))) == 1
