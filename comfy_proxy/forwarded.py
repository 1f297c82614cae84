"""What a server in front of us says of its client (``X-Forwarded-*``), and whom we believe.

Only peers in ``TRUSTED_PROXIES`` are believed: anybody else could invent these headers. Such a
server may show us under a path of its own, which it takes off before it forwards.
:func:`root_path` is that path, with the one that we have in another application (``our_routes.py``)
behind it, and every URL that a client gets from us begins with it.
"""

from __future__ import annotations

import re

from aiohttp import hdrs, web
from multidict import MultiMapping, MutableMultiMapping

from comfy_proxy.addresses import MAX_ROOT_PATH, comma_list, is_in, parse_root_path
from comfy_proxy.request_path import mount_of
from comfy_proxy.settings import Settings

PREFIX = "X-Forwarded-Prefix"

_LOOPBACK = "127.0.0.1"
_COOKIE_PATH = re.compile(r"(;\s*path\s*=\s*\"?)/([^;\"]*)", re.IGNORECASE)


def is_believed(request: web.Request, settings: Settings) -> bool:
    """True if ``request`` comes directly from one of ``TRUSTED_PROXIES``.

    The connection's other end counts, not what a host application made of ``request.remote``. The
    peer of a Unix socket counts as 127.0.0.1.
    """
    peer = request.get_extra_info("peername")
    if isinstance(peer, str | bytes):
        return is_in(_LOOPBACK, settings.trusted_proxies)
    return isinstance(peer, tuple) and is_in(str(peer[0]), settings.trusted_proxies)


def root_path(request: web.Request, settings: Settings) -> str:
    """The path under which the client sees us: ``/a/b`` without a slash at its end, or ``""``.

    Of a server in front it is ``ROOT_PATH`` if that is set: a client cannot forge it. Else
    ``X-Forwarded-Prefix`` of a server that is believed; several are joined in their order, as
    servers in a row add theirs. If one of them is no plain path (:func:`parse_root_path`), or all
    are too long, none counts. The path of ``add_subapp`` comes behind it.
    """
    return _in_front(request, settings) + mount_of(request)


def _in_front(request: web.Request, settings: Settings) -> str:
    if settings.root_path is not None:
        return settings.root_path
    if PREFIX not in request.headers or not is_believed(request, settings):
        return ""
    return _joined(request.headers)


def is_https(request: web.Request, settings: Settings) -> bool:
    """True if the client speaks TLS with us, or with a server in front of us that is believed."""
    if request.secure:
        return True
    told = request.headers.get("X-Forwarded-Proto", "").partition(",")[0].strip().lower()
    return told == "https" and is_believed(request, settings)


def place_under(headers: MutableMultiMapping[str], root: str) -> None:
    """Put ``root`` (of :func:`root_path`) before the paths in the headers of an answer.

    These are ``Location``, unless it names another host, and the ``Path`` of each ``Set-Cookie``.
    """
    location = headers.get(hdrs.LOCATION, "")
    if location.startswith("/") and not location.startswith(("//", "/\\")):
        headers[hdrs.LOCATION] = root + location
    for cookie in headers.popall(hdrs.SET_COOKIE, []):
        headers.add(hdrs.SET_COOKIE, _COOKIE_PATH.sub(lambda path: _moved(path, root), cookie))


def _moved(path: re.Match[str], root: str) -> str:
    """``Path=/`` becomes ``Path=/r``: ``/r/`` would keep the cookie from the page ``/r`` itself."""
    return f"{path[1]}{root}/{path[2]}" if path[2] else f"{path[1]}{root}"


def _joined(headers: MultiMapping[str]) -> str:
    parts = [part for value in headers.getall(PREFIX) for part in comma_list(value)]
    try:
        root = "".join(parse_root_path(part) or "" for part in parts)
    except ValueError:
        return ""
    return root if len(root) <= MAX_ROOT_PATH else ""
