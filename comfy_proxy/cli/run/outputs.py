"""What a result's file is called, and how it comes there."""

from __future__ import annotations

import asyncio
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
    _chosen: set[Path] = field(default_factory=set, init=False, repr=False)

    async def save(
        self, item: Item, results: Sequence[AsyncResult], own: Sequence[Path] = ()
    ) -> Saved:
        """Write each result; a file is whole, or it is not there. ``own`` are the files that the
        item has made before. Raises CommandError if it would replace an input or if the target
        takes one result only, OSError and ClientError."""
        infos = [result.info for result in results]
        if self.target.folder is not None:
            paths, avoided = self._choose(self.target.folder, item, infos, own)
        elif self.target.file is not None:
            paths, avoided = self._named(self.target.file, infos), None
        else:
            return await self._pass_on(results)
        with ExitStack() as chosen:
            self._chosen.update(paths)
            chosen.callback(self._chosen.difference_update, paths)
            for path, result in zip(paths, results, strict=True):
                await result.save(path)
        return Saved(paths=paths, avoided=avoided)

    def _choose(
        self, folder: Path, item: Item, infos: Sequence[ResultInfo], own: Sequence[Path]
    ) -> tuple[list[Path], Path | None]:
        """The item's own files, else the first names that nobody has; with the file that has the
        name which they would have had."""
        if [one.suffix for one in own] == [extension(info) for info in infos]:
            return list(own), None
        avoided = None
        for number in count(1):
            aside = "" if number == 1 else f"-{number}"
            paths = [
                folder / fitted(item.stem, f"{aside}{_counted(n, infos)}{extension(info)}")
                for n, info in enumerate(infos, start=1)
            ]
            taken = next((one for one in paths if not self._is_free(one) and one not in own), None)
            if taken is None:
                return paths, avoided
            avoided = avoided or taken
        raise AssertionError  # count() has no end

    def _is_free(self, path: Path) -> bool:
        return path not in self._chosen and not os.path.lexists(path)

    def _named(self, file: Path, infos: Sequence[ResultInfo]) -> list[Path]:
        paths = [
            file.with_name(fitted(file.stem, f"{_counted(n, infos)}{file.suffix}"))
            for n in range(1, len(infos) + 1)
        ]
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


def _counted(number: int, infos: Sequence[ResultInfo]) -> str:
    return "" if len(infos) == 1 else f"-{number}"


def _say_bytes(path: Path) -> None:
    with path.open("rb") as file:
        shutil.copyfileobj(file, sys.stdout.buffer)
    sys.stdout.buffer.flush()
