"""Behind another server's path: what a client gets from us leads back to us, over real sockets."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web
from gateway_harness import Harness
from yarl import URL

KEY = "s3cret-key"
PREFIX = {"X-Forwarded-Prefix": "/user/a/proxy/3000"}


async def _redirect(request: web.Request) -> web.Response:
    """Where ``to`` says, and two cookies."""
    target = request.query["to"].replace("BASE", f"http://{request.host}")
    headers = {"Location": target, "Set-Cookie": "theirs=1; Path=/sub; HttpOnly"}
    answer = web.Response(status=302, headers=headers)
    answer.headers.add("Set-Cookie", "root=1; Path=/")
    return answer


async def _echo(request: web.Request) -> web.Response:
    return web.json_response({name.lower(): value for name, value in request.headers.items()})


async def _answer(proxy: Any, path: str, headers: Any = None) -> Any:
    url = URL(path, encoded=True)
    async with proxy.client.get(url, headers=headers, allow_redirects=False) as answer:
        await answer.read()
        return answer


REDIRECTS = [
    ("/a?b", "/user/a/proxy/3000/a?b"),
    ("BASE/a", "/user/a/proxy/3000/a"),
    ("BASE", "/user/a/proxy/3000/"),
    ("BASE//evil.example", "/user/a/proxy/3000/.//evil.example"),
    ("a", "a"),
    ("https://elsewhere.example/a", "https://elsewhere.example/a"),
    ("//elsewhere.example/a", "//elsewhere.example/a"),
]


@pytest.mark.parametrize(("to", "location"), REDIRECTS)
async def test_an_instances_redirect_and_cookies_get_the_prefix(
    harness: Harness, to: str, location: str
) -> None:
    """By header and by setting; a path of ours gets it once, another host's stays."""
    upstream = await harness.upstream(_redirect)
    told = await harness.proxy(upstream)
    set_ = await harness.proxy(upstream, root_path="/user/a/proxy/3000")
    for proxy, headers in ((told, PREFIX), (set_, None), (set_, {"X-Forwarded-Prefix": "/forged"})):
        answer = await _answer(proxy, f"/x?to={to}", headers)
        assert (answer.status, answer.headers["Location"]) == (302, location)
        assert answer.headers.getall("Set-Cookie") == [
            "theirs=1; Path=/user/a/proxy/3000/sub; HttpOnly",
            "root=1; Path=/user/a/proxy/3000",
        ]


async def test_a_path_with_two_slashes_stays_a_path(harness: Harness) -> None:
    """An instance's redirect to itself must not become one to the host that its path begins with,
    with no prefix either."""
    proxy = await harness.proxy(await harness.upstream(_redirect))
    answer = await _answer(proxy, "/x?to=BASE//evil.example/a")
    assert answer.headers["Location"] == "/.//evil.example/a"
    assert answer.url.join(URL(answer.headers["Location"], encoded=True)).host == "127.0.0.1"


async def test_an_instance_below_a_path_of_its_own(harness: Harness) -> None:
    """Its path is taken off and ours put on."""
    proxy = await harness.proxy(await harness.upstream(_redirect) / "comfy")
    answer = await _answer(proxy, "/x?to=/comfy/a", PREFIX)
    assert answer.headers["Location"] == "/user/a/proxy/3000/a"


async def test_the_token_is_traded_for_a_cookie_of_that_path(harness: Harness) -> None:
    """The redirect leads back under the prefix, and so does the cookie, to nobody else there."""
    proxy = await harness.proxy(await harness.upstream(_echo), api_keys=(KEY,))
    answer = await _answer(proxy, f"/a%20b?x=1&token={KEY}", PREFIX)
    assert answer.status == 303
    assert answer.headers["Location"] == "/user/a/proxy/3000/a%20b?x=1"
    (cookie,) = answer.cookies.values()
    assert cookie["path"] == "/user/a/proxy/3000"
    sent = {"Cookie": f"{cookie.key}={cookie.value}"}
    assert (await _answer(proxy, "/a%20b?x=1", PREFIX | sent)).status == 200


async def test_a_redirect_of_our_own_gets_the_prefix(harness: Harness) -> None:
    """Whoever of us says where to go, returned or raised; the host application's routes do not."""

    async def moved(request: web.Request) -> web.Response:
        raise web.HTTPFound("/there")

    async def accepted(request: web.Request) -> web.Response:
        return web.Response(status=202, headers={"Location": "/there"})

    app = web.Application()
    app.router.add_get("/host", accepted)
    routes = [web.get("/moved", moved), web.get("/accepted", accepted)]
    upstream = await harness.upstream(_echo)
    proxy = await harness.proxy(upstream, app=app, routes=routes, root_path="/r")
    for path, location in (("/moved", "/r/there"), ("/accepted", "/r/there"), ("/host", "/there")):
        assert (await _answer(proxy, path)).headers["Location"] == location


@pytest.mark.parametrize(
    "prefix",
    ["//evil.example", "https://evil.example", "/..", "/a/%2e%2e", "/\\evil", "/a;Domain=x", "/a?b",
     "evil"],
)  # fmt: skip
async def test_a_malicious_prefix_is_none(harness: Harness, prefix: str) -> None:
    """Neither another host, nor a way up, nor more than a path in a cookie."""
    proxy = await harness.proxy(await harness.upstream(_redirect), api_keys=(KEY,))
    headers = {"X-Forwarded-Prefix": prefix}
    answer = await _answer(proxy, f"/?token={KEY}", headers)
    assert answer.headers["Location"] == "/"
    (cookie,) = answer.cookies.values()
    assert (cookie["path"], cookie["domain"]) == ("/", "")


FORGED = {
    **PREFIX,
    "X-Forwarded-For": "10.9.9.9",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Port": "444",
    "Forwarded": "for=10.9.9.9",
}


async def test_a_stranger_is_not_believed(harness: Harness) -> None:
    """Of a peer outside TRUSTED_PROXIES nothing counts here, and the instance hears none of it."""
    upstream = await harness.upstream(_echo)
    proxy = await harness.proxy(upstream, api_keys=(KEY,), trusted_proxies=())
    answer = await _answer(proxy, f"/?token={KEY}", FORGED)
    assert answer.headers["Location"] == "/"
    (cookie,) = answer.cookies.values()
    assert (cookie["path"], cookie["secure"]) == ("/", "")
    headers = FORGED | {"X-API-Key": KEY, "Host": "localhost:1"}
    async with proxy.client.get("/", headers=headers) as echo:
        seen = await echo.json()
    told = {name: value for name, value in seen.items() if "forwarded" in name}
    assert told == {
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-proto": "http",
        "x-forwarded-host": "localhost:1",
    }


async def test_the_prefix_ends_with_us(harness: Harness) -> None:
    """An instance that knew it too would put it before its redirects a second time."""
    proxy = await harness.proxy(await harness.upstream(_echo))
    async with proxy.client.get("/", headers=FORGED) as echo:
        seen = await echo.json()
    assert "x-forwarded-prefix" not in seen
    assert seen["x-forwarded-for"] == "10.9.9.9, 127.0.0.1"
    assert seen["x-forwarded-port"] == "444"
