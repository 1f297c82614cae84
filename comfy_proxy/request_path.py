"""The one form of a path by which every part of the proxy classifies a request. Pure.

``/%70rompt`` is ``/prompt``: an unreserved character means the same encoded and plain (RFC 3986
6.2.2.2), and aiohttp's router, ComfyUI's too, decodes it before it looks for a route. Nothing else
is changed: ``//prompt``, ``/./prompt`` and ``/prompt/`` are other paths to that router, and ``%2F``
is part of a segment. What is forwarded is what the client sent, byte for byte.
"""

from __future__ import annotations

import re
import string

_UNRESERVED = frozenset(f"{string.ascii_letters}{string.digits}-._~")
"""RFC 3986 2.3."""
_ENCODED = re.compile("%([0-9A-Fa-f]{2})")


def normal_path(raw_path: str) -> str:
    """``raw_path``, encoded and without a query, its unreserved characters decoded."""
    return _ENCODED.sub(_plain, raw_path) if "%" in raw_path else raw_path


def _plain(encoded: re.Match[str]) -> str:
    character = chr(int(encoded[1], 16))
    return character if character in _UNRESERVED else encoded[0]
