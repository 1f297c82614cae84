"""The name of a file: ``filename``, ``subfolder`` and ``type``, as ComfyUI addresses it. Pure.

Clients spell one file in many ways (``a//x.png``, ``./a/x.png``, ``x.png [output]``), and ComfyUI
takes them all. Records need one key for a file, so every name goes through :func:`file_at` first.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from typing import Final

RESULT_TYPES: Final = frozenset({"output", "temp"})
"""Each instance counts its own results, so one name may be two files (PROTOCOL.md
trap 6). Inputs are the same
on all instances."""
FILE_TYPES: Final = RESULT_TYPES | {"input"}

_SEPARATORS = re.compile(r"[/\\]")


@dataclass(frozen=True, kw_only=True, slots=True)
class FileName:
    """A file of one directory; ``type`` says which: input, output or temp."""

    filename: str
    subfolder: str = ""
    type: str = "output"


def file_at(filename: str, subfolder: str = "", type: str = "output") -> FileName:  # noqa: A002
    """The file under the one name that all its spellings have, as a key for records.

    Directories in ``filename`` belong to the subfolder; ``./``, ``//`` and slashes at the end go.
    """
    directory, base = posixpath.split(posixpath.join(subfolder, filename))
    directory = posixpath.normpath(directory) if directory else ""
    return FileName(filename=base, subfolder="" if directory == "." else directory, type=type)


def one_spelling(file: FileName) -> FileName:
    """``file`` with ``/`` for each backslash, as a key for records: an instance on Windows takes
    both separators, and clients send either."""
    if "\\" not in file.filename and "\\" not in file.subfolder:
        return file
    name, folder = (part.replace("\\", "/") for part in (file.filename, file.subfolder))
    return file_at(name, folder, file.type)


def climbs(path: str) -> bool:
    """True if a segment is ``..``, by either separator."""
    return ".." in _SEPARATORS.split(path)


def is_hidden(file: FileName) -> bool:
    """True if ``/view`` cannot show it: nobody can see or copy such a file, but it can be uploaded,
    and prompts can use it. See :func:`is_hidden_name`."""
    return is_hidden_name(file.filename) or not has_url(file)


def is_hidden_name(filename: str) -> bool:
    """True if ``/view`` refuses the name (400), or if it is no UTF-8 on the instance's disk."""
    return ".." in filename or not _is_utf_8(filename)


def has_url(file: FileName) -> bool:
    """False if a part of the name is no UTF-8 on the instance's disk (a lone surrogate here, as in
    Python's own names of files): ComfyUI reads such a byte of a query as another letter, and yarl
    leaves it out, which would be the URL of another file."""
    return _is_utf_8(file.filename) and _is_utf_8(file.subfolder)


def _is_utf_8(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def split_annotation(name: str) -> tuple[str, str | None]:
    """``x.png [output]`` → ``("x.png", "output")``; without an annotation the type is None.

    ComfyUI looks for ``[output]`` at the end and cuts one character more, whatever it is.
    """
    for kind in sorted(FILE_TYPES):
        if name.endswith(f"[{kind}]"):
            return name[: -len(kind) - 3], kind
    return name, None


def split_annotated(name: str) -> FileName:
    """The file that a graph's input names: ``sub/x.png``, ``x.png [output]``; default input."""
    path, kind = split_annotation(name)
    return file_at(path, type=kind or "input")


def annotated(file: FileName) -> str:
    """How a graph names ``file``."""
    path = posixpath.join(file.subfolder, file.filename)
    return path if file.type == "input" else f"{path} [{file.type}]"
