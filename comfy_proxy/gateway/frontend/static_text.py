"""Which requests are for static text of the frontend: a table, and what is odd. Pure.

Compressed answers can tell secrets (BREACH: text that an attacker chooses and a secret in one
body; the length of the body says how much they have in common). So there is an allow list, of
files that are the same for everybody, come from the installation and repeat nothing that a client
has sent. What users own is not in it: no ``user.css``, settings, workflows, pictures, and of node
packs their scripts and styles alone, since those are read from their folders by ComfyUI itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from aiohttp import hdrs, web

from comfy_proxy.gateway.exchange.target import target_path
from comfy_proxy.gateway.routes import Match
from comfy_proxy.request_path import our_target
from comfy_proxy.security import bearer_token, is_key
from comfy_proxy.settings import Settings

_SCRIPTS = (".js", ".mjs", ".css")
_TEXT = (*_SCRIPTS, ".json", ".svg", ".html")
_ANY = ("",)

_FILES: Mapping[str, tuple[str, ...]] = {
    "/": _ANY,
    "/assets/{file…}": _TEXT,
    "/scripts/{path…}": _TEXT,
    "/extensions/{path…}": _SCRIPTS,
    "/materialdesignicons.min.css": _ANY,
    "/templates/{path…}": (".json", ".svg"),
    "/docs/{path…}": (".md",),
}
"""A row's pattern in ``routes.py`` → what the names of its files end with."""

_LISTS = frozenset(
    {
        "/extensions",
        "/global_subgraphs",
        "/global_subgraphs/{id}",
        "/i18n",
        "/node_replacements",
        "/workflow_templates",
    }
)
"""Patterns of JSON that ComfyUI makes of what is installed, without a validator (``ETag`` or
``Last-Modified``): a digest of it serves as one. The subgraphs are 4 MB of a page load of 2026."""

_ODD_HEADERS = (
    hdrs.RANGE,
    hdrs.IF_RANGE,
    hdrs.IF_MATCH,
    hdrs.IF_UNMODIFIED_SINCE,
    hdrs.UPGRADE,
)
_PLAIN_PATH = re.compile(r"(?:/(?!\.\.?(?:/|$))(?:[\w.~@+,()-]|%20)+)+|/", re.ASCII)

_TYPES = re.compile(
    r"text/.*|image/svg\+xml|application/(?:javascript|x-javascript|json|.*\+json|xml)"
)


def is_static_text(request: web.Request, match: Match) -> bool:
    """Whether ``request``, whose row is ``match``, names text of the frontend. A path with a
    ``..``, an encoded slash or an empty segment never does."""
    ends = _FILES.get(match.pattern, _ANY if match.pattern in _LISTS else ())
    if not ends:
        return False
    path = target_path(our_target(request))
    return path.lower().endswith(ends) and bool(_PLAIN_PATH.fullmatch(path))


def is_made(match: Match) -> bool:
    """Whether ComfyUI makes it anew for each request (``_LISTS``)."""
    return match.pattern in _LISTS


def is_plain(request: web.Request, settings: Settings) -> bool:
    """Whether it is a GET or HEAD that wants all of a file and says nothing else of it.

    Parts of a file, conditions that are to fail, and credentials of an instance's own are not for
    us to answer.
    """
    if request.method not in (hdrs.METH_GET, hdrs.METH_HEAD) or request.body_exists:
        return False
    headers = request.headers
    if any(name in headers for name in _ODD_HEADERS):
        return False
    tokens = [bearer_token(value) for value in headers.getall(hdrs.AUTHORIZATION, [])]
    return all(one is not None and is_key(one, settings.api_keys) for one in tokens)


def is_text(content_type: str) -> bool:
    """Whether an answer of this ``Content-Type`` gets smaller, parameters set aside."""
    return bool(_TYPES.fullmatch(content_type.partition(";")[0].strip().lower()))
