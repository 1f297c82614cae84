"""Who may talk to the proxy: pure questions about one request."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from comfy_proxy import security
from comfy_proxy.errors import ForbiddenError, UnauthorizedError
from comfy_proxy.settings import Settings

KEY, OTHER = "first-key", "zweiter-Schlüssel"
KEYED = Settings(api_keys=(KEY, OTHER))
OPEN = Settings()


def _request(
    path: str = "/",
    headers: dict[str, str] | None = None,
    *,
    method: str = "GET",
    local: str = "127.0.0.1",
) -> web.Request:
    transport = mock.Mock()
    transport.get_extra_info.side_effect = {"sockname": (local, 3000)}.get
    headers = {"Host": "localhost:3000", **(headers or {})}
    return make_mocked_request(method, path, headers=headers, transport=transport)


# --- Host ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:9",
        "localhost.",
        "app.localhost:1",
        "127.0.0.1:3000",
        "127.9.9.9",
        "[::1]:3000",
        "[::1]",
        "[::ffff:127.0.0.1]",
    ],
)
def test_loopback_names_are_served(host: str) -> None:
    """Every name of this machine passes, whatever the port."""
    assert security.check(_request(headers={"Host": host}), OPEN) is None


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:3000", "localhost.evil.example", "192.168.1.5", "", "a:b:c",
     "127.0.0.1.evil.example", "notlocalhost", "[::2]"],
)  # fmt: skip
def test_foreign_names_are_refused_on_loopback(host: str) -> None:
    """DNS rebinding: Host = Origin = evil.example would pass ComfyUI (trap 7)."""
    with pytest.raises(ForbiddenError):
        security.check(_request(headers={"Host": host, "Origin": f"http://{host}"}), OPEN)


def test_a_configured_name_is_served_on_loopback() -> None:
    """The host of a trusted origin, as behind a TLS proxy on the same machine."""
    settings = Settings(cors_origins=("https://comfy.example",))
    request = _request(headers={"Host": "comfy.example"})
    assert security.check(request, settings) is None


@pytest.mark.parametrize(
    ("settings", "local"),
    [(Settings(host="0.0.0.0"), "127.0.0.1"), (OPEN, "192.168.1.5")],
)
def test_elsewhere_any_name_is_served(settings: Settings, local: str) -> None:
    """Off loopback nobody knows the names; a host application may listen where it likes."""
    request = _request(headers={"Host": "gpu.lan"}, local=local)
    assert security.check(request, settings) is None


# --- Origin -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "host", "own"),
    [
        ("http://localhost:3000", "localhost:3000", True),
        ("HTTP://LocalHost:3000", "localhost:3000", True),
        ("http://localhost", "localhost:80", True),
        ("https://comfy.example", "comfy.example", True),
        ("https://comfy.example", "comfy.example:443", True),
        ("http://[::1]:3000", "[::1]:3000", True),
        ("http://localhost:5173", "localhost:3000", False),
        ("http://localhost", "localhost:3000", False),
        ("http://127.0.0.1:3000", "localhost:3000", False),
        ("null", "localhost:3000", False),
        ("", "localhost:3000", False),
        ("file://", "localhost:3000", False),
        ("http://localhost:3000.evil.example", "localhost:3000", False),
        ("http://localhost:3000", "", False),
    ],
)
def test_own_origin_is_host_and_port(origin: str, host: str, own: bool) -> None:
    """An origin is ours if it is the address that the browser asked; null is nobody's."""
    assert security.is_own_origin(origin, host) is own


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:5173"])
def test_foreign_origins_are_refused(method: str, origin: str) -> None:
    """Whatever the method, a WebSocket handshake (a GET) included."""
    with pytest.raises(ForbiddenError):
        security.check(_request(headers={"Origin": origin}, method=method), OPEN)


def test_allowed_origins_pass() -> None:
    """CORS_ORIGINS names them exactly; ``*`` names all."""
    headers = {"Origin": "http://app.example", "Sec-Fetch-Site": "cross-site"}
    for origins in (("http://app.example",), ("*",)):
        assert security.check(_request(headers=headers), Settings(cors_origins=origins)) is None
    with pytest.raises(ForbiddenError):
        security.check(_request(headers=headers), Settings(cors_origins=("https://app.example",)))


def test_a_program_passes() -> None:
    """No Origin, no Sec-Fetch-Site: no browser."""
    assert security.check(_request("/prompt", method="POST"), OPEN) is None


CROSS = {"Sec-Fetch-Site": "cross-site"}
LINK = CROSS | {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


def test_a_link_to_us_is_followed() -> None:
    """A top-level GET navigation passes; it shows a page to its user only."""
    assert security.check(_request(headers=LINK), OPEN) is None


@pytest.mark.parametrize(
    ("headers", "method"),
    [
        (CROSS | {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}, "GET"),
        (LINK | {"Sec-Fetch-Dest": "iframe"}, "GET"),
        (LINK, "POST"),
        (CROSS | {"Sec-Fetch-Mode": "websocket", "Sec-Fetch-Dest": "websocket"}, "GET"),
    ],
)
def test_other_cross_site_requests_are_refused(headers: dict[str, str], method: str) -> None:
    """Images, frames, forms and sockets of foreign pages, though they send no Origin."""
    with pytest.raises(ForbiddenError):
        security.check(_request(headers=headers, method=method), OPEN)


def test_an_image_on_an_allowed_page_is_told_by_its_referer() -> None:
    """``<img>`` sends no Origin; the Referer's origin stands for it."""
    headers = CROSS | {"Sec-Fetch-Mode": "no-cors", "Referer": "http://app.example/"}
    settings = Settings(cors_origins=("http://app.example",))
    assert security.check(_request("/view", headers), settings) is None
    with pytest.raises(ForbiddenError):
        security.check(_request("/view", headers | {"Referer": "http://x.example/"}), settings)


# --- keys ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"bearer  {KEY}"},
        {"X-API-Key": KEY},
        {"X-API-Key": OTHER},
        {"Cookie": f"a=1; {security.COOKIE_NAME}={security.cookie_value(OTHER)}"},
    ],
)
def test_each_way_to_show_a_key_works(headers: dict[str, str]) -> None:
    """Bearer, X-API-Key and the cookie; any of the keys."""
    assert security.check(_request("/queue", headers), KEYED) is None


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": "wrong"},
        {"X-API-Key": ""},
        {"X-API-Key": KEY + "x"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": KEY},
        {"Cookie": f"{security.COOKIE_NAME}={KEY}"},
        {"Cookie": security.COOKIE_NAME},
    ],
)
def test_without_a_key_nothing_is_served(headers: dict[str, str]) -> None:
    """401; the key itself is no cookie, a prefix is no key."""
    with pytest.raises(UnauthorizedError) as caught:
        security.check(_request("/queue", headers), KEYED)
    assert KEY not in caught.value.message + str(caught.value.details)


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_liveness_needs_no_key(path: str) -> None:
    """A load balancer has none."""
    assert security.check(_request(path), KEYED) is None


@pytest.mark.parametrize(
    "path", ["/health", "/health%2Flive", "/health/live/", "//health/live", "/x/../health/live"]
)
def test_paths_like_those_need_one(path: str) -> None:
    """They are forwarded as they are, so they must not pass for ours."""
    with pytest.raises(UnauthorizedError):
        security.check(_request(path), KEYED)


PREFLIGHT = {"Origin": "http://app.example", "Access-Control-Request-Method": "POST"}


def test_preflights_need_no_key_where_they_are_answered_here() -> None:
    """A browser sends none with them; without CORS they are nobody's and get no further."""
    request = _request("/queue", PREFLIGHT, method="OPTIONS")
    allowing = Settings(api_keys=(KEY,), cors_origins=("http://app.example",))
    assert security.check(request, allowing) is None
    own = {**PREFLIGHT, "Origin": "http://localhost:3000"}
    with pytest.raises(ForbiddenError):
        security.check(_request("/queue", own, method="OPTIONS"), KEYED)


@pytest.mark.parametrize(
    ("target", "location"),
    [
        (f"/?token={KEY}", "/"),
        (f"/a%2Fb?x=1&token={KEY}&y=%20", "/a%2Fb?x=1&y=%20"),
        (f"/?token={KEY}&token=other", "/?token=other"),
    ],
)
def test_a_token_opens_the_page_once(target: str, location: str) -> None:
    """Redirect to the same place without the token, and a cookie that is not the key."""
    answer = security.check(_request(target, LINK), KEYED)
    assert answer is not None
    assert answer.status == 303
    assert answer.headers["Location"] == location
    cookie = answer.cookies[security.COOKIE_NAME]
    assert KEY not in cookie.OutputString()
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Strict", "/")
    assert not cookie["secure"]
    again = _request("/", {"Cookie": f"{security.COOKIE_NAME}={cookie.value}"})
    assert security.check(again, KEYED) is None


def test_the_cookie_is_secure_over_https() -> None:
    """Also where TLS ends in front of us."""
    answer = security.check(_request(f"/?token={KEY}", {"X-Forwarded-Proto": "https"}), KEYED)
    assert answer is not None
    assert answer.cookies[security.COOKIE_NAME]["secure"]


@pytest.mark.parametrize(
    ("target", "method"), [("/?token=wrong", "GET"), (f"/?token={KEY}", "POST"), ("/?token", "GET")]
)
def test_other_tokens_open_nothing(target: str, method: str) -> None:
    """A wrong one, and one in the URL of something else than a GET."""
    with pytest.raises(UnauthorizedError):
        security.check(_request(target, method=method), KEYED)


def test_a_socket_may_bring_its_token_along() -> None:
    """A WebSocket handshake follows no redirect and, in a browser, has no headers to set."""
    headers = {"Upgrade": "websocket", "Connection": "Upgrade"}
    assert security.check(_request(f"/ws?token={KEY}", headers), KEYED) is None


def test_cookie_values_differ_by_key() -> None:
    """They are derived, and short of the key nothing gives them."""
    values = {security.cookie_value(key) for key in (KEY, OTHER, "")}
    assert len(values) == 3
    assert not any(KEY in value for value in values)


# --- the warning --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ({}, False),
        ({"host": "localhost"}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": ""}, True),
        ({"host": "::"}, True),
        ({"host": "0.0.0.0", "api_keys": (KEY,)}, False),
    ],
)
def test_listening_for_everybody_without_keys_is_told(
    options: dict[str, Any], warned: bool
) -> None:
    """Loud where anybody in the network could use the proxy, silent elsewhere."""
    assert (security.listening_warning(Settings(**options)) is not None) is warned
