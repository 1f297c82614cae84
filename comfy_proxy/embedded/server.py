"""The application of a worker: every route of ComfyUI that matters, with and without `/api`."""

from collections.abc import Iterable
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from comfy_proxy.embedded import (
    asset_routes,
    file_routes,
    info_routes,
    job_routes,
    prompt_routes,
    user_routes,
)
from comfy_proxy.embedded.fault_middleware import fault_middleware
from comfy_proxy.embedded.instance import INSTANCE, MAX_UPLOAD_SIZE, Instance

LOOPBACK = ("localhost", "127.0.0.1", "::1")
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
PAGE = """<!doctype html>
<meta charset="utf-8"><title>comfy_proxy embedded worker</title>
<h1>Embedded CPU worker</h1>
<p>This is not ComfyUI but the small worker that ships with comfy_proxy for its demonstration and
its tests. It speaks ComfyUI's HTTP and WebSocket protocol and executes a few picture nodes on the
CPU; backgrounds are removed by OpenCV GrabCut.</p>
<p><a href="/system_stats">/system_stats</a> · <a href="/object_info">/object_info</a></p>
"""


def create_app(instance: Instance, *, allow_faults: bool) -> web.Application:
    """The aiohttp application of one worker. `allow_faults` opens `POST /embedded/faults`."""
    app = web.Application(
        client_max_size=MAX_UPLOAD_SIZE,
        middlewares=[fault_middleware(instance.faults), cache_control, origin_check],
    )
    app[INSTANCE] = instance
    own = (*prompt_routes.ROUTES, *file_routes.ROUTES, *info_routes.ROUTES, *user_routes.ROUTES)
    app.add_routes([*_with_api_prefix(own), *own, *info_routes.INTERNAL_ROUTES])
    if instance.assets is not None:
        app.add_routes([*job_routes.ROUTES, *asset_routes.ROUTES])
    if allow_faults:
        app.router.add_post("/embedded/faults", set_faults)
    app.router.add_get("/", page)
    app.router.add_get("/{path:.*}", nothing_here)
    return app


def _with_api_prefix(routes: Iterable[web.RouteDef]) -> list[web.RouteDef]:
    return [web.route(one.method, f"/api{one.path}", one.handler) for one in routes]


async def page(_request: web.Request) -> web.Response:
    """`/`: says what this is, in the place of ComfyUI's frontend."""
    return web.Response(text=PAGE, content_type="text/html", headers={"Cache-Control": "no-cache"})


async def nothing_here(request: web.Request) -> web.FileResponse:
    """404 for an unknown path, as the real server's static files answer (405 unless GET, HEAD)."""
    return web.FileResponse(request.app[INSTANCE].folders.base / "no-frontend-here")


async def set_faults(request: web.Request) -> web.Response:
    """`POST /embedded/faults`: set faults by name, or do something now; `{}` clears all faults.

    What can be done now: `{"drop_sockets": true}`, `{"refuse_connections_s": seconds}`,
    `{"die": true}`.
    """
    instance = request.app[INSTANCE]
    wanted = await request.json()
    actions = {name: value for name, value in wanted.items() if name in instance.actions}
    values = {name: value for name, value in wanted.items() if name not in actions}
    try:
        instance.faults.update(values) if wanted else instance.faults.clear()
    except ValueError as error:
        raise web.HTTPBadRequest(text=str(error)) from error
    for name, value in actions.items():
        instance.actions[name](value)
    return web.json_response({})


@web.middleware
async def origin_check(request: web.Request, handler: Handler) -> web.StreamResponse:
    """403 for a browser's request whose Origin is not its loopback Host (PROTOCOL.md trap 7).

    OPTIONS is answered 200 here, as in the real server.
    """
    if _is_foreign(request.headers.get(hdrs.HOST), request.headers.get(hdrs.ORIGIN)):
        return web.Response(status=403)
    if request.method == hdrs.METH_OPTIONS:
        return web.Response()
    return await handler(request)


def _is_foreign(host: str | None, origin: str | None) -> bool:
    if host is None or origin is None:
        return False
    host_parts, origin_parts = urlsplit(f"//{host.lower()}"), urlsplit(origin.lower())
    if host_parts.hostname not in LOOPBACK:
        return False
    # Without a port on one side the ports are not compared, as in the real server.
    host_name = host_parts.netloc if origin_parts.port is not None else host_parts.hostname
    origin_name = origin_parts.netloc if host_parts.port is not None else origin_parts.hostname
    return bool(host_name and origin_name) and host_name != origin_name


@web.middleware
async def cache_control(request: web.Request, handler: Handler) -> web.StreamResponse:
    """`Cache-Control` by the suffix of the path, as the real server sets it."""
    response = await handler(request)
    path = request.path.lower()
    if path.endswith((".js", ".css")):
        response.headers.setdefault(hdrs.CACHE_CONTROL, "no-cache")
    elif path.endswith(PICTURE_SUFFIXES):
        if response.status == 404:
            response.headers.setdefault(hdrs.CACHE_CONTROL, "public, max-age=3600")
        elif response.status < 300:
            response.headers.setdefault(hdrs.CACHE_CONTROL, "public, max-age=86400")
    return response
