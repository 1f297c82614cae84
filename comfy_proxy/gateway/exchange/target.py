"""The address at the instance, byte for byte what the client asked for."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote_plus

from aiohttp import web
from yarl import URL

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.errors import RequestError
from comfy_proxy.request_path import our_target
from comfy_proxy.security import without_key
from comfy_proxy.settings import Settings

KNOWN: Final = 1024
"""Addresses that are remembered, those that were used last: `/queue` of each of 300 instances is
asked for again and again, and yarl keeps what it has worked out in the URL itself."""
SHORT: Final = 128
"""Characters of a target. The address of a longer one is not remembered, but made at each use: it
is hardly asked for twice, and KNOWN of them would take megabytes."""
_ASCII = "".join(map(chr, range(128)))
_ABSOLUTE_FORM = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")


def instance_url(
    request: web.Request, instance: Instance, settings: Settings, target: str | None = None
) -> URL:
    """Where ``request`` goes at ``instance``; path prefix included, nothing normalised.

    ``target`` replaces path and query that the client named.
    Raises RequestError for a target without a path.
    """
    if target is None:
        return address(instance, client_target(request, settings))
    return address(instance, without_key(target, settings.api_keys))


def address(instance: Instance, target: str) -> URL:
    """``target``, an encoded path with or without a query, at ``instance``.

    It travels as the path of an already encoded URL: yarl then keeps ``%2F``, ``..``, ``//`` and a
    bare ``?`` as they are.
    """
    if len(target) > SHORT:
        return _address(instance.url, target)
    return _known_address(instance.url, target)


def _address(base: URL, target: str) -> URL:
    return URL.build(
        scheme=base.scheme,
        authority=base.raw_authority,
        path=base.raw_path.rstrip("/") + target,
        encoded=True,
    )


_known_address = lru_cache(maxsize=KNOWN)(_address)


def client_target(request: web.Request, settings: Settings) -> str:
    """Path and query that the client named, less our own key. Raises RequestError."""
    return without_key(request_target(our_target(request)), settings.api_keys)


def request_target(raw_path: str) -> str:
    """Path and query of a request target (RFC 9112 3.2), from origin or absolute form.

    Raises RequestError for ``*`` and the authority form: they name no resource of an instance.
    """
    if raw_path.startswith("/") and raw_path.isascii():
        return raw_path  # most are of this kind, and need no more looking into
    target = raw_path
    if match := _ABSOLUTE_FORM.match(raw_path):
        target = raw_path[match.end() :]
        if not target.startswith("/"):
            target = f"/{target}"
    if not target.startswith("/"):
        raise RequestError("The request target must be a path.")
    if not target.isascii():  # bytes that are no UTF-8 are surrogates here: %xx means the same
        target = quote(target.encode("utf-8", "surrogateescape"), safe=_ASCII)
    return target


def target_path(raw_path: str) -> str:
    """The path of a request target, without query and fragment: what a server routes by.

    Raises RequestError as :func:`request_target` does.
    """
    return request_target(raw_path).partition("#")[0].partition("?")[0]


def quoted(text: str, safe: str = "") -> str:
    """``text`` percent-encoded, whatever is in it.

    JSON may hold lone surrogates, which ``quote`` refuses: one that stands for a byte that is no
    UTF-8 (as in Python's file names) becomes that byte.
    """
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raw = text.encode("utf-8", "surrogatepass")
    return quote(raw, safe=safe)


def with_parameter(target: str, name: str, value: str) -> str:
    """``target`` with the first ``name=…`` of its query changed; all else byte for byte."""
    path, mark, query = target.partition("?")
    parts = query.split("&")
    for index, part in enumerate(parts):
        key = part.partition("=")[0]
        if unquote_plus(key) == name:
            parts[index] = f"{key}={quoted(value, '/')}"
            break
    return f"{path}{mark}{'&'.join(parts)}"
