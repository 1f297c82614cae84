"""Raw results → what a client gets: each is known by its kind, and still pictures are converted to
the format that the client has named."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from itertools import count
from pathlib import PurePosixPath
from typing import Final

from comfy_proxy.cluster.output_file import OutputFile
from comfy_proxy.jobs.media.picture_files import TooManyPixelsError, UnreadableError, open_picture
from comfy_proxy.jobs.media.pictures import MAX_RESULT_PIXELS, convert_picture
from comfy_proxy.jobs.results.prompt_outputs import ToldText
from comfy_proxy.jobs.results.raw_results import RawResult, RawResults
from comfy_proxy.jobs.results.result_file import MEMORY_BYTES, ResultFile, Results, ResultType
from comfy_proxy.jobs.workflows.workflow import ConvertOptions
from comfy_proxy.media_types import media_type_of
from comfy_proxy.stored_bytes import StoredBytes

_TYPES: Final[Mapping[str, ResultType]] = {
    "image": "image",
    "video": "video",
    "audio": "audio",
    "model": "model3d",
    "text": "text",
}
"""The first part of a media type → the type of a result; any other is a file."""


async def make_results(
    raw: RawResults, options: ConvertOptions, *, stem: str, executor: Executor
) -> Results:
    """The results in their order; ``stem`` is the name of those that have none of their own.

    Still pictures are converted by ``options`` on ``executor``, everything else stays as it is,
    byte for byte. Owns the bodies of ``raw``: raises ResultError for a picture that cannot be
    converted, and then nothing is kept.
    """
    names = _names(stem)
    try:
        return tuple([await _made(one, options, names, executor) for one in raw])
    except BaseException:
        for one in raw:
            one.body.close()
        raise


async def _made(
    one: RawResult, options: ConvertOptions, names: Iterator[str], executor: Executor
) -> ResultFile:
    told = one.told
    if told is None or isinstance(told, OutputFile):
        name = "" if told is None or told.type == "temp" else _file_name(told.filename)
        extension = ".png" if told is None else _extension(told.filename)
        media_type = media_type_of(extension)
        if media_type.startswith("image/"):
            return await _picture(one, options, name, extension, names, executor)
        kind: ResultType = _TYPES.get(media_type.partition("/")[0], "file")
        name = name or f"{next(names)}{extension}"
        return ResultFile(type=kind, name=name, media_type=media_type, body=one.body)
    if isinstance(told, ToldText):
        name, media_type = f"{next(names)}.txt", "text/plain; charset=utf-8"
        return ResultFile(type="text", name=name, media_type=media_type, body=one.body)
    name = f"{next(names)}.json"
    return ResultFile(type="data", name=name, media_type="application/json", body=one.body)


async def _picture(
    one: RawResult,
    options: ConvertOptions,
    name: str,
    extension: str,
    names: Iterator[str],
    executor: Executor,
) -> ResultFile:
    loop = asyncio.get_running_loop()
    size, frames = await loop.run_in_executor(executor, lambda: _look(one.body))
    if options.nothing_to_do or frames > 1 or media_type_of(extension) == "image/svg+xml":
        return ResultFile(
            type="animation" if frames > 1 else "image",
            name=name or f"{next(names)}{extension}",
            media_type=media_type_of(extension),
            body=one.body,
            width=size and size[0],
            height=size and size[1],
        )
    data = await one.body.read()
    picture = await loop.run_in_executor(
        executor,
        lambda: convert_picture(
            data, format=options.format or "PNG", quality=options.quality, crop=options.crop
        ),
    )
    one.body.close()
    body = StoredBytes(memory_bytes=MEMORY_BYTES)
    await body.write(picture.data)
    await body.finish()
    stem = name.removesuffix(PurePosixPath(name).suffix) if name else next(names)
    return ResultFile(
        type="image",
        name=f"{stem}{picture.extension}",
        media_type=picture.media_type,
        body=body,
        width=picture.width,
        height=picture.height,
    )


def _look(body: StoredBytes) -> tuple[tuple[int, int] | None, int]:
    """Size and number of frames, as far as Pillow can tell: SVG and AVIF are pictures too."""
    with body.open() as file:
        try:
            image, _ = open_picture(file, MAX_RESULT_PIXELS)
        except (TooManyPixelsError, UnreadableError):
            return None, 1
        return image.size, 2 if getattr(image, "is_animated", False) else 1


def _extension(told: str) -> str:
    return PurePosixPath(_file_name(told)).suffix.lower()


def _file_name(told: str) -> str:
    """A file name of an instance as one that is no path: its last part, without control characters,
    200 bytes at most; "" if nothing is left."""
    last = told.replace("\\", "/").rpartition("/")[2]
    clean = "".join(one if one.isprintable() else "_" for one in last).strip(" .")
    stem, dot, extension = clean.rpartition(".")
    end = f"{dot}{extension}" if stem and len(extension.encode()) < 20 else ""
    stem = clean.removesuffix(end) if end else clean
    return stem.encode()[: 200 - len(end.encode())].decode(errors="ignore") + end


def _names(stem: str) -> Iterator[str]:
    """``stem``, then ``stem-2`` and so on."""
    yield stem
    for number in count(2):
        yield f"{stem}-{number}"
