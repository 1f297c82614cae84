"""The names that we gave to results, where they come back in a request. Pure.

A client was told a result's ``subfolder`` with its instance in front (``@2/clips``, see
``files/instance_prefix.py``). It sends that back as it is, or joined with the file name as a path,
or in a URL of ``/view``; under whatever key a custom node's own route expects it.
"""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from comfy_proxy.gateway.custom.fields import Fields, changed_query
from comfy_proxy.gateway.exchange.target import quoted
from comfy_proxy.gateway.files.instance_prefix import split_prefix

_FOLDER_KEYS: Final = ("folder", "dir", "path")
"""A value that is nothing but a mark (``@2``) counts as one under a key with one of these in its
name; else it may be anything that begins with @."""
_NOBODY: Final[frozenset[str]] = frozenset()
_MAY_BE_MARKED: Final = re.compile("@|40|%3[40]")
"""What a target has that has a mark: ``@``, ``%40``, or ``%2540`` in a URL in it, of which each
digit may be encoded too."""
_SUBFOLDER: Final = re.compile(r"(?P<key>[?&]subfolder=)(?P<value>[^&#]*)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Unmarked:
    """A request less the marks in it: ``owners`` are these marks, ``target`` its path with query,
    and ``raw`` its body; None if the client's has no mark."""

    owners: frozenset[str]
    target: str
    raw: bytes | None = field(default=None, repr=False)


def unmarked(target: str, read: Fields | None, known: Container[str]) -> Unmarked:
    """The request for ``target`` with the body ``read``, without the marks that are ``known``."""
    if read is None and _MAY_BE_MARKED.search(target) is None:
        return Unmarked(owners=_NOBODY, target=target)
    marks, raw = Marks(known), None
    path, mark, query = target.partition("?")
    target = changed_query(f"{marks.taken_out_of_path(path)}{mark}{query}", marks.taken_out)
    if read is not None and any(marks.taken_out(*one) != one[1] for one in read.fields):
        raw = read.change(marks.taken_out)
    return Unmarked(owners=frozenset(marks.owners), target=target, raw=raw)


class Marks:
    """Takes the marks that are ``known`` out of values, and keeps them in ``owners``."""

    def __init__(self, known: Container[str]) -> None:
        self._known = known
        self.owners: set[str] = set()

    def taken_out(self, key: str, value: str) -> str:
        """``value`` of the field ``key`` as the instance knows it."""
        if "@" not in value and "%40" not in value:
            return value
        if (found := _SUBFOLDER.search(value)) is not None:
            start, end = found.span("value")
            inner = self._inner(unquote(found["value"]), is_folder=True)
            return value if inner is None else value[:start] + quoted(inner, "/") + value[end:]
        inner = self._inner(value, is_folder=any(name in key.lower() for name in _FOLDER_KEYS))
        return value if inner is None else inner

    def taken_out_of_path(self, path: str) -> str:
        """An encoded path less the first segment that is a mark."""
        segments = path.split("/")
        for at, segment in enumerate(segments[1:-1], 1):
            owner, _ = split_prefix(unquote(segment), self._known)
            if owner is not None and unquote(segment) == f"@{owner}":
                self.owners.add(owner)
                return "/".join(segments[:at] + segments[at + 1 :])
        return path

    def _inner(self, value: str, *, is_folder: bool) -> str | None:
        owner, inner = split_prefix(value, self._known)
        if owner is None or not (inner or is_folder):
            return None
        self.owners.add(owner)
        return inner
