"""What is to be run: an item for each file (or each picture that is to be made of none)."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from comfy_proxy.cli.command import EXIT_USAGE, CommandError
from comfy_proxy.client.models import Workflow


@dataclass(frozen=True, kw_only=True)
class Item:
    """One job. ``label`` is what it is called on the screen, ``stem`` how its outputs' names begin.

    ``files`` are by the names of parameters; ``copy`` tells those apart that are alike.
    """

    label: str
    stem: str
    files: Mapping[str, Path]
    copy: int = 1

    def fingerprint(self, workflow: str, parameters: Mapping[str, str]) -> str:
        """The same for the same bytes with the same parameters. Reads the files: raises OSError."""
        digests = {name: _digest(path) for name, path in self.files.items()}
        told = json.dumps([workflow, parameters, digests, self.copy], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()


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


def expanded(words: Iterable[str]) -> list[Path]:
    """The files that are named, each once: those in a folder, and those that a pattern means where
    the shell has left it as it is."""
    found = [path for word in words for path in _paths(word)]
    return list(dict.fromkeys(found))


def shown(path: Path) -> str:
    """``path`` on one line of a terminal: nothing in a file's name ends it, or moves the cursor."""
    return "".join(one if one.isprintable() else "\ufffd" for one in str(path))


def pairs(words: Iterable[str], option: str) -> dict[str, str]:
    """``name=value`` of an option that may be given several times. Raises CommandError."""
    given: dict[str, str] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name:
            raise CommandError(f"{option} {word}: it is to be NAME=VALUE.", code=EXIT_USAGE)
        given[name] = value
    return given


def _paths(word: str) -> Iterator[Path]:
    path = Path(word)
    if path.is_dir():
        inside = sorted(path.iterdir())
        yield from (one for one in inside if one.is_file() and not one.name.startswith("."))
    elif not path.exists() and glob.has_magic(word):
        yield from map(Path, sorted(glob.glob(word)))
    else:
        yield path


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


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
