"""What browsers tell of a request by themselves (Fetch Metadata), and where foreign links may lead.

A link on any web page makes a browser ask us with a GET, and routes of custom nodes may do
something on a GET. So a link of another site may open the few pages listed here and nothing else.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from aiohttp import hdrs, web
from multidict import MultiMapping

from comfy_proxy.request_path import our_path

_PAGES = frozenset({"/", "/index.html", "/dashboard"})
# The folders and files of the frontend's package (1.32) and of ComfyUI's older one (lib). Folders
# of custom nodes' scripts (/extensions/NAME) are not among them: a custom node may serve anything.
_STATIC = re.compile(
    r"/(?:(?:assets|cursor|fonts|lib|scripts|extensions/core)/(?:[\w@+-][\w@+.-]*/)*[\w@+-][\w@+.-]*"
    r"\.(?:css|eot|gif|html|ico|jpe?g|js|json|map|mjs|mp4|png|svg|ttf|txt|webm|webp|woff2?)"
    r"|user\.css|materialdesignicons\.min\.css|favicon\.ico)",
    re.ASCII,
)
_SOCKETS = ("/ws", "/api/ws")
_READING = (hdrs.METH_GET, hdrs.METH_HEAD)


def is_cross_site(headers: MultiMapping[str]) -> bool:
    """True if a browser says that a page of another site has caused the request."""
    return _fetch(headers, "Site") == "cross-site"


def is_allowed_link(request: web.Request) -> bool:
    """True if ``request`` opens one of our pages in a tab of its own, as a link or bookmark does.

    Frames, forms, and paths that are neither a page nor a static file of the frontend give False.
    """
    return (
        request.method in _READING
        and _fetch(request.headers, "Mode") == "navigate"
        and _fetch(request.headers, "Dest") == "document"
        and is_page(our_path(request))
    )


def is_page(raw_path: str) -> bool:
    """True for the frontend's page, ours, and the frontend's static files.

    ``raw_path`` is compared as the servers behind us read it: decoded once. False for a path that
    they could read differently (``..``, ``//``, an encoded slash or per cent sign).
    """
    path = unquote(raw_path)
    return path in _PAGES or _STATIC.fullmatch(path) is not None


def is_navigation(request: web.Request) -> bool:
    """True for a GET or HEAD that opens a page, by its Fetch Metadata or for want of any.

    Programs and browsers of before 2023 send no Fetch Metadata at all.
    """
    if request.method not in _READING:
        return False
    told = [_fetch(request.headers, name) for name in ("Mode", "Site", "Dest")]
    return told[0] == "navigate" or not any(told)


def is_event_socket(request: web.Request) -> bool:
    """True for a handshake of ComfyUI's own WebSocket; custom nodes' sockets give False.

    Unlike ``gateway/exchange/headers.is_websocket_upgrade`` it asks for no ``Connection: Upgrade``:
    it decides whether a key in the query counts, and a handshake that lacks that header is still to
    be answered by the instance, which says what is wrong with it.
    """
    return (
        request.method == hdrs.METH_GET
        and request.headers.get(hdrs.UPGRADE, "").lower() == "websocket"
        and unquote(our_path(request)) in _SOCKETS
    )


def _fetch(headers: MultiMapping[str], name: str) -> str:
    return headers.get(f"Sec-Fetch-{name}", "").lower()
