"""Files that somebody else has made, shown by a browser: none of them may act as a page of ours.

A page, an SVG or any other XML can hold a script. Opened under our address, with the cookie that
stands for a key, it could do whatever its reader may: run workflows, read all pictures.
"""

from __future__ import annotations

from typing import Final

from aiohttp import hdrs
from multidict import CIMultiDict

_HARMLESS: Final = ("image/", "video/", "audio/", "text/plain", "application/json")
"""How media types begin that a browser shows without running anything, but for SVG."""
_SANDBOX: Final = "sandbox"
"""Content-Security-Policy: no scripts, and an origin of its own (W3C CSP 3, 6.3.2). Pictures within
other pages are not concerned."""


def is_harmless(media_type: str) -> bool:
    """Whether a browser may show it as it is. False for what it may take for a page, "" too."""
    told = media_type.strip().lower()
    return told.startswith(_HARMLESS) and not told.startswith("image/svg")


def confine(headers: CIMultiDict[str]) -> None:
    """Have a browser that opens the answer with these ``headers`` run nothing of it."""
    if not is_harmless(headers.get(hdrs.CONTENT_TYPE, "")):
        headers.add("Content-Security-Policy", _SANDBOX)
