"""Rows of the user's own for routes of custom nodes: ``ROUTES_FILE``, and how a row is found.

The file is TOML::

    [[route]]
    methods = ["POST"]
    path = "/my_pack/reload/{name}"
    to = "broadcast"
    why = "each instance has a cache of its own"

``{name}`` is one segment, ``{name…}`` (or ``{name...}``) the rest of the path. A path counts with
``/api`` in front too, as ComfyUI takes it; one that begins with ``/api`` as it is. The first row
that fits decides.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from comfy_proxy.errors import SettingsError
from comfy_proxy.gateway.routes import Prefix, pattern_of
from comfy_proxy.request_path import normal_path

_METHOD = re.compile("[A-Z]{1,16}")
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
    """Rows in their order, the first that fits decides."""

    def __init__(self, rows: Iterable[CustomRow]) -> None:
        self._rows = [(row, row.pattern()) for row in rows]

    def find(self, method: str, path: str) -> CustomRow | None:
        """The row for a request; ``path`` encoded, in its normal form."""
        for row, pattern in self._rows:
            if method in row.methods and pattern.fullmatch(path):
                return row
        return None


def row(methods: str, path: str, to: To, why: str) -> CustomRow:
    """A row of ours; ``methods`` with blanks between them."""
    return CustomRow(methods=_with_head(methods.split()), path=path, to=to, why=why)


def read_rows(path: Path) -> list[CustomRow]:
    """The rows of a ``ROUTES_FILE``. Raises SettingsError, which names file, row and key."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
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
    if not isinstance(path, str) or not path.startswith("/"):
        raise ValueError(f"path: {path!r} does not begin with a slash")
    if to not in set(To):
        raise ValueError(f"to: {to!r} is none of {_listed(To)}")
    return CustomRow(
        methods=_with_head(methods),
        path=normal_path(path).replace("...}", "…}"),
        to=To(to),
        why=str(table.get("why", "")),
    )


def _is_method(name: Any) -> bool:
    return isinstance(name, str) and _METHOD.fullmatch(name) is not None


def _with_head(methods: Sequence[str]) -> frozenset[str]:
    return frozenset([*methods, "HEAD"] if "GET" in methods else methods)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
