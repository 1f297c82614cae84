"""What path a request has for us, and the one form of it by which the proxy classifies. Pure.

Inside another application (``our_routes.py``) that is the path below ours: :func:`our_path` and
:func:`our_target` are what every part of the proxy asks, and nobody asks the request itself.

``/%70rompt`` is ``/prompt``: an unreserved character means the same encoded and plain (RFC 3986
6.2.2.2), and aiohttp's router, ComfyUI's too, decodes it before it looks for a route. Nothing else
is changed: ``//prompt``, ``/./prompt`` and ``/prompt/`` are other paths to that router, and ``%2F``
is part of a segment. What is forwarded is what the client sent, byte for byte.
"""

from __future__ import annotations

import re
import string
from typing import NamedTuple

from aiohttp import web

_UNRESERVED = frozenset(f"{string.ascii_letters}{string.digits}-._~")
"""RFC 3986 2.3."""
_ENCODED = re.compile("%([0-9A-Fa-f]{2})")


class Place(NamedTuple):
    """What a request asks of us, without the path under which another application has us."""

    mount: str
    """That path, ``/a/b``; "" if there is none."""
    target: str
    """The request target (RFC 9112 3.2): encoded, with its query."""
    path: str
    """The path, encoded."""
    lacks_slash: bool
    """Whether it is for ``mount`` itself: the page there has relative links, and needs a slash."""


PLACE: web.RequestKey[Place] = web.RequestKey("comfy_proxy.place", Place)
"""Of every request, except those for routes of the host application."""


def our_path(request: web.Request) -> str:
    """The path of ``request`` for us: encoded as it came, without a query."""
    place = request.get(PLACE)
    return request.rel_url.raw_path if place is None else place.path


def our_target(request: web.Request) -> str:
    """The request target for us (RFC 9112 3.2), in any form but without the mount."""
    place = request.get(PLACE)
    return request.raw_path if place is None else place.target


def mount_of(request: web.Request) -> str:
    """The path under which another aiohttp application has us: ``/a/b``, or ""."""
    place = request.get(PLACE)
    return "" if place is None else place.mount


def normal_path(raw_path: str) -> str:
    """``raw_path``, encoded and without a query, its unreserved characters decoded."""
    return _ENCODED.sub(_plain, raw_path) if "%" in raw_path else raw_path


def _plain(encoded: re.Match[str]) -> str:
    character = chr(int(encoded[1], 16))
    return character if character in _UNRESERVED else encoded[0]
