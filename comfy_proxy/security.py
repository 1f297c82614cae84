"""Who may talk to the proxy (the contract's Security section): Host, Origin and keys.

Pure questions about one request and the settings, and :func:`check`, which asks them all. The
browser is the enemy here: any page that is open in it can send requests to a loopback address.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Collection
from functools import lru_cache
from urllib.parse import quote, quote_plus, unquote_plus

from aiohttp import hdrs, web
from yarl import URL

from comfy_proxy.errors import ForbiddenError, UnauthorizedError
from comfy_proxy.request_path import normal_path
from comfy_proxy.settings import Settings

COOKIE_NAME = "comfy_proxy_key"
COOKIE_MAX_AGE_S = 30 * 24 * 3600
OPEN_PATHS = frozenset({"/health/live", "/health/ready"})
"""Compared with the normal path: ``/health%2Flive`` is another one, and goes to ComfyUI."""

_HOST_AND_PORT = re.compile(r"(\[[^\]]*\]|[^:]*)(?::([0-9]*))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_LEADING_SLASHES = re.compile(r"^[/\\]+")


def check(request: web.Request, settings: Settings) -> web.Response | None:
    """Let the request pass (None), or answer it: the redirect that takes a token out of the URL.

    Raises ForbiddenError (403) for a foreign host or origin, UnauthorizedError (401) without key.
    """
    check_host(request, settings)
    check_origin(request, settings)
    if not settings.api_keys or normal_path(request.rel_url.raw_path) in OPEN_PATHS:
        return None
    if is_preflight(request):
        if not settings.cors_origins:  # nobody here answers it, and it must not pass without a key
            raise ForbiddenError("Preflights are answered for CORS_ORIGINS only.")
        return None
    return _check_key(request, settings.api_keys)


def listening_warning(settings: Settings) -> str | None:
    """What to say loudly at the start, if anybody in the network could use the proxy."""
    if settings.api_keys or is_loopback(settings.host):
        return None
    return (
        f"Listening on {settings.host or 'all addresses'} without API_KEYS: everybody who can "
        "reach this machine can run workflows and read all pictures. Set API_KEYS, or HOST to "
        "127.0.0.1."
    )


# --- Host ---------------------------------------------------------------------------------


def check_host(request: web.Request, settings: Settings) -> None:
    """On loopback only loopback names and configured ones are served (DNS rebinding, trap 7).

    A page of evil.example that makes its own name resolve to 127.0.0.1 is of one origin with us;
    only ``Host`` tells. Asked when both the configuration and the connection say loopback: a host
    application that listens elsewhere is reached by names that we cannot know.
    """
    host = request.headers.get(hdrs.HOST)
    if host is None or "*" in settings.cors_origins:  # no browser; or every page is trusted
        return
    if not is_loopback(settings.host) or not _arrived_on_loopback(request):
        return
    name = split_host(host)[0]
    if not is_loopback(name) and name not in _configured_names(settings):
        raise ForbiddenError(
            "This host name is not served here; CORS_ORIGINS can name it.",
            code="foreign_host",
        )


@lru_cache(maxsize=64)  # asked thrice a request, of the same few names
def is_loopback(host: str) -> bool:
    """True for localhost, ``*.localhost`` (RFC 6761 6.3), 127.0.0.0/8 and ::1."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def split_host(host: str) -> tuple[str, str]:
    """``Host`` → (name in lower case, port or ""); what is no host gives an impossible name."""
    match = _HOST_AND_PORT.fullmatch(host.strip())
    return (match[1].rstrip(".").lower(), match[2] or "") if match else ("?", "")


def _arrived_on_loopback(request: web.Request) -> bool:
    address = request.get_extra_info("sockname")
    return isinstance(address, tuple) and is_loopback(str(address[0]))


def _configured_names(settings: Settings) -> set[str]:
    """The hosts of trusted origins: whoever owns such a name may use the proxy anyway."""
    return {split_host(origin.partition("://")[2])[0] for origin in settings.cors_origins}


# --- Origin -------------------------------------------------------------------------------


def check_origin(request: web.Request, settings: Settings) -> None:
    """Refuse what a foreign page sends, WebSockets too; no browser, no such headers, no refusal.

    ``Origin`` decides where it is sent. Without it ``Sec-Fetch-Site: cross-site`` does (an image
    or script of a foreign page), except for following a link to us.
    """
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is not None:
        foreign = not is_own_origin(origin, request.headers.get(hdrs.HOST, ""))
    else:
        origin = _referring_origin(request)
        foreign = _fetch(request, "Site") == "cross-site" and not _is_navigation(request)
    if foreign and not _is_allowed(origin, settings.cors_origins):
        raise ForbiddenError(
            "Pages of another origin are refused; CORS_ORIGINS can allow one.",
            code="foreign_origin",
        )


def is_own_origin(origin: str, host: str) -> bool:
    """True if ``origin`` is a page of ``host``; the scheme may differ (TLS may end before us)."""
    scheme, mark, authority = origin.strip().lower().partition("://")
    if not mark or scheme not in _DEFAULT_PORTS or not host:
        return False
    default = _DEFAULT_PORTS[scheme]
    own_name, own_port = split_host(host)
    name, port = split_host(authority)
    return name == own_name and (port or default) == (own_port or default)


def is_preflight(request: web.Request) -> bool:
    """True for the question a browser asks before a cross-origin request (Fetch 4.8)."""
    return (
        request.method == hdrs.METH_OPTIONS
        and hdrs.ORIGIN in request.headers
        and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
    )


def _is_allowed(origin: str | None, allowed: Collection[str]) -> bool:
    return "*" in allowed or (origin is not None and origin in allowed)


def _referring_origin(request: web.Request) -> str | None:
    """An ``<img>`` sends no Origin; its Referer names the page's at least."""
    referer = request.headers.get(hdrs.REFERER)
    if referer is None:
        return None
    try:
        return str(URL(referer).origin())
    except ValueError:
        return None


def _fetch(request: web.Request, name: str) -> str:
    return request.headers.get(f"Sec-Fetch-{name}", "").lower()


def _is_navigation(request: web.Request) -> bool:
    """A top-level GET: a link, a bookmark, the address bar; not a frame, not a form."""
    return (
        request.method in (hdrs.METH_GET, hdrs.METH_HEAD)
        and _fetch(request, "Mode") == "navigate"
        and _fetch(request, "Dest") == "document"
    )


# --- keys ---------------------------------------------------------------------------------


def is_key(text: str, keys: Collection[str]) -> bool:
    """True if ``text`` is one of ``keys``; the time tells neither which nor how nearly."""
    given = cookie_value(text).encode()
    return any([hmac.compare_digest(given, cookie_value(key).encode()) for key in keys])


def cookie_value(key: str) -> str:
    """What the cookie holds: proves the key, but is not the key, and works nowhere else."""
    secret = key.encode("utf-8", "surrogateescape")
    return hmac.new(secret, b"comfy-proxy cookie 1", hashlib.sha256).hexdigest()


def forms_of(keys: Collection[str]) -> set[str]:
    """All texts that stand for one of ``keys``: as they are, in a URL, in our cookie."""
    return {
        form
        for key in keys
        for form in (key, quote(key), quote(key, safe=""), quote_plus(key), cookie_value(key))
    }


def bearer_token(authorization: str) -> str | None:
    """The token of ``Authorization: Bearer …`` (RFC 6750 2.1), None for another scheme."""
    scheme, _, token = authorization.strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _check_key(request: web.Request, keys: Collection[str]) -> web.Response | None:
    """A key in the query is for browsers, once: it opens the page and leaves the address bar.

    A WebSocket handshake cannot follow a redirect, so there the key counts as it stands.
    """
    if any([is_key(token, keys) for token in request.query.getall("token", [])]):
        if hdrs.UPGRADE in request.headers:
            return None
        if request.method == hdrs.METH_GET:
            return _redirect_without_token(request, keys)
    if not _has_key_header(request, keys) and not _has_key_cookie(request, keys):
        raise UnauthorizedError(
            "A key is required: Authorization: Bearer KEY, or X-API-Key;"
            " a browser opens the address with ?token=KEY once."
        )
    return None


def _redirect_without_token(request: web.Request, keys: Collection[str]) -> web.Response:
    key = next(key for key in request.query.getall("token") if is_key(key, keys))
    # "//evil.example/?token=…" must not become a redirect to another host.
    url = request.rel_url
    target = without_key(f"{url.raw_path}?{url.raw_query_string}", keys)
    target = "/" + _LEADING_SLASHES.sub("", target)
    response = web.Response(
        status=303, headers={hdrs.LOCATION: target, hdrs.CACHE_CONTROL: "no-store"}
    )
    forwarded = request.headers.get("X-Forwarded-Proto", "").partition(",")[0].strip().lower()
    response.set_cookie(
        COOKIE_NAME,
        cookie_value(key),
        max_age=COOKIE_MAX_AGE_S,
        httponly=True,
        samesite="Strict",
        secure=request.secure or forwarded == "https",
    )
    return response


def without_key(target: str, keys: Collection[str]) -> str:
    """``target`` less every ``token=KEY`` of its query; everything else stays byte for byte."""
    path, mark, query = target.partition("?")
    if not keys or not mark:
        return target
    parts = query.split("&")
    kept = [part for part in parts if not _is_key_parameter(part, keys)]
    if len(kept) == len(parts):
        return target
    return f"{path}?{'&'.join(kept)}" if kept else path


def _is_key_parameter(part: str, keys: Collection[str]) -> bool:
    name, _, value = part.partition("=")
    return unquote_plus(name) == "token" and is_key(unquote_plus(value), keys)


def _has_key_header(request: web.Request, keys: Collection[str]) -> bool:
    given = request.headers.getall("X-API-Key", [])
    bearers = map(bearer_token, request.headers.getall(hdrs.AUTHORIZATION, []))
    return any([is_key(key, keys) for key in (*given, *bearers) if key])


def _has_key_cookie(request: web.Request, keys: Collection[str]) -> bool:
    given = request.cookies.get(COOKIE_NAME, "").encode("utf-8", "surrogateescape")
    return any([hmac.compare_digest(given, cookie_value(key).encode()) for key in keys])
