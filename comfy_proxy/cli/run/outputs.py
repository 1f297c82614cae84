"""Where results go, and which of them are there already."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from comfy_proxy.cli.command import CommandError
from comfy_proxy.cli.run.items import Item
from comfy_proxy.client.asynchronous import AsyncResult
from comfy_proxy.client.models import ResultInfo

BOOK: Final = ".comfy-proxy.jsonl"
"""In a folder of results: what each was made of, one line of JSON for each item that is done."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """``target`` is a folder, or the file of the only item. ``inputs`` are never replaced."""

    target: Path
    is_folder: bool
    inputs: Collection[Path] = field(default=(), repr=False)

    async def save(self, item: Item, results: Sequence[AsyncResult]) -> list[Path]:
        """Write each result; a file is whole, or it is not there. Raises CommandError if it would
        replace an input, OSError and ClientError."""
        paths = [
            self._path(item, result.info, number, of=len(results))
            for number, result in enumerate(results, start=1)
        ]
        for path in paths:
            if path.resolve() in self.inputs:
                raise CommandError(f"{path} is an input, which is not replaced")
        return [await result.save(path) for path, result in zip(paths, results, strict=True)]

    def _path(self, item: Item, info: ResultInfo, number: int, *, of: int) -> Path:
        counted = "" if of == 1 else f"-{number}"
        if self.is_folder:
            return self.target / f"{item.stem}{counted}{extension(info)}"
        return self.target.with_stem(f"{self.target.stem}{counted}")


def extension(info: ResultInfo) -> str:
    """With its dot: that of the name that the proxy gave, else that of the media type."""
    return Path(info.name).suffix or mimetypes.guess_extension(info.media_type) or ""


class DoneBook:
    """What was made in ``folder``, and of what. None remembers nothing.

    A line is written when an item's files are there under their names: what was interrupted before
    that is made again. Lines that cannot be read count as none.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / BOOK
        self._folder = folder
        self._done: dict[tuple[str, str], list[tuple[str, int]]] = {}
        self._lacks_newline = False
        if self._path is not None and self._path.exists():
            text = self._path.read_text(encoding="utf-8", errors="replace")
            self._lacks_newline = not text.endswith("\n")
            for line in text.splitlines():
                self._read(line)

    def outputs(self, stem: str, fingerprint: str) -> list[Path]:
        """The files that were made of this, if all of them are there as they were made."""
        known = self._done.get((stem, fingerprint), [])
        assert self._folder is not None or not known
        paths = [(Path(self._folder or ".") / name, size) for name, size in known]
        whole = all(path.is_file() and path.stat().st_size == size for path, size in paths)
        return [path for path, _ in paths] if whole else []

    def add(self, stem: str, fingerprint: str, paths: Sequence[Path]) -> None:
        """Raises OSError."""
        if self._path is None:
            return
        made = [(path.name, path.stat().st_size) for path in paths]
        self._done[stem, fingerprint] = made
        line = json.dumps({"stem": stem, "made_of": fingerprint, "files": made})
        with self._path.open("a", encoding="utf-8") as file:
            file.write("\n" + line + "\n" if self._lacks_newline else line + "\n")
        self._lacks_newline = False

    def _read(self, line: str) -> None:
        try:
            told: Any = json.loads(line)
            files = [(str(name), int(size)) for name, size in told["files"]]
            key = str(told["stem"]), str(told["made_of"])
        except (ValueError, KeyError, TypeError):
            return
        if all(Path(name).name == name for name, _ in files):
            self._done[key] = files
