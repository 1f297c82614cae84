"""Mounted in another aiohttp application: a request below the mount is what it would be without it,
and every URL in an answer has the mount before it. Real sockets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from gateway_harness import Harness, Proxy, unused_url
from yarl import URL

from comfy_proxy import Settings, create_app, setup
from comfy_proxy.counted_response import LARGE
from comfy_proxy.errors import NotFoundError, SettingsError
from comfy_proxy.settings import parse_instance

KEY = "s3cret-key-of-sixteen"
ORIGIN = "https://app.example"


def under(
    *paths: str, host: web.Application | None = None
) -> Callable[[web.Application], web.Application]:
    """Into an application under the first of ``paths``, that one into the next; the last into
    ``host``."""

    def put(app: web.Application) -> web.Application:
        for number, path in enumerate(paths, start=1):
            outer = host if host is not None and number == len(paths) else web.Application()
            outer.add_subapp(path, app)
            app = outer
        return app

    return put


async def _upstream(request: web.Request) -> web.StreamResponse:
    """What it was asked for; a redirect and a cookie for ``/moved``; a socket that says so."""
    if "websocket" in request.headers.get("Upgrade", ""):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str(request.raw_path)
        await socket.close()
        return socket
    if request.path == "/moved":
        headers = {"Location": "/there?a", "Set-Cookie": "theirs=1; Path=/"}
        return web.Response(status=302, headers=headers)
    if request.path == "/large":
        return web.Response(body=bytes(2 * LARGE))
    return web.Response(
        text=f"{request.method} {request.raw_path} {len(await request.read())}",
        headers={"X-Seen": request.raw_path},
    )


async def _ours(request: web.Request) -> web.Response:
    return web.json_response({"ours": dict(request.match_info), "query": dict(request.query)})


async def _accepted(request: web.Request) -> web.Response:
    return web.Response(status=202, headers={"Location": "/api/jobs/1/status"})


async def _missing(request: web.Request) -> web.Response:
    raise NotFoundError("No such thing.")


ROUTES = [
    web.get("/health", _ours),
    web.get("/health/live", _ours),
    web.get("/api/jobs/{id}", _ours),
    web.get("/api/jobs/{id}/status", _ours),
    web.post("/api/workflows/{name}", _accepted),
    web.get("/api/instances/{id}", _missing),
]


@pytest.fixture
async def url(harness: Harness) -> URL:
    return await harness.upstream(_upstream)


async def exchange(proxy: Proxy, method: str, target: str, *headers: str) -> bytes:
    """The bytes of the answer, less what differs between any two."""
    lines = (f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close",
             "X-Request-ID: one", *headers)  # fmt: skip
    answer = await proxy.exchange("".join(f"{line}\r\n" for line in (*lines, "")).encode())
    kept = [line for line in answer.split(b"\r\n") if not line.startswith(b"Date:")]
    return b"\r\n".join(kept)


# --- one and the same with and without a mount --------------------------------------------

KEYED = f"X-API-Key: {KEY}"
PREFLIGHT = ("Access-Control-Request-Method: POST", f"Origin: {ORIGIN}")
REQUESTS = [
    ("GET", "/", KEYED),
    ("GET", "/?a=/b", KEYED),
    ("GET", "/queue", KEYED),
    ("HEAD", "/queue", KEYED),
    ("DELETE", "/comfy/x", KEYED),
    ("GET", "/a%20b?x=%2F&y=%20", KEYED),
    ("GET", "/a%2Fb%25", KEYED),
    ("GET", "/a%0Ab", KEYED),
    ("GET", "/caf%C3%A9?%C3%A9", KEYED),
    ("GET", "/../x", KEYED),
    ("GET", "/./x/%2e%2e/y", KEYED),
    ("GET", "//x.example/y", KEYED),
    ("GET", "/x//", KEYED),
    ("GET", "/x?", KEYED),
    ("GET", "/x#y?z", KEYED),
    ("POST", "/%70rompt", KEYED, "Content-Length: 0"),
    ("OPTIONS", "/queue", KEYED),
    ("OPTIONS", "/queue", *PREFLIGHT),
    ("OPTIONS", "/health", KEYED, *PREFLIGHT),
    ("OPTIONS", "/health", KEYED),
    ("GET", "/queue", KEYED, f"Origin: {ORIGIN}"),
    ("GET", "/queue", KEYED, "Origin: https://evil.example"),
    ("PROPFIND", "/queue", KEYED),
    ("GET", "/health", KEYED),
    ("HEAD", "/health?a=1", KEYED),
    ("GET", "/h%65alth", KEYED),
    ("POST", "/health", KEYED, "Content-Length: 0"),
    ("PROPFIND", "/health", KEYED),
    ("GET", "/api/jobs/a%2Fb", KEYED),
    ("POST", "/api/jobs/a", KEYED, "Content-Length: 0"),
    ("POST", "/api/jobs/a/status", KEYED, "Content-Length: 0"),
    ("GET", "/api/workflows/a", KEYED),
    ("GET", "/health"),
    ("GET", "/health/live"),
    ("GET", "/health%2Flive"),
    ("GET", "/queue", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", KEYED),
    ("GET", "/", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate",
     "Sec-Fetch-Dest: document", KEYED),
    ("GET", "/x", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate",
     "Sec-Fetch-Dest: document", KEYED),
    ("GET", f"/x?token={KEY}&a=1", KEYED, "Sec-Fetch-Mode: cors"),
]  # fmt: skip


@pytest.fixture
async def alike(harness: Harness, url: URL) -> tuple[Proxy, Proxy]:
    """A proxy at the root, and one that is mounted: else the same."""
    options: dict[str, Any] = {"api_keys": (KEY,), "cors_origins": (ORIGIN,), "routes": ROUTES}
    at_root = await harness.proxy(url, **options)
    return at_root, await harness.proxy(url, inside=under("/comfy/"), **options)


@pytest.mark.long
@pytest.mark.parametrize("mount", ["/comfy", "/%63omf%79", "http://localhost/comfy"])
async def test_a_request_is_the_same_below_the_mount(
    alike: tuple[Proxy, Proxy], mount: str
) -> None:
    """To us, to ComfyUI and to the client, byte for byte, however the mount itself is written."""
    at_root, mounted = alike
    for method, target, *headers in REQUESTS:
        expected = await exchange(at_root, method, target, *headers)
        assert expected.startswith(b"HTTP/1.1 ")
        assert await exchange(mounted, method, mount + target, *headers) == expected, target


async def test_a_socket_is_the_same(alike: tuple[Proxy, Proxy]) -> None:
    """Its handshake asks the instance for the path below the mount."""
    for proxy, mount in zip(alike, ("", "/comfy"), strict=True):
        async with proxy.client.ws_connect(f"{mount}/pack/ws?a=1&token={KEY}",
                                           headers={"X-API-Key": KEY}) as socket:  # fmt: skip
            assert await socket.receive_str() == "/pack/ws?a=1"


# --- what a client is told ----------------------------------------------------------------

MOUNTS = [
    (("/comfy/",), {}, {}, "/comfy"),
    (("/in", "/out/er"), {}, {}, "/out/er/in"),
    (("/comfy",), {"root_path": "/front"}, {}, "/front/comfy"),
    (("/comfy",), {}, {"X-Forwarded-Prefix": "/a, /b"}, "/a/b/comfy"),
    (("/comfy",), {}, {"X-Forwarded-Prefix": "//evil.example"}, "/comfy"),
]


@pytest.mark.parametrize(("paths", "settings", "headers", "root"), MOUNTS)
async def test_every_url_begins_with_the_mount(
    harness: Harness, url: URL, paths: tuple[str, ...], settings: Any, headers: Any, root: str
) -> None:
    """Our redirects and ComfyUI's, cookies of both, and where an error sends its reader; behind
    what a server in front takes off."""
    proxy = await harness.proxy(
        url, inside=under(*paths), routes=ROUTES, api_keys=(KEY,), **settings
    )
    mount = "".join(path.rstrip("/") for path in reversed(paths))

    async def get(path: str, method: str = "GET", **more: str) -> aiohttp.ClientResponse:
        async with proxy.client.request(
            method, mount + path, headers=headers | more, allow_redirects=False
        ) as answer:
            await answer.read()
            return answer

    by = {"X-API-Key": KEY}
    assert (await get("/api/workflows/a", "POST", **by)).headers["Location"] == (
        f"{root}/api/jobs/1/status"
    )
    details = (await (await get("/api/instances/9", **by)).json())["details"]
    assert details["docs"] == f"{root}/api/docs"
    moved = await get("/moved", **by)
    assert moved.headers["Location"] == f"{root}/there?a"
    assert moved.headers["Set-Cookie"] == f"theirs=1; Path={root}"
    for path, location in (("", "/"), ("/a%20b", "/a%20b"), ("//evil.example", "/evil.example")):
        opened = await get(f"{path}?token={KEY}")
        assert (opened.status, opened.headers["Location"]) == (303, root + location)
        (cookie,) = opened.cookies.values()
        assert cookie["path"] == root
        sent = {"Cookie": f"{cookie.key}={cookie.value}"}
        assert (await get("/queue", **sent)).headers["X-Seen"] == "/queue"


async def test_the_mount_itself_leads_to_its_page(harness: Harness, url: URL) -> None:
    """Links in the page are relative: without the slash they would lead out. Whoever may not come
    in is not led there."""
    proxy = await harness.proxy(url, inside=under("/in", "/out"), api_keys=(KEY,))
    by = {"X-API-Key": KEY}
    for method in ("GET", "HEAD", "POST"):
        for query in ("", "?a=%20&b"):
            target = URL(f"/out/in{query}", encoded=True)
            async with proxy.client.request(
                method, target, headers=by, allow_redirects=False
            ) as answer:
                assert (answer.status, answer.headers["Location"]) == (307, f"/out/in/{query}")
    async with proxy.client.get("/out/in", headers=by) as answer:
        assert await answer.text() == "GET / 0"
    async with proxy.client.get("/out/in", allow_redirects=False) as answer:
        assert answer.status == 401


# --- the host -----------------------------------------------------------------------------


async def test_the_hosts_own_routes_are_untouched(harness: Harness, url: URL) -> None:
    """Beside the mount, below it, and paths that merely begin alike."""

    async def host(request: web.Request) -> web.Response:
        return web.Response(text=f"host {request.path}")

    parent = web.Application()
    parent.router.add_get("/", host)
    parent.router.add_get("/comfy/own/{name}", host)
    proxy = await harness.proxy(url, inside=under("/comfy", host=parent), api_keys=(KEY,))
    for path in ("/", "/comfy/own/page"):
        async with proxy.client.get(path) as answer:
            assert await answer.text() == f"host {path}"
            assert "X-Request-ID" not in answer.headers
    for path in ("/comfyx", "/queue", "/comfy%2Fqueue"):
        async with proxy.client.get(URL(path, encoded=True)) as answer:
            assert (answer.status, await answer.text()) == (404, "404: Not Found")
            assert "X-Request-ID" not in answer.headers


async def test_a_host_name_instead_of_a_path(harness: Harness, url: URL) -> None:
    """``add_domain``: as at the root, for that name alone."""
    parent = web.Application()
    proxy = await harness.proxy(
        url, inside=lambda app: (parent.add_domain("localhost", app), parent)[1], routes=ROUTES
    )
    for name, status in (("localhost", 202), ("127.0.0.1", 404)):
        async with proxy.client.post("/api/workflows/a", headers={"Host": name}) as answer:
            assert answer.status == status
            assert answer.headers.get("Location") == (
                "/api/jobs/1/status" if status == 202 else None
            )


async def test_the_hosts_middleware_has_its_say(harness: Harness, url: URL) -> None:
    """It sees the request as it came, and changes an answer of
    any size; its signal sees the same request. It sees a socket's end."""
    seen: list[str] = []

    @web.middleware
    async def mark(request: web.Request, handler: Handler) -> web.StreamResponse:
        answer = await handler(request)
        seen.append(f"end {request.path}")
        if not answer.prepared:
            answer.headers["X-Host"] = "was here"
        return answer

    async def prepared(request: web.Request, answer: web.StreamResponse) -> None:
        seen.append(f"begin {request.path}")

    parent = web.Application(middlewares=[mark])
    parent.on_response_prepare.append(prepared)
    large = [web.get("/ours", _large)]
    proxy = await harness.proxy(url, inside=under("/comfy", host=parent), routes=large)
    async with proxy.client.get("/comfy/ours") as answer:
        assert len(await answer.read()) == 2 * LARGE
        assert answer.headers["X-Host"] == "was here"
    async with proxy.client.ws_connect("/comfy/pack/ws") as socket:
        assert await socket.receive_str() == "/pack/ws"
        await socket.receive()
    async with proxy.client.post("/comfy/queue", data=b"body") as answer:
        assert (await answer.text()).startswith("POST /queue")
    assert [one for one in seen if one.startswith("begin")] == [
        "begin /comfy/ours",
        "begin /comfy/pack/ws",
        "begin /comfy/queue",
    ]
    assert set(seen) >= {"end /comfy/ours", "end /comfy/pack/ws", "end /comfy/queue"}


async def _large(request: web.Request) -> web.Response:
    return web.Response(body=bytes(2 * LARGE))


# --- refused at the start -----------------------------------------------------------------


@pytest.fixture
async def settings() -> Settings:
    return Settings(instances=(parse_instance(str(await unused_url())),), log_directory=None)


@pytest.mark.parametrize("path", ["/my comfy", "/комфи", "/a%20b", "/{name}", "/a\\b", "/a?b"])
async def test_a_mount_that_aiohttp_does_not_find(settings: Settings, path: str) -> None:
    """Refused in words when the application starts, instead of a 404 for everything."""
    parent = web.Application()
    parent.add_subapp(path, create_app(settings))
    runner = web.AppRunner(parent)
    with pytest.raises(SettingsError, match="like /comfy") as refused:
        await runner.setup()
    assert "ROOT_PATH" in str(refused.value)
    await runner.cleanup()


async def test_one_application_has_one_place(settings: Settings) -> None:
    """aiohttp puts both paths before the routes of one that was added twice, and finds neither."""
    parent, app = web.Application(), create_app(settings)
    parent.add_subapp("/a", app)
    parent.add_subapp("/b", app)
    runner = web.AppRunner(parent)
    with pytest.raises(SettingsError, match="one place"):
        await runner.setup()
    await runner.cleanup()


async def test_setup_comes_before_add_subapp(settings: Settings) -> None:
    """An application that another one has takes no more routes."""
    parent, app = web.Application(), web.Application()
    parent.add_subapp("/comfy", app)
    with pytest.raises(SettingsError, match="before add_subapp"):
        setup(app, settings)
