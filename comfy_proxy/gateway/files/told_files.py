"""The files that an output of a prompt tells of: as objects, and as paths in its texts. Pure.

``{"filename", "subfolder", "type"}`` names a file in full. Many nodes tell a path instead
(``{"result": ["3d/x.glb", null]}``), relative or absolute, with the separators of the instance's
system, or a URL of ``/view``. A text does not say whether it is a path, nor of which directory, so
whatever looks like a path counts as one, in each directory that it may be of. It is a hint only:
whether the instance has such a file must be looked up there.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, unquote

from comfy_proxy.gateway.files.file_name import (
    FILE_TYPES,
    RESULT_TYPES,
    FileName,
    climbs,
    file_at,
    split_annotation,
)

MAX_TEXTS = 256
"""How many texts of one output are looked at; the others are ignored. A node that lists thousands
of words would else crowd older records out."""
MAX_PATH = 4096
"""Characters of a text that may be a path. A longer one is ignored: Linux has no longer paths."""
MAX_TAILS = 4
"""How many segments at the end of an absolute path are tried as the place of a file: the path does
not say where the instance's directory ends."""

_VIEW = re.compile(r"(?:.*/)?view\?(?P<query>[^#]*)(?:#.*)?")
_ENDS_LIKE_A_FILE = re.compile(r"[^/]*\.\w{1,16}")
_ABSOLUTE = re.compile(r"/|[A-Za-z]:/")
_OF_OBJECT = ("filename", "subfolder", "type")


def told_files(output: Any) -> dict[FileName, bool]:
    """The files that ``output`` (any JSON) may tell of: True for one that an object names.

    An output file's type is ``output`` where nothing else is said, and of a text ``temp`` too.
    """
    found: dict[FileName, bool] = {}
    texts_left = MAX_TEXTS
    left: list[tuple[Any, FileName | None]] = [(output, None)]
    while left:
        item, beside = left.pop()
        if isinstance(item, dict):
            if (file := _object(item)) is not None:
                found[file] = True
                item = {key: item[key] for key in item if key not in _OF_OBJECT}
            left += [(value, file or beside) for value in item.values()]
        elif isinstance(item, list):
            left += [(value, beside) for value in item]
        elif isinstance(item, str) and len(item) <= MAX_PATH and texts_left > 0:
            texts_left -= 1
            for file in _named(item.strip(), beside):
                found.setdefault(file, False)
    return found


def _object(item: dict[str, Any]) -> FileName | None:
    name = item.get("filename")
    if not isinstance(name, str):
        return None
    return file_at(name, str(item.get("subfolder") or ""), str(item.get("type") or "output"))


def _named(text: str, beside: FileName | None) -> Iterator[FileName]:
    """What ``text`` may name; ``beside``: the file of the object that it stands in."""
    if not text.isprintable():
        return
    if view := _VIEW.fullmatch(text):
        yield from _viewed(dict(parse_qsl(view["query"])))
        return
    path, kind = split_annotation(text)
    path = path.replace("\\", "/")
    if path.startswith("file://"):
        path = unquote(path.removeprefix("file://"))
    directory, name = posixpath.split(path)
    if not _ENDS_LIKE_A_FILE.fullmatch(name) or "://" in path or climbs(path):
        return
    segments = [*directory.split("/"), name]
    inside = [at for at, segment in enumerate(segments[:-1]) if segment in FILE_TYPES]
    for at in inside:
        yield file_at("/".join(segments[at + 1 :]).lstrip("/"), type=segments[at])
    if not _ABSOLUTE.match(path):
        yield from _relative(path, kind, beside)
    elif not inside:
        for count in range(1, min(len(segments) - 1, MAX_TAILS) + 1):
            yield from _relative("/".join(segments[-count:]), kind, None)


def _relative(path: str, kind: str | None, beside: FileName | None) -> Iterator[FileName]:
    if beside is not None and kind is None:
        yield file_at(path, beside.subfolder, beside.type)
    else:
        for one in [kind] if kind else sorted(RESULT_TYPES):
            yield file_at(path, type=one)


def _viewed(query: dict[str, str]) -> Iterator[FileName]:
    """As ``/view`` reads it: directories in the name are dropped."""
    name, kind = split_annotation(query.get("filename", ""))
    base = posixpath.basename(name)
    if base and not climbs(name):
        folder = query.get("subfolder", "")
        yield file_at(base, folder, kind or query.get("type", "output"))
