"""How a version of a file is named: by the instance, by us, and in what clients ask. Pure.

The instance's ``"x"`` becomes ``W/"x-gzip"``: another body, the same file. Without an ETag the
date of the last change names the version, without that (of what is made anew each time) a digest.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

from aiohttp import hdrs, web

_TAG = re.compile(r'(?:W/)?"([\x21\x23-\x7e]*)"')
_ENDS = ("-br", "-gzip")
"""Of all codings there are, also one that this process lacks: another one may have told it."""
_MAX_TAGS = 8
"""Of one request. A browser sends one; of hundreds the header to the instance would be too long."""


def version_of(headers: Mapping[str, str]) -> str | None:
    """The version that an instance's answer is of; None if it does not say."""
    if hdrs.ETAG in headers:
        found = _TAG.fullmatch(headers[hdrs.ETAG].strip())
        return found[1] if found else None
    if hdrs.LAST_MODIFIED in headers:
        return digest(headers[hdrs.LAST_MODIFIED].encode("utf-8", "surrogateescape"))
    return None


def digest(body: bytes) -> str:
    """A version for a body that has none."""
    return hashlib.blake2b(body, digest_size=16).hexdigest()


def tag_of(version: str, coding: str) -> str:
    """The ``ETag`` of that version in that coding. Weak: packed again by another library it has
    other bytes."""
    return f'W/"{version}-{coding}"'


def tags_asked(request: web.Request) -> dict[str, str] | None:
    """What the client has: version → its tag as the client named it, from ``If-None-Match``.

    None if that header is ``*``, cannot be read or has more than _MAX_TAGS: its answer is the
    instance's matter. A tag may be ours or, from before, the instance's own: it counts under both
    versions.
    """
    text = ",".join(request.headers.getall(hdrs.IF_NONE_MATCH, []))
    tags = list(_TAG.finditer(text))
    if _TAG.sub("", text).strip(" \t,") or len(tags) > _MAX_TAGS:
        return None
    asked: dict[str, str] = {}
    for found in tags:
        asked[found[1]] = found[0]
        for end in _ENDS:
            if found[1].endswith(end):
                asked.setdefault(found[1].removesuffix(end), found[0])
    return asked


def condition(versions: Iterable[str]) -> str:
    """``If-None-Match`` for an instance that is to answer 304 if it has one of these."""
    return ", ".join(f'"{version}"' for version in dict.fromkeys(versions))
