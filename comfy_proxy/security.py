"""Who may talk to the proxy: Host, Origin and keys.

Pure questions about one request and the settings, and :func:`check`, which asks them all.
``origin_check.py`` has those about web pages, here are those about keys.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Collection, Mapping
from urllib.parse import quote, quote_plus, unquote_plus

from aiohttp import hdrs, web
from multidict import MultiDict, MultiMapping, MutableMultiMapping

from comfy_proxy.addresses import SHARED_ORIGINS, are_loopback
from comfy_proxy.errors import ForbiddenError, UnauthorizedError
from comfy_proxy.forwarded import is_https
from comfy_proxy.key_settings import misspelt, short_keys
from comfy_proxy.navigation import is_event_socket, is_navigation
from comfy_proxy.origin_check import check_host, check_origin, is_preflight
from comfy_proxy.request_path import normal_path, our_path
from comfy_proxy.settings import VARIABLES, Settings

COOKIE_NAME = "comfy_proxy_key"
COOKIE_MAX_AGE_S = 30 * 24 * 3600
"""Seconds (30 days) for which a browser keeps the cookie; then it needs ``?token=KEY`` again."""
OPEN_PATHS = frozenset({"/health/live", "/health/ready", "/api/v2/health"})
"""Paths that need no key: probes of Kubernetes and load balancers have none. Compared in their
normal form: ``/health%2Flive`` is another path, needs a key and goes to ComfyUI."""

_LEADING_SLASHES = re.compile(r"^[/\\]+")


def check(request: web.Request, settings: Settings) -> web.Response | None:
    """Let the request pass (None), or answer it: the redirect that takes a token out of the URL.

    Raises ForbiddenError (403) for a foreign host or origin, UnauthorizedError (401) without key.
    """
    check_host(request, settings)
    check_origin(request, settings)
    if not settings.api_keys or normal_path(our_path(request)) in OPEN_PATHS:
        return None
    if is_preflight(request):
        # It carries no key. Without CORS_ORIGINS aiohttp-cors does not answer it, and it must not
        # go on to ComfyUI.
        if not settings.cors_origins:
            raise ForbiddenError("Preflights are answered for CORS_ORIGINS only.")
        return None
    return _check_key(request, settings)


def start_warnings(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """What is dubious about the configuration, and stops nothing: a line each, to be told at the
    start and whenever the keys have changed. ``environ`` is where settings may be misspelt."""
    known = {row.name for row in VARIABLES}
    warnings = [
        f"The environment has {name}, which is no setting: do you mean {right}?"
        for name, right in misspelt(environ, known).items()
    ]
    warnings += short_keys(settings.api_keys)
    if listening := listening_warning(settings):
        warnings.append(listening)
    return warnings


def listening_warning(settings: Settings) -> str | None:
    """The warning if anybody in the network could use the proxy, else None."""
    if settings.api_keys or are_loopback(settings.host):
        return None
    return (
        f"Listening on {settings.host or 'all addresses'} without API_KEYS: everybody who can "
        "reach this machine can run workflows and read all pictures. Set API_KEYS, or HOST to "
        "127.0.0.1."
    )


# --- keys ---------------------------------------------------------------------------------


def is_key(text: str, keys: Collection[str]) -> bool:
    """True if ``text`` is one of ``keys``; the time it takes does not help to guess one."""
    # Digests have one length, so no key's length shows; a list, not a generator: all are compared.
    given = cookie_value(text).encode()
    return any([hmac.compare_digest(given, cookie_value(key).encode()) for key in keys])


def cookie_value(key: str) -> str:
    """What the cookie holds for ``key``: an HMAC that proves the key and works as a cookie only.

    Whoever reads the browser's cookies does not learn the key.
    """
    secret = key.encode("utf-8", "surrogateescape")
    return hmac.new(secret, b"comfy-proxy cookie 1", hashlib.sha256).hexdigest()


def forms_of(keys: Collection[str]) -> set[str]:
    """All texts that a log must not show: the keys as they are, as in a URL, and their cookies."""
    return {
        form
        for key in keys
        for form in (key, quote(key), quote(key, safe=""), quote_plus(key), cookie_value(key))
    }


def key_of(request: web.Request, keys: Collection[str]) -> str | None:
    """What stands for the key with which ``request`` came, the same in a header, a cookie and the
    query of a WebSocket; None if it has none of ``keys``. It opens nothing: it may be written into
    a file, where neither the key nor its cookie may be."""
    given = [*request.headers.getall("X-API-Key", [])]
    given += filter(None, map(bearer_token, request.headers.getall(hdrs.AUTHORIZATION, [])))
    values = {*map(cookie_value, given), *_cookies(request)}
    values.update(map(cookie_value, request.query.getall("token", [])))
    found = next((value for value in map(cookie_value, keys) if value in values), None)
    return None if found is None else owner_of_text(found)


def owner_of_text(credential: str) -> str:
    """What stands for ``credential`` where it may not be written down: a digest of it."""
    told = credential.encode("utf-8", "surrogateescape")
    return hmac.new(told, b"comfy-proxy owner 1", hashlib.sha256).hexdigest()


def bearer_token(authorization: str) -> str | None:
    """The token of ``Authorization: Bearer …`` (RFC 6750 2.1), None for another scheme."""
    scheme, _, token = authorization.strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _check_key(request: web.Request, settings: Settings) -> web.Response | None:
    """Pass (None), redirect a browser that brings its key in the URL, or raise UnauthorizedError.

    A key in the query is for browsers, once: it opens a page and leaves the address bar. ComfyUI's
    own WebSocket cannot follow a redirect, so there the key opens the socket. Anywhere else a key
    in the query is ignored: URLs end up in logs, bookmarks and other people's hands.
    """
    keys = settings.api_keys
    if any([is_key(token, keys) for token in request.query.getall("token", [])]):
        if is_event_socket(request):
            return None
        if is_navigation(request):
            return _redirect_without_token(request, settings)
    if not _has_key_header(request, keys) and not _has_key_cookie(request, keys):
        raise UnauthorizedError(
            "A key is required: Authorization: Bearer KEY, or X-API-Key;"
            " a browser opens the address with ?token=KEY once."
        )
    return None


def _redirect_without_token(request: web.Request, settings: Settings) -> web.Response:
    """303 to the same address without the key, with the cookie that proves it.

    ``middleware.py`` puts the root path before the Location and the cookie's Path.
    """
    keys = settings.api_keys
    key = next(key for key in request.query.getall("token") if is_key(key, keys))
    # "//evil.example/?token=…" must not become a redirect to another host.
    target = without_key(f"{our_path(request)}?{request.rel_url.raw_query_string}", keys)
    target = "/" + _LEADING_SLASHES.sub("", target)
    response = web.Response(
        status=303, headers={hdrs.LOCATION: target, hdrs.CACHE_CONTROL: "no-store"}
    )
    response.set_cookie(
        COOKIE_NAME,
        cookie_value(key),
        max_age=COOKIE_MAX_AGE_S,
        httponly=True,
        samesite="Strict",
        secure=is_https(request, settings),
    )
    return response


def without_key(target: str, keys: Collection[str]) -> str:
    """``target`` less every ``token=KEY`` of its query; everything else stays byte for byte."""
    path, mark, rest = target.partition("?")
    if not keys or not mark:
        return target
    query, hash_mark, fragment = rest.partition("#")  # browsers send none; some program may
    parts = query.split("&")
    kept = [part for part in parts if not _is_key_parameter(part, keys)]
    if len(kept) == len(parts):
        return target
    left = f"{path}?{'&'.join(kept)}" if kept else path
    return f"{left}{hash_mark}{fragment}"


def query_without_key(query: MultiMapping[str], keys: Collection[str]) -> MutableMultiMapping[str]:
    """A copy of a parsed ``query`` less every ``token`` that is one of ``keys``."""
    return MultiDict(
        (name, value) for name, value in query.items() if name != "token" or not is_key(value, keys)
    )


def _is_key_parameter(part: str, keys: Collection[str]) -> bool:
    name, _, value = part.partition("=")
    return unquote_plus(name) == "token" and is_key(unquote_plus(value), keys)


def _has_key_header(request: web.Request, keys: Collection[str]) -> bool:
    given = request.headers.getall("X-API-Key", [])
    bearers = map(bearer_token, request.headers.getall(hdrs.AUTHORIZATION, []))
    return any([is_key(key, keys) for key in (*given, *bearers) if key])


def _has_key_cookie(request: web.Request, keys: Collection[str]) -> bool:
    """True if a cookie of our name proves a key: a browser may send several, one for each path.

    From ``null`` and ``file://`` none counts: any page can be of that origin, so the page itself
    has to know a key and send it in a header.
    """
    if request.headers.get(hdrs.ORIGIN) in SHARED_ORIGINS:
        return False
    values = [cookie_value(key).encode() for key in keys]
    return any(
        [
            hmac.compare_digest(given.encode("utf-8", "surrogateescape"), value)
            for given in _cookies(request)
            for value in values
        ]
    )


def _cookies(request: web.Request) -> list[str]:
    """The values of all cookies of our name."""
    parts = ";".join(request.headers.getall(hdrs.COOKIE, [])).split(";")
    split = [part.strip().partition("=") for part in parts]
    return [value.strip('"') for name, _, value in split if name == COOKIE_NAME]
