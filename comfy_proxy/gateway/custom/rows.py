"""Rows of the user's own for routes of custom nodes: ``ROUTES_FILE``, and how a row is found.

The file is TOML::

    [[route]]
    methods = ["POST"]
    path = "/my_pack/reload/{name}"
    to = "broadcast"
    why = "each instance has a cache of its own"

``{name}`` is one segment, ``{name…}`` (or ``{name...}``) at the end the rest of the path. A path
counts with ``/api`` in front too, as ComfyUI takes it; one that begins with ``/api`` as it is. The
first row that fits decides. ComfyUI's own routes are answered as ``routes.py`` says.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiohttp import hdrs

from comfy_proxy.errors import SettingsError
from comfy_proxy.gateway.routes import Prefix, is_named, pattern_of
from comfy_proxy.request_path import normal_path

_METHOD = re.compile("[A-Z]{1,16}")
_NO_PATH = re.compile(r"[?#\x00-\x1f]")
_VARIABLE = re.compile(r"\{(?P<name>[A-Za-z_]\w*)(?P<rest>…?)\}", re.ASCII)
_PLAIN = "%!$&'()*+,:;=@"
"""What may stand in a path and is no letter; % as somebody may have encoded it already."""
_KEYS = {"methods", "path", "to", "why"}


class To(StrEnum):
    """Who answers a request of a row."""

    PRIMARY = "primary"
    """The first healthy instance."""
    BALANCED = "balanced"
    """The healthy instance with the least to do."""
    BROADCAST = "broadcast"
    """All healthy instances do it; the answer is the primary's, or the first that succeeded."""
    BY_FILE = "by_file"
    """The instance that has the file that ``filename``, ``subfolder`` and ``type`` name."""
    BY_PROMPT = "by_prompt"
    """The instance that has the prompt whose id is in the request."""
    RESTART = "restart"
    """The primary, once it has nothing left to do; nothing new is sent there until it is back."""


@dataclass(frozen=True, kw_only=True)
class CustomRow:
    """One row. ``why`` is its reason, for the log."""

    methods: frozenset[str]
    path: str
    to: To
    why: str = ""

    def pattern(self) -> re.Pattern[str]:
        return pattern_of(self.path, Prefix.BARE if self.path.startswith("/api/") else Prefix.BOTH)


class Rows:
    """Rows in their order, the first that fits decides: the user's own, then ``known``."""

    def __init__(self, own: Sequence[CustomRow], known: Iterable[CustomRow] = ()) -> None:
        self._known = [(row, row.pattern()) for row in known]
        self.replace(own)

    def replace(self, own: Sequence[CustomRow]) -> None:
        """The user's rows are these from now on."""
        self.own = tuple(own)
        self._rows = [*((row, row.pattern()) for row in own), *self._known]

    def find(self, method: str, path: str) -> CustomRow | None:
        """The row for a request; ``path`` encoded, in its normal form."""
        for row, pattern in self._rows:
            if method in row.methods and pattern.fullmatch(path):
                return row
        return None

    def for_all(self, method: str, path: str) -> bool:
        """Whether a request may be one for all instances, whatever its body says; ``path`` as for
        :meth:`find`. A PUT always may (RFC 9110 9.2.2)."""
        found = self.find(method, path)
        return method == hdrs.METH_PUT or (found is not None and found.to is To.BROADCAST)


def row(methods: str, path: str, to: To, why: str) -> CustomRow:
    """A row of ours; ``methods`` with blanks between them."""
    return CustomRow(methods=_with_head(methods.split()), path=path, to=to, why=why)


def read_rows(path: Path) -> list[CustomRow]:
    """The rows of a ``ROUTES_FILE``. Raises SettingsError, which names file, row and key."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, RecursionError, ValueError) as error:  # ValueError: no UTF-8, no TOML
        raise SettingsError([f"ROUTES_FILE {path} cannot be read: {error}"]) from error
    rows = document.pop("route", [])
    if document or not isinstance(rows, list) or not all(isinstance(one, dict) for one in rows):
        unknown = ", ".join(document) or "route"
        raise SettingsError([f"ROUTES_FILE {path}: {unknown}: only [[route]] tables are known"])
    made, problems = [], []
    for number, one in enumerate(rows, 1):
        try:
            made.append(_read(one))
        except ValueError as error:
            problems.append(f"ROUTES_FILE {path}: route {number}: {error}")
    if problems:
        raise SettingsError(problems)
    return made


def _read(table: Mapping[str, Any]) -> CustomRow:
    if unknown := table.keys() - _KEYS:
        raise ValueError(f"{min(unknown)}: there is no such key; known are {_listed(_KEYS)}")
    methods, path, to = (table.get(name) for name in ("methods", "path", "to"))
    if isinstance(methods, str):
        methods = [methods]
    if not isinstance(methods, list) or not methods or not all(map(_is_method, methods)):
        raise ValueError(f'methods: {methods!r} is no list of methods such as ["GET", "POST"]')
    if not isinstance(to, str) or to not in set(To):
        raise ValueError(f"to: {to!r} is none of {_listed(To)}")
    path = _path(path)
    if named := [method for method in methods if is_named(method, path)]:
        raise ValueError(f"path: {named[0]} {path} is ComfyUI's own, and rows are for custom nodes")
    return CustomRow(
        methods=_with_head(methods),
        path=path,
        to=To(to),
        why=str(table.get("why", "")),
    )


def _path(path: Any) -> str:
    """As it stands in requests, in its normal form, but for the variables in it.

    Only a whole segment may be one, and the rest of the path only at its end: a pattern with two of
    them could take an hour for one path.
    """
    if not isinstance(path, str) or not path.startswith("/"):
        raise ValueError(f"path: {path!r} does not begin with a slash")
    if found := _NO_PATH.search(path):
        raise ValueError(f"path: {path!r} has {found[0]!r} in it, and no path has")
    segments = path.replace("...}", "…}").split("/")
    names: list[str] = []
    for at, segment in enumerate(segments):
        if "{" not in segment and "}" not in segment:
            segments[at] = normal_path(quote(segment, safe=_PLAIN))
            continue
        found = _VARIABLE.fullmatch(segment)
        if found is None or (found["rest"] and at < len(segments) - 1) or found["name"] in names:
            raise ValueError(
                f"path: {segment!r}: a segment is {{name}}, each name once, or {{name...}} at the"
                " end, or has no braces"
            )
        names.append(found["name"])
    return "/".join(segments)


def _is_method(name: Any) -> bool:
    return isinstance(name, str) and _METHOD.fullmatch(name) is not None


def _with_head(methods: Sequence[str]) -> frozenset[str]:
    return frozenset([*methods, "HEAD"] if "GET" in methods else methods)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
