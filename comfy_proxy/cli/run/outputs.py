"""What a result's file is called, and how it comes there."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import mimetypes
import os
import shutil
import sys
import tempfile
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final
from uuid import uuid4

from comfy_proxy.cli.command import CommandError
from comfy_proxy.cli.run.items import Item
from comfy_proxy.cli.run.target import Target
from comfy_proxy.client.asynchronous import AsyncResult
from comfy_proxy.client.models import ResultInfo

MAX_NAME_BYTES: Final = 255
"""Bytes of a file's name that file systems take; of a longer one the stem is cut."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """``paths`` of an item's results, none if they went to standard output. ``avoided``: the file
    that has the name which they would have had."""

    paths: Sequence[Path] = ()
    avoided: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Results on their way to ``target``. ``inputs`` are never replaced, and in a folder nothing
    is but what the same item has made before."""

    target: Target
    inputs: Collection[Path] = field(default=(), repr=False)

    async def save(
        self, item: Item, results: Sequence[AsyncResult], own: Sequence[Path] = ()
    ) -> Saved:
        """Write each result; a file is whole, or it is not there. ``own`` are the files that the
        item has made before. Raises CommandError if it would replace an input or if the target
        takes one result only, OSError and ClientError."""
        if self.target.folder is not None:
            return await _into_folder(self.target.folder, item, results, own)
        if self.target.file is None:
            return await self._pass_on(results)
        paths = self._named(self.target.file, len(results))
        return Saved(paths=[await one.save(to) for one, to in zip(results, paths, strict=True)])

    def _named(self, file: Path, number: int) -> list[Path]:
        counts = [""] if number == 1 else [f"-{n}" for n in range(1, number + 1)]
        paths = [file.with_name(fitted(file.stem, f"{one}{file.suffix}")) for one in counts]
        for path in paths:
            if path.resolve() in self.inputs:
                raise CommandError(f"{path} is an input, which is not replaced")
        return paths

    async def _pass_on(self, results: Sequence[AsyncResult]) -> Saved:
        where = self.target.stream or "standard output"
        if len(results) != 1:
            raise CommandError(f"{where} takes one result, and these are {len(results)}")
        if self.target.stream is not None:
            return Saved(paths=[await results[0].save(self.target.stream)])
        with tempfile.TemporaryDirectory() as folder:
            path = await results[0].save(Path(folder) / "result")
            await asyncio.to_thread(_say_bytes, path)
        return Saved()


async def _into_folder(
    folder: Path, item: Item, results: Sequence[AsyncResult], own: Sequence[Path]
) -> Saved:
    """They get their names when all have come, at once: another run may write there as well."""
    with ExitStack() as parts:
        arrived = []
        for result in results:
            part = folder / f".{uuid4().hex}.part"
            parts.callback(part.unlink, missing_ok=True)
            arrived.append(await result.save(part))
        endings = [extension(result.info) for result in results]
        return await asyncio.to_thread(_put, folder, item.stem, arrived, endings, own)


def _put(
    folder: Path, stem: str, parts: Sequence[Path], endings: Sequence[str], own: Sequence[Path]
) -> Saved:
    """Give them the names of the item's own files, else the first that nobody has."""
    if [one.suffix for one in own] == endings:
        for part, path in zip(parts, own, strict=True):
            os.replace(part, path)
        return Saved(paths=own)
    avoided = None
    for number in count(1):
        aside = "" if number == 1 else f"-{number}"
        counts = [""] if len(endings) == 1 else [f"-{n}" for n in range(1, len(endings) + 1)]
        rests = [f"{aside}{one}{ending}" for one, ending in zip(counts, endings, strict=True)]
        paths = [folder / fitted(stem, rest) for rest in rests]
        taken = _move(parts, paths, own)
        if taken is None:
            return Saved(paths=paths, avoided=avoided)
        avoided = avoided or taken
    raise AssertionError  # count() has no end


def _move(parts: Sequence[Path], paths: Sequence[Path], own: Sequence[Path]) -> Path | None:
    """Move all of them, or none and return the first path that is somebody else's."""
    pairs = list(zip(parts, paths, strict=True))
    new = [(part, path) for part, path in pairs if path not in own]
    for place, (part, path) in enumerate(new):
        try:
            _move_to_new(part, path)
        except FileExistsError:
            for back, moved in new[:place]:
                os.replace(moved, back)
            return path
    for part, path in pairs:
        if path in own:
            os.replace(part, path)
    return None


def _move_to_new(part: Path, path: Path) -> None:
    """Raises FileExistsError if anything is at ``path``, also if it has come there just now."""
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links has no rename that replaces nothing
        os.rename(part, path)
    else:
        os.unlink(part)


def extension(info: ResultInfo) -> str:
    """With its dot: that of the name that the proxy gave, else that of the media type."""
    return Path(info.name).suffix or mimetypes.guess_extension(info.media_type) or ""


def fitted(stem: str, rest: str) -> str:
    """``stem`` and ``rest`` as one name of MAX_NAME_BYTES at most: a longer stem is cut, and ends
    with a digest of the whole of it, so that what was different stays so."""
    whole, room = os.fsencode(stem), MAX_NAME_BYTES - len(os.fsencode(rest))
    if len(whole) <= room:
        return stem + rest
    end = f"-{hashlib.sha256(whole).hexdigest()[:8]}"
    return whole[: room - len(end)].decode(errors="ignore") + end + rest


def _say_bytes(path: Path) -> None:
    with path.open("rb") as file:
        shutil.copyfileobj(file, sys.stdout.buffer)
    sys.stdout.buffer.flush()
