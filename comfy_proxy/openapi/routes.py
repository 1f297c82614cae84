"""``/api/openapi.json``, and ``/api/docs`` for people: Swagger UI, with the extra ``docs``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from importlib import resources
from importlib.util import find_spec
from typing import Final

from aiohttp import web

from comfy_proxy.errors import NotFoundError
from comfy_proxy.forwarded import root_path
from comfy_proxy.keys import SETTINGS
from comfy_proxy.lenient_json import dumps
from comfy_proxy.openapi.document import openapi_document
from comfy_proxy.openapi.operation import Operation

_FILES: Final = {
    "swagger-ui.js": ("swagger_bundle.js", "text/javascript"),
    "swagger-ui.css": ("swagger_style.css", "text/css"),
}
"""Our name of a file → its name in the package ``offapi``, and its media type."""
_START: Final = """\
const page = location.pathname.replace(/\\/+$/, "");
window.ui = SwaggerUIBundle({
  url: page.replace(/\\/docs$/, "/openapi.json"),
  dom_id: "#docs",
  deepLinking: true,
  displayRequestDuration: true,
});
"""
_PAGE: Final = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>comfy_proxy: API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{base}/swagger-ui.css">
<main id="docs">{text}</main>
{scripts}
</html>
"""
_SCRIPTS: Final = """\
<script src="{base}/swagger-ui.js"></script>
<script src="{base}/start.js"></script>
"""
_WITHOUT: Final = """\
<p>The API is described by <a href="{api}/openapi.json">openapi.json</a>.</p>
<p>This page shows it when the server has the extra "docs": pip install 'comfyui-proxy[docs]'.</p>
"""
_HEADERS: Final = {
    # Swagger UI sets styles on elements, and has its icons in data URLs.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; font-src data:; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
}


def routes(operations: Callable[[], Iterable[Operation]]) -> list[web.RouteDef]:
    """``operations`` gives those of now: workflows come and go with their files."""

    async def document(request: web.Request) -> web.Response:
        server = root_path(request, request.app[SETTINGS])
        body = dumps(openapi_document(operations(), server=server))
        return web.Response(body=body, content_type="application/json")

    return [
        web.get("/api/openapi.json", document),
        web.get("/api/docs", _page),
        web.get("/api/docs/{file}", _file),
    ]


async def _page(request: web.Request) -> web.Response:
    api = f"{root_path(request, request.app[SETTINGS])}/api"
    base = f"{api}/docs"
    there = find_spec("offapi") is not None
    text = "" if there else _WITHOUT.format(api=api)
    scripts = _SCRIPTS.format(base=base) if there else ""
    page = _PAGE.format(base=base, text=text, scripts=scripts)
    return web.Response(text=page, content_type="text/html", headers=_HEADERS)


async def _file(request: web.Request) -> web.Response:
    """Scripts and styles of the page: from the package, nothing from elsewhere."""
    name = request.match_info["file"]
    if name == "start.js":
        return web.Response(text=_START, content_type="text/javascript", headers=_HEADERS)
    known = _FILES.get(name)
    data = None if known is None else await asyncio.to_thread(_package_file, known[0])
    if known is None or data is None:
        raise NotFoundError(f"There is no {name[:80]!r} here.")
    return web.Response(body=data, content_type=known[1], charset="utf-8", headers=_HEADERS)


def _package_file(name: str) -> bytes | None:
    """A file of ``offapi``; None without that package."""
    try:
        file = resources.files("offapi") / name
        return file.read_bytes()
    except (ModuleNotFoundError, FileNotFoundError):
        return None
