"""The charset that a client names for a text. Pure."""

from __future__ import annotations

import codecs

from aiohttp import web

from comfy_proxy.errors import RequestError

_SLOW = ("punycode", "idna")
"""Python's codecs for host names, which no JSON is in: their time grows with the square of the
length, and a text of 1 MB would stop the event loop for a minute."""


def is_slow(charset: str) -> bool:
    """True for one in which nothing is to be decoded here."""
    try:
        return codecs.lookup(charset).name in _SLOW
    except (LookupError, ValueError):
        return False


def body_charset(request: web.Request) -> str:
    """That of the body, UTF-8 if none is named. It may be unknown.

    Raises RequestError for a slow one: an instance would stand still over it as we would.
    """
    charset = request.charset or "utf-8"
    if is_slow(charset):
        raise RequestError("A body in this charset is not read.", details={"charset": charset})
    return charset
