"""The mark that tells whose a file is: ``@N`` before the ``subfolder`` of an output. Pure.

Each instance counts its own ``ComfyUI_00001_.png``; the same name on two instances is two pictures
(trap 6). Clients echo the subfolder in ``/view`` and in graphs, so the mark comes back to us, also
after a restart of the proxy: ``""`` → ``@1``, ``a/b`` → ``@1/a/b``.

A path that climbs (``..``) bears no mark: what is left of it might mean another place than before.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection
from typing import Any

from comfy_proxy.cluster.ownership import FileName

MARKED_TYPES = frozenset({"output", "temp"})
"""Inputs are the same on all instances and bear no mark."""
FILE_TYPES = MARKED_TYPES | {"input"}

_MARK = re.compile(r"@(?P<id>[^/\\]+)(?:[/\\]+(?P<rest>.*))?", re.DOTALL)
_SEPARATORS = re.compile(r"[/\\]")


def mark(subfolder: str, instance_id: str) -> str:
    """``subfolder`` of an output as clients see it."""
    return f"@{instance_id}/{subfolder}" if subfolder else f"@{instance_id}"


def unmark(subfolder: str, ids: Collection[str]) -> tuple[str | None, str]:
    """The instance's id and the subfolder there; ``(None, subfolder)`` for what bears no mark.

    Only the ids of configured instances make a mark: anything else is somebody's own folder.
    """
    found = _MARK.fullmatch(subfolder)
    if found is None or found["id"] not in ids or climbs(subfolder):
        return None, subfolder
    return found["id"], found["rest"] or ""


def climbs(path: str) -> bool:
    """True if a segment is ``..``, by either separator."""
    return ".." in _SEPARATORS.split(path)


def mark_outputs(output: Any, instance_id: str, kinds: Collection[str] = MARKED_TYPES) -> Any:
    """JSON like ``output``, the subfolder of each file in it whose type is of ``kinds`` marked.

    For whatever names files: ``executed``, ``/history``, ``/api/jobs``. ``output`` is left as it
    is. A subfolder that looks marked is marked like any other (``@2/@1``): it is a folder of that
    instance, made by a client's own prefix or by a copy for it. A name that ``/view`` refuses bears
    no mark: no copy can be put under it.
    """
    if isinstance(output, list):
        return [mark_outputs(item, instance_id, kinds) for item in output]
    if not isinstance(output, dict):
        return output
    marked = {key: mark_outputs(value, instance_id, kinds) for key, value in output.items()}
    if _names_a_file(output, kinds):
        marked["subfolder"] = mark(output.get("subfolder") or "", instance_id)
    return marked


def _names_a_file(item: dict[str, Any], kinds: Collection[str]) -> bool:
    kind = item.get("type")
    return (
        isinstance(name := item.get("filename"), str)
        and ".." not in name
        and isinstance(kind, str)
        and kind in kinds
        and isinstance(item.get("subfolder") or "", str)
    )


def file_at(filename: str, subfolder: str = "", type: str = "output") -> FileName:  # noqa: A002
    """A file under the one name that all its spellings have: a key for records.

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


def is_hidden(file: FileName) -> bool:
    """True if ``/view`` refuses the name (400). Nobody can see or copy such a file, but it can be
    uploaded, and prompts can use it."""
    return ".." in file.filename


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
