"""Which web pages may use the proxy: ``Host`` and ``Origin`` of a request, and Fetch Metadata.

The browser is the enemy here: any page that is open in it can send requests to a loopback address.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache

from aiohttp import hdrs, web
from yarl import URL

from comfy_proxy.addresses import are_loopback, is_loopback, web_authorities
from comfy_proxy.errors import ForbiddenError
from comfy_proxy.navigation import is_allowed_link, is_cross_site
from comfy_proxy.settings import Settings

_HOST_AND_PORT = re.compile(r"(\[[^\]]*\]|[^:]*)(?::([0-9]*))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_SHOWN_CHARACTERS = 100
"""Characters of a client's text that an answer repeats; the rest becomes ``...``."""


# --- Host ---------------------------------------------------------------------------------


def check_host(request: web.Request, settings: Settings) -> None:
    """On loopback only loopback names and configured ones are served (against DNS rebinding).

    A page of evil.example that makes its own name resolve to 127.0.0.1 has our origin for the
    browser; only ``Host`` shows it (PROTOCOL.md trap 7). Checked if both the configuration and the
    connection say loopback: an application that listens elsewhere is reached by names that we
    cannot know. Raises ForbiddenError ``foreign_host``.
    """
    host = request.headers.get(hdrs.HOST)
    if host is None or "*" in settings.cors_origins:  # no browser; or every page is trusted
        return
    if not are_loopback(settings.host) or not _arrived_on_loopback(request):
        return
    name = split_host(host)[0]
    if not is_loopback(name) and name not in _configured_names(settings):
        shown = _shown(host)
        raise ForbiddenError(
            f"The host name '{shown}' is not served here; an origin of that host in CORS_ORIGINS"
            " (like https://app.example) allows it.",
            code="foreign_host",
            details={"host": shown, "setting": "CORS_ORIGINS"},
        )


@lru_cache(maxsize=256)
def split_host(host: str) -> tuple[str, str]:
    """``Host`` → (name in lower case, port or ""); ("?", "") for a text that is no host.

    No name equals ``?``, so such a host is foreign.
    """
    match = _HOST_AND_PORT.fullmatch(host.strip())
    return (match[1].rstrip(".").lower(), match[2] or "") if match else ("?", "")


def _arrived_on_loopback(request: web.Request) -> bool:
    address = request.get_extra_info("sockname")
    return isinstance(address, tuple) and is_loopback(str(address[0]))


def _configured_names(settings: Settings) -> set[str]:
    """The hosts of trusted origins: whoever owns such a name may use the proxy anyway."""
    return {split_host(authority)[0] for authority in web_authorities(settings.cors_origins)}


# --- Origin -------------------------------------------------------------------------------


def check_origin(request: web.Request, settings: Settings) -> None:
    """Refuse what a foreign page sends, WebSockets too. Raises ForbiddenError ``foreign_origin``.

    ``Origin`` decides if the request has one. Else ``Sec-Fetch-Site: cross-site`` does (an image or
    script in a foreign page), unless the browser follows a link to one of our pages. Programs send
    neither and pass.
    """
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is not None:
        foreign = not is_own_origin(origin, request.headers.get(hdrs.HOST, ""))
    else:
        origin = _referring_origin(request)
        foreign = is_cross_site(request.headers) and not is_allowed_link(request)
    if foreign and not _is_allowed(origin, settings.cors_origins):
        raise _foreign_origin(origin)


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
    """The origin of the page in Referer, None without one: an ``<img>`` sends no ``Origin``."""
    referer = request.headers.get(hdrs.REFERER)
    if referer is None:
        return None
    try:
        return str(URL(referer).origin())
    except ValueError:
        return None


def _foreign_origin(origin: str | None) -> ForbiddenError:
    details = {"setting": "CORS_ORIGINS"}
    if origin is None:
        message = (
            "Pages of other sites are refused; their links may open the start page, /dashboard and"
            " the frontend's static files. CORS_ORIGINS allows an origin more."
        )
    else:
        details["origin"] = _shown(origin)
        message = (
            f"Pages of the origin '{details['origin']}' are refused; CORS_ORIGINS allows an origin."
        )
    return ForbiddenError(message, code="foreign_origin", details=details)


def _shown(text: str) -> str:
    """A client's text in an answer: one line, printable ASCII, 100 characters and a mark at most.

    Others come out as Python writes them (``\\x1b``).
    """
    return ascii(text[:_SHOWN_CHARACTERS])[1:-1][:_SHOWN_CHARACTERS] + (
        "..." if len(text) > _SHOWN_CHARACTERS else ""
    )
