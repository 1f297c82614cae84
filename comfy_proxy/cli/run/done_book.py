"""What a folder of results holds, and what each of them was made of."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from comfy_proxy.cli.run.items import Recipe, digest

BOOK: Final = ".comfy-proxy.jsonl"
"""In a folder of results: a line of JSON for each item that is done."""


@dataclass(frozen=True, kw_only=True)
class _File:
    name: str
    size: int
    sha256: str

    def is_in(self, folder: Path) -> bool:
        """As it was made. Raises OSError."""
        path = folder / self.name
        return path.is_file() and path.stat().st_size == self.size and digest(path) == self.sha256


@dataclass(frozen=True, kw_only=True)
class _Line:
    recipe: Recipe
    files: tuple[_File, ...]


class DoneBook:
    """The book of ``folder``; of None it remembers nothing. Threads may share it: its methods read
    files.

    A line is written when an item's files are there under their names: what was interrupted before
    that is made again. A file belongs to the last line that names it, and of one item (the same
    files with the same words) the last line counts. Lines that cannot be read count as none.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._by_words: dict[str, _Line] = {}
        self._by_name: dict[str, _Line] = {}
        self._lacks_newline = False
        self._writing = threading.Lock()
        if folder is not None and (folder / BOOK).exists():
            text = (folder / BOOK).read_text(encoding="utf-8", errors="replace")
            self._lacks_newline = bool(text) and not text.endswith("\n")
            for line in text.splitlines():
                self._read(line)

    def holds(self, path: Path) -> bool:
        """Whether ``path`` is a result of this folder."""
        if self._folder is None or path.name not in self._by_name:
            return False
        return path.parent.resolve() == self._folder.resolve()

    def done(self, recipe: Recipe) -> list[Path]:
        """The files that were made of this, if all of them are there as they were made."""
        line = self._by_words.get(recipe.words)
        if line is None or line.recipe != recipe:
            return []
        there = self.own(recipe)
        return there if len(there) == len(line.files) else []

    def own(self, recipe: Recipe) -> list[Path]:
        """The files that this item has made before (also of other bytes), which it may replace:
        those that are as they were made."""
        line = self._by_words.get(recipe.words)
        if line is None or self._folder is None:
            return []
        return [
            self._folder / one.name
            for one in line.files
            if self._by_name[one.name] is line and one.is_in(self._folder)
        ]

    def add(self, recipe: Recipe, paths: Sequence[Path]) -> None:
        """Raises OSError."""
        if self._folder is None:
            return
        made = tuple(
            _File(name=path.name, size=path.stat().st_size, sha256=digest(path)) for path in paths
        )
        line = json.dumps(
            {
                "words": recipe.words,
                "content": recipe.content,
                "files": [[one.name, one.size, one.sha256] for one in made],
            }
        )
        with self._writing:
            with (self._folder / BOOK).open("a", encoding="utf-8") as file:
                file.write("\n" + line + "\n" if self._lacks_newline else line + "\n")
            self._lacks_newline = False
            self._count(_Line(recipe=recipe, files=made))

    def _read(self, line: str) -> None:
        try:
            told: Any = json.loads(line)
            files = tuple(
                _File(name=str(name), size=int(size), sha256=str(sha256))
                for name, size, sha256 in told["files"]
            )
            recipe = Recipe(words=str(told["words"]), content=str(told["content"]))
        except (ValueError, KeyError, TypeError):
            return
        if all(Path(one.name).name == one.name for one in files):
            self._count(_Line(recipe=recipe, files=files))

    def _count(self, line: _Line) -> None:
        self._by_words[line.recipe.words] = line
        self._by_name |= dict.fromkeys((one.name for one in line.files), line)
