"""Which bytes of a result a client asks for: ``Range`` and ``If-Range`` (RFC 9110, 13.1.5 and 14).

A player asks for parts of a video to seek in it; a download that broke off asks for the rest.
"""

from __future__ import annotations

import re
from typing import Final

from comfy_proxy.errors import RequestError

_ONE: Final = re.compile(r"bytes=[ \t]*([0-9]{0,40})-([0-9]{0,40})[ \t]*", re.IGNORECASE)


class RangeNotSatisfiableError(RequestError):
    """``Range`` asks for bytes that are not there; ``Content-Range`` tells how many are."""

    status = 416
    code = "range_not_satisfiable"

    def __init__(self, size: int) -> None:
        super().__init__(f"There are {size} bytes, and none of these.")
        self.headers["Content-Range"] = f"bytes */{size}"


def asked_range(header: str | None, if_range: str | None, *, etag: str, size: int) -> range | None:
    """The places of the bytes that are asked for, of ``size``; None for all of them.

    All are sent too, as RFC 9110 allows, for several ranges at once and for what is no range of
    bytes, and if ``if_range`` names anything but the strong validator ``etag``. Raises
    RangeNotSatisfiableError if there is no such byte.
    """
    match = _ONE.fullmatch(header or "")
    if match is None or (if_range is not None and if_range.strip() != etag):
        return None
    first, last = match.groups()
    if not first and not last:
        return None
    if not first:  # the last so many
        places = range(max(0, size - int(last)), size)
    elif last and int(last) < int(first):
        return None
    else:
        places = range(int(first), min(int(last) + 1, size) if last else size)
    if not places:
        raise RangeNotSatisfiableError(size)
    return places


def content_range(places: range, size: int) -> str:
    """``Content-Range`` of an answer with the bytes at ``places`` of ``size``."""
    return f"bytes {places.start}-{places.stop - 1}/{size}"
