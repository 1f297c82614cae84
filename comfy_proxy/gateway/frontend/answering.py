"""What an instance said of a file, and what its client is told instead. Pure.

RFC 9111 is what caches go by: whoever stores our answer asks us again each time (``no-cache`` for
ComfyUI's ``no-store``), and we ask the instance each time, so that no copy is ever out of date.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict

from comfy_proxy.gateway.exchange.answers import WholeAnswer
from comfy_proxy.gateway.exchange.headers import tokens
from comfy_proxy.gateway.frontend.kept import Entry, Key
from comfy_proxy.gateway.frontend.static_text import is_text
from comfy_proxy.gateway.frontend.versions import tag_of
from comfy_proxy.http_date import read_http_date

MIN_BYTES = 1024
"""Of a body that is packed; a smaller one fits into one packet as it is."""
MAX_BYTES = 16 * 2**20
"""Of a body that is packed. The largest of the frontend of 2026 has 5.8 MB; one of more is no text
of it, and goes through as it comes."""

_OF_ONE_BODY = (
    hdrs.ACCEPT_RANGES,
    hdrs.AGE,
    hdrs.CONTENT_LENGTH,
    hdrs.CONTENT_MD5,
    hdrs.DATE,
    hdrs.ETAG,
    "Content-Digest",
    "Digest",
    "Repr-Digest",
)
_OF_BODIES = frozenset(
    {
        "content-encoding",
        "content-language",
        "content-length",
        "content-location",
        "content-range",
        "content-type",
    }
)
"""What a 304 does not tell, and what stays as it was told with the body (RFC 9110 15.4.5)."""
_MAY_VARY = {"accept-encoding", "origin"}
_KEEPS_OUT = {"private", "no-transform"}
_DIRECTIVE = re.compile(r"\s*,\s*")


def is_packable(upstream: aiohttp.ClientResponse) -> bool:
    """Whether it is a whole text of a known length in its own bytes, the same for everybody."""
    headers = upstream.headers
    size = upstream.content_length
    return (
        upstream.status == 200
        and size is not None
        and MIN_BYTES <= size <= MAX_BYTES
        and is_text(headers.get(hdrs.CONTENT_TYPE, ""))
        and not any(name in headers for name in (hdrs.CONTENT_ENCODING, hdrs.SET_COOKIE))
        and tokens(headers, hdrs.VARY) <= _MAY_VARY
        and not tokens(headers, hdrs.CACHE_CONTROL) & _KEEPS_OUT
    )


def packed_headers(headers: CIMultiDict[str], key: Key, size: int) -> CIMultiDict[str]:
    """Those of the packed body of ``size`` bytes; ``headers`` are what the instance told of its
    own, in the form that crosses the proxy."""
    result = _shared(headers)
    result[hdrs.CONTENT_ENCODING] = key.coding
    result[hdrs.CONTENT_LENGTH] = str(size)
    result[hdrs.ETAG] = tag_of(key.version, key.coding)
    return result


def whole(entry: Entry, newer: CIMultiDict[str] | None = None) -> web.StreamResponse:
    """200 with the packed body; ``newer`` are the headers by which the instance has just said that
    it is of today (RFC 9111 4.3.4)."""
    headers = CIMultiDict(entry.headers)
    for name, values in _by_name(_shared(newer or CIMultiDict())):
        if name.lower() not in _OF_BODIES:
            headers.popall(name, None)
            headers.extend((name, value) for value in values)
    return WholeAnswer(entry.body, status=200, reason="OK", headers=headers)


def unchanged(headers: CIMultiDict[str], tag: str | None) -> web.StreamResponse:
    """304 with the tag of what the client has; None if it asked by a date."""
    result = _shared(headers)
    for name in [name for name in result if name.lower() in _OF_BODIES]:
        result.popall(name, None)
    if tag is not None:
        result[hdrs.ETAG] = tag
    return WholeAnswer(b"", status=304, reason="Not Modified", headers=result)


def is_as_old(entry: Entry, since: str | None) -> bool:
    """Whether the file has not changed after ``since``, the client's ``If-Modified-Since``."""
    asked, changed = _date(since), _date(entry.last_modified)
    return asked is not None and changed is not None and changed <= asked


def _shared(headers: CIMultiDict[str]) -> CIMultiDict[str]:
    """What 200 and 304 have in common: the instance's headers, fit to be stored by a client."""
    result = headers.copy()
    for name in _OF_ONE_BODY:
        result.popall(name, None)
    if "no-store" in _directives(result.getall(hdrs.CACHE_CONTROL, [])):
        result.popall(hdrs.CACHE_CONTROL)
        result[hdrs.CACHE_CONTROL] = "no-cache"
    varies = ",".join(result.getall(hdrs.VARY, [])).lower()
    if headers and hdrs.ACCEPT_ENCODING.lower() not in varies:
        result.add(hdrs.VARY, hdrs.ACCEPT_ENCODING)
    return result


def _by_name(headers: CIMultiDict[str]) -> Iterable[tuple[str, list[str]]]:
    return [(name, headers.getall(name)) for name in dict.fromkeys(headers)]


def _directives(values: Iterable[str]) -> set[str]:
    return {word.lower() for value in values for word in _DIRECTIVE.split(value.strip())}


def _date(text: str | None) -> datetime | None:
    return read_http_date(text or "")
