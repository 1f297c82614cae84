"""What is to be run: an item for each file (or each picture that is to be made of none)."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from comfy_proxy.cli.command import EXIT_USAGE, CommandError
from comfy_proxy.client.models import Workflow


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What an item is made of. ``words`` is the same for the same words of the command: workflow,
    parameters, the places of the files. ``content`` is the same for the same bytes as well."""

    words: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Item:
    """One job. ``label`` is what it is called on the screen, ``stem`` how its outputs' names begin.

    ``files`` are by the names of parameters; ``copy`` tells those apart that are alike.
    """

    label: str
    stem: str
    files: Mapping[str, Path]
    copy: int = 1

    def recipe(self, workflow: str, parameters: Mapping[str, str], folder: Path | None) -> Recipe:
        """Places are as seen from ``folder``, so that it may be moved together with its inputs.
        Reads the files: raises OSError."""
        words = [workflow, parameters, self.copy]
        places = {name: _place(path, folder) for name, path in self.files.items()}
        digests = {name: digest(path) for name, path in self.files.items()}
        return Recipe(words=_told([*words, places]), content=_told([*words, digests]))


def make_items(
    workflow: Workflow,
    paths: Sequence[Path],
    named: Mapping[str, Path],
    *,
    count: int,
    folder: Path | None,
) -> list[Item]:
    """``paths`` each go to the first file parameter that ``named`` has not; ``named`` to all.

    Where results go into the ``folder`` that has a path too, their names have the workflow's in
    them: an input is never replaced. Raises CommandError if the workflow takes other files.
    """
    free = [name for name in workflow.file_parameters if name not in named]
    if paths and not free:
        takes = f"takes no file but {', '.join(named)}" if named else "takes no file"
        raise CommandError(f"{workflow.name} {takes}.", code=EXIT_USAGE)
    _check_named(workflow, named)
    needed = [name for name in free[1 if paths else 0 :] if name in workflow.required]
    if needed:
        raise CommandError(
            f"{workflow.name} needs a file"
            + (f": --file {needed[0]}=…" if paths or named else " for " + ", ".join(needed) + "."),
            code=EXIT_USAGE,
        )
    if not paths:
        return [
            Item(label=stem, stem=stem, files=named, copy=copy)
            for stem, copy in _copies(workflow.name, count)
        ]
    stems = dict(zip(paths, _stems(paths), strict=True))
    items = []
    for path, stem in stems.items():
        beside = folder is not None and path.absolute().parent == folder.absolute()
        for name, copy in _copies(f"{stem}-{workflow.name}" if beside else stem, count):
            label = shown(path) if count == 1 else f"{shown(path)} ({copy})"
            items.append(Item(label=label, stem=name, files={free[0]: path, **named}, copy=copy))
    return items


def expanded(words: Iterable[str], is_result: Callable[[Path], bool]) -> list[Path]:
    """The files that are named, each once: those in a folder, and those that a pattern means where
    the shell has left it as it is.

    What ``is_result`` says to be a result of an earlier run is left out, or a folder that is input
    and output would feed on itself; but one that is named alone is meant.
    """
    named = list(words)
    found = list(dict.fromkeys(path for word in named for path in _paths(word)))
    if found == [Path(word) for word in named] and len(found) == 1:
        return found
    return [path for path in found if not is_result(path)]


def shown(path: Path) -> str:
    """``path`` on one line of a terminal: nothing in a file's name ends it, or moves the cursor."""
    return "".join(one if one.isprintable() else "\ufffd" for one in str(path))


def pairs(words: Iterable[str], option: str) -> dict[str, str]:
    """``name=value`` of an option that may be given several times, each name once. Raises
    CommandError."""
    given: dict[str, str] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name:
            raise CommandError(f"{option} {word}: it is to be NAME=VALUE.", code=EXIT_USAGE)
        if name in given:
            raise CommandError(f"{option} {name} is given twice.", code=EXIT_USAGE)
        given[name] = value
    return given


def _paths(word: str) -> Iterator[Path]:
    path = Path(word)
    if path.is_dir():
        inside = sorted(path.iterdir())
        yield from (one for one in inside if _is_input(one) and not one.name.startswith("."))
    elif not path.exists() and glob.has_magic(word):
        yield from map(Path, sorted(glob.glob(word)))
    else:
        yield path


def _is_input(path: Path) -> bool:
    """A file, or a link that leads nowhere: that is told as one that cannot be opened."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def _check_named(workflow: Workflow, named: Mapping[str, Path]) -> None:
    for name in named:
        if name not in workflow.file_parameters:
            takes = ", ".join(workflow.file_parameters) or "none"
            raise CommandError(
                f"{workflow.name} has no file parameter {name!r}; it takes: {takes}.",
                code=EXIT_USAGE,
            )


def _stems(paths: Sequence[Path]) -> list[str]:
    """A name for each path, as short as they are different: ``a``, ``a.jpg``, ``folder-a.jpg``."""
    kinds = (
        lambda path: path.stem,
        lambda path: path.name,
        lambda path: f"{path.absolute().parent.name}-{path.name}",
    )
    choices = [[kind(path) for path in paths] for kind in kinds]
    counts = [Counter(names) for names in choices]
    stems = []
    for place, path in enumerate(paths):
        names = [names[place] for names in choices]
        free = (name for name, count in zip(names, counts, strict=True) if count[name] == 1)
        digest = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:8]
        stems.append(next(free, f"{path.name}-{digest}"))
    return stems


def _copies(stem: str, count: int) -> Iterator[tuple[str, int]]:
    for copy in range(1, count + 1):
        yield (stem if count == 1 else f"{stem}-{copy}"), copy


def digest(path: Path) -> str:
    """Of the file's bytes. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _place(path: Path, folder: Path | None) -> str:
    try:
        return os.path.relpath(path, folder)
    except ValueError:  # on another drive of Windows
        return os.path.abspath(path)


def _told(words: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()
