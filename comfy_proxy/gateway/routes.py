"""Who answers what: every route of ComfyUI and its policy, in one table.

Rules, then the table, then a short interpreter; no I/O.

* The first row whose method and pattern fit decides. ``{name}`` is one path segment, ``{name…}``
  the rest of the path, slashes included.
* Routes of ComfyUI's server exist with and without ``/api`` (``BOTH``), those of ``/internal`` and
  static files without it only (``BARE``), jobs and assets with it only (``API``).
* What no row names is a custom node's own route (``custom/rules.py``). Nobody here knows what it
  does, so it is sent once, GET too; a GET of a row may be sent again (``forward.py``).

Source: ComfyUI's ``server.py``, ``app/*.py`` and ``api_server/``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from urllib.parse import unquote

from comfy_proxy.request_path import normal_path


class Policy(StrEnum):
    """Which instances a request concerns; ``gateway/policies.py`` says who answers each."""

    PRIMARY = "primary"
    """The first healthy instance: what belongs together comes from one place."""
    SCHEDULED = "scheduled"
    """``POST /prompt``: one instance, chosen by the scheduler."""
    EVENTS = "events"
    """The WebSocket: all instances as one."""
    OWNER_BY_PROMPT = "owner_by_prompt"
    """The instance that has the prompt whose id is in the path or body; all if none is named."""
    OWNER_BY_FILE = "owner_by_file"
    """The instance that has the file."""
    FIRST_FOUND = "first_found"
    """The primary, or where it has nothing (404) the next one."""
    UPLOAD = "upload"
    """Every instance that may run a prompt naming the file."""
    MERGED = "merged"
    """One answer made of all instances' answers."""
    OBJECT_INFO = "object_info"
    """The union of what the instances can do, from the cache."""
    FEATURES = "features"
    """The primary's, with the smallest upload limit of all."""
    BROADCAST = "broadcast"
    """All instances do it; one answer."""
    CUSTOM = "custom"
    """A custom node's own route: whom it concerns is found out (``custom/rules.py``)."""
    SUBSCRIPTION = "subscription"
    """All instances, and again at each new socket of the client there."""
    MERGED_ASSETS = "merged_assets"
    """One list made of all instances' asset databases; 503 while one of them is away."""
    OWNER_BY_ASSET = "owner_by_asset"
    """The instance that has the asset whose id is in the path."""
    NEW_ASSET = "new_asset"
    """The instance that has the bytes already, else the primary; inputs then go to all."""
    ASSET_SCAN = "asset_scan"
    """All instances do it, or tell how far they are; one answer for all who have assets."""
    STATE = "state"
    """Read from the primary, written to all: it stays the same whichever instance is up."""


class Prefix(StrEnum):
    BOTH = "both"
    API = "api"
    BARE = "bare"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    methods: frozenset[str]
    pattern: str
    policy: Policy
    prefix: Prefix = Prefix.BOTH


@dataclass(frozen=True, kw_only=True)
class Match:
    """What a request is: the row's policy, its ``pattern`` and the decoded path variables."""

    policy: Policy
    pattern: str
    variables: Mapping[str, str] = field(default_factory=dict)


def _row(methods: str, pattern: str, policy: Policy, prefix: Prefix = Prefix.BOTH) -> Row:
    names = set(methods.split())
    if "GET" in names:
        names.add("HEAD")  # aiohttp's routers answer HEAD wherever they answer GET
    return Row(methods=frozenset(names), pattern=pattern, policy=policy, prefix=prefix)


TABLE: tuple[Row, ...] = (
    _row("GET", "/ws", Policy.EVENTS),
    _row("POST", "/prompt", Policy.SCHEDULED),
    _row("GET", "/prompt", Policy.MERGED),
    _row("GET", "/queue", Policy.MERGED),
    _row("POST", "/queue", Policy.OWNER_BY_PROMPT),
    _row("POST", "/interrupt", Policy.OWNER_BY_PROMPT),
    _row("GET", "/history", Policy.MERGED),
    _row("POST", "/history", Policy.OWNER_BY_PROMPT),
    _row("GET", "/history/{prompt_id}", Policy.OWNER_BY_PROMPT),
    _row("GET", "/jobs", Policy.MERGED, Prefix.API),
    _row("POST", "/jobs/cancel", Policy.OWNER_BY_PROMPT, Prefix.API),
    _row("GET", "/jobs/{prompt_id}", Policy.OWNER_BY_PROMPT, Prefix.API),
    _row("POST", "/jobs/{prompt_id}/cancel", Policy.OWNER_BY_PROMPT, Prefix.API),
    _row("POST", "/upload/image", Policy.UPLOAD),
    _row("POST", "/upload/mask", Policy.UPLOAD),
    _row("GET", "/view", Policy.OWNER_BY_FILE),
    _row("GET", "/object_info", Policy.OBJECT_INFO),
    _row("GET", "/object_info/{node_class}", Policy.OBJECT_INFO),
    _row("POST", "/free", Policy.BROADCAST),
    _row("GET POST", "/users", Policy.STATE),
    _row("GET POST", "/settings", Policy.STATE),
    _row("GET POST", "/settings/{id}", Policy.STATE),
    _row("GET", "/userdata", Policy.STATE),
    _row("GET", "/v2/userdata", Policy.STATE),
    _row("POST", "/userdata/{file}/move/{dest}", Policy.STATE),
    _row("GET POST DELETE", "/userdata/{file}", Policy.STATE),
    _row("GET", "/internal/files/{directory_type}", Policy.MERGED, Prefix.BARE),
    # A model file that one instance alone has is listed, and shown by that one.
    _row("GET", "/embeddings", Policy.MERGED),
    _row("GET", "/models", Policy.MERGED),
    _row("GET", "/models/{folder}", Policy.MERGED),
    _row("GET", "/experiment/models", Policy.MERGED),
    _row("GET", "/experiment/models/{folder}", Policy.MERGED),
    _row("GET", "/experiment/models/preview/{folder}/{path_index}/{filename…}", Policy.FIRST_FOUND),
    _row("GET", "/view_metadata/{folder_name}", Policy.FIRST_FOUND),
    _row("GET", "/system_stats", Policy.MERGED),
    # Read only, and small: the primary answers, so that one page load sees one installation.
    _row("GET", "/", Policy.PRIMARY),
    _row("GET", "/extensions", Policy.PRIMARY),
    _row("GET", "/extensions/{path…}", Policy.PRIMARY, Prefix.BARE),
    _row("GET", "/features", Policy.FEATURES),
    _row("GET", "/workflow_templates", Policy.PRIMARY),
    _row("GET", "/i18n", Policy.PRIMARY),
    _row("GET", "/global_subgraphs", Policy.PRIMARY),
    _row("GET", "/global_subgraphs/{id}", Policy.PRIMARY),
    _row("GET", "/node_replacements", Policy.PRIMARY),
    _row("GET", "/docs/{path…}", Policy.PRIMARY, Prefix.BARE),
    # The frontend's own files, some ninety in a page load.
    _row("GET", "/assets/{file…}", Policy.PRIMARY, Prefix.BARE),
    _row("GET", "/scripts/{path…}", Policy.PRIMARY, Prefix.BARE),
    _row("GET", "/fonts/{path…}", Policy.PRIMARY, Prefix.BARE),
    _row("GET", "/cursor/{path…}", Policy.PRIMARY, Prefix.BARE),
    _row("GET", "/materialdesignicons.min.css", Policy.PRIMARY, Prefix.BARE),
    _row("GET", "/user.css", Policy.PRIMARY, Prefix.BARE),
    _row("GET", "/templates/{path…}", Policy.PRIMARY, Prefix.BARE),
    _row("GET", "/internal/logs", Policy.PRIMARY, Prefix.BARE),
    _row("GET", "/internal/logs/raw", Policy.PRIMARY, Prefix.BARE),
    _row("PATCH", "/internal/logs/subscribe", Policy.SUBSCRIPTION, Prefix.BARE),
    _row("GET", "/internal/folder_paths", Policy.PRIMARY, Prefix.BARE),
    # The asset database of 2026: each instance has its own, with ids of its own.
    _row("GET", "/assets", Policy.MERGED_ASSETS, Prefix.API),
    _row("POST", "/assets", Policy.NEW_ASSET, Prefix.API),
    _row("POST", "/assets/from-hash", Policy.NEW_ASSET, Prefix.API),
    _row("HEAD", "/assets/hash/{hash}", Policy.NEW_ASSET, Prefix.API),
    _row("GET", "/assets/tags/refine", Policy.MERGED_ASSETS, Prefix.API),
    _row("GET", "/assets/seed/status", Policy.ASSET_SCAN, Prefix.API),
    _row("POST", "/assets/seed", Policy.ASSET_SCAN, Prefix.API),
    _row("POST", "/assets/seed/cancel", Policy.ASSET_SCAN, Prefix.API),
    _row("POST", "/assets/prune", Policy.ASSET_SCAN, Prefix.API),
    _row("GET PUT DELETE", "/assets/{asset_id}", Policy.OWNER_BY_ASSET, Prefix.API),
    _row("GET", "/assets/{asset_id}/content", Policy.OWNER_BY_ASSET, Prefix.API),
    _row("POST DELETE", "/assets/{asset_id}/tags", Policy.OWNER_BY_ASSET, Prefix.API),
    _row("GET", "/tags", Policy.MERGED_ASSETS, Prefix.API),
)

_VARIABLE = re.compile(r"\{(\w+)(…?)\}")
_ELSE = Match(policy=Policy.CUSTOM, pattern="")


def pattern_of(path: str, prefix: Prefix) -> re.Pattern[str]:
    """What fits a row's ``path``, in its normal form."""
    pattern, position = "", 0
    for variable in _VARIABLE.finditer(path):
        inside = ".*" if variable[2] else "[^/]+"
        pattern += re.escape(path[position : variable.start()])
        pattern += f"(?P<{variable[1]}>{inside})"
        position = variable.end()
    before = {Prefix.BOTH: "(?:/api)?", Prefix.API: "/api", Prefix.BARE: ""}[prefix]
    return re.compile(before + pattern + re.escape(path[position:]))


def _first_segment(path: str) -> str:
    """The one behind ``/api``, if that is there."""
    rest = path[4:] if path.startswith("/api/") else path
    return rest[1:].partition("/")[0]


def _by_first_segment() -> Mapping[str, Sequence[tuple[Row, re.Pattern[str]]]]:
    """The rows that a path can fit, in the order of the table: none begins with a variable."""
    rows: dict[str, list[tuple[Row, re.Pattern[str]]]] = {}
    for row in TABLE:
        rows.setdefault(_first_segment(row.pattern), []).append(
            (row, pattern_of(row.pattern, row.prefix))
        )
    return rows


_COMPILED = _by_first_segment()


def is_named(method: str, raw_path: str) -> bool:
    """Whether a row names the request; ``raw_path`` as for :func:`match`."""
    return match(method, raw_path) is not _ELSE


@lru_cache(maxsize=1024)  # each request is matched several times, and most paths come again
def match(method: str, raw_path: str) -> Match:
    """The row for a request; ``raw_path`` as it came, without the query.

    It is matched in its normal form (``request_path.py``). A path variable keeps an encoded slash
    as part of its segment (``%2F``), as aiohttp does.
    """
    path = normal_path(raw_path)
    for row, pattern in _COMPILED.get(_first_segment(path), ()):
        if method in row.methods and (found := pattern.fullmatch(path)):
            variables = {name: unquote(text) for name, text in found.groupdict().items()}
            return Match(policy=row.policy, pattern=row.pattern, variables=variables)
    return _ELSE
