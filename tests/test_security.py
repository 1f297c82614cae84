"""Who may talk to the proxy: pure questions about one request."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from comfy_proxy import security
from comfy_proxy.errors import ForbiddenError, UnauthorizedError
from comfy_proxy.origin_check import is_own_origin
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
    known = {"sockname": (local, 3000), "peername": ("127.0.0.1", 50000)}
    transport.get_extra_info.side_effect = known.get
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
    assert is_own_origin(origin, host) is own


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


ADDRESS_BAR = LINK | {"Sec-Fetch-Site": "none"}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/", "/?x=1", "/dashboard", "/assets/index-1.js"])
def test_a_link_to_a_page_of_ours_is_followed(path: str, method: str) -> None:
    """A top-level navigation of another site passes; it shows a page to its user only."""
    assert security.check(_request(path, LINK, method=method), OPEN) is None


@pytest.mark.parametrize(
    "path", ["/manager/reboot", "/queue", "/view?filename=a.png", "/assets/../x.js", "/dashboard/x"]
)
def test_a_link_to_anything_else_is_not(path: str) -> None:
    """A GET may have effects: a custom node's does what it is asked for, whoever asks."""
    with pytest.raises(ForbiddenError) as caught:
        security.check(_request(path, LINK), OPEN)
    assert caught.value.code == "foreign_origin"
    assert security.check(_request(path, ADDRESS_BAR), OPEN) is None


def test_a_link_of_an_allowed_page_leads_everywhere() -> None:
    """CORS_ORIGINS trusts the page, whatever it asks for."""
    settings = Settings(cors_origins=("http://app.example",))
    headers = LINK | {"Referer": "http://app.example/page"}
    assert security.check(_request("/manager/reboot", headers), settings) is None


@pytest.mark.parametrize("origin", ["app://name", "capacitor://localhost", "tauri://localhost"])
def test_an_application_of_its_own_scheme_is_an_origin(origin: str) -> None:
    """It passes where it is named, and only under exactly that name."""
    settings = Settings(cors_origins=(origin,))
    assert security.check(_request(headers={"Origin": origin}), settings) is None
    with pytest.raises(ForbiddenError):
        security.check(_request(headers={"Origin": f"{origin}.evil"}), settings)


def test_an_applications_scheme_names_no_host() -> None:
    """``app://evil.example`` must not open the proxy to a page that has rebound that name."""
    settings = Settings(cors_origins=("app://evil.example",))
    with pytest.raises(ForbiddenError):
        security.check(_request(headers={"Host": "evil.example"}), settings)


@pytest.mark.parametrize("origin", ["null", "file://"])
def test_an_origin_of_everybody_counts_with_a_key_only(origin: str) -> None:
    """A key that the page knows, not the cookie that its user's browser has."""
    settings = Settings(cors_origins=(origin,), api_keys=(KEY,))
    page = {"Origin": origin}
    cookie = {"Cookie": f"{security.COOKIE_NAME}={security.cookie_value(KEY)}"}
    assert security.check(_request("/queue", page | {"X-API-Key": KEY}), settings) is None
    assert security.check(_request("/queue", cookie), settings) is None
    with pytest.raises(UnauthorizedError):
        security.check(_request("/queue", page | cookie), settings)


def _refusal(headers: dict[str, str], path: str = "/") -> ForbiddenError:
    with pytest.raises(ForbiddenError) as caught:
        security.check(_request(path, headers), OPEN)
    return caught.value


def test_a_refusal_names_what_was_refused_and_what_allows_it() -> None:
    """The origin or host, and the setting, in words and for programs."""
    origin = _refusal({"Origin": "https://pod-3000.proxy.example"})
    assert "'https://pod-3000.proxy.example'" in origin.message
    assert "CORS_ORIGINS" in origin.message
    assert origin.details == {"origin": "https://pod-3000.proxy.example", "setting": "CORS_ORIGINS"}
    host = _refusal({"Host": "host.docker.internal:3000"})
    assert "'host.docker.internal:3000'" in host.message
    assert "CORS_ORIGINS" in host.message
    assert host.details == {"host": "host.docker.internal:3000", "setting": "CORS_ORIGINS"}
    assert _refusal(LINK, "/queue").details == {"setting": "CORS_ORIGINS"}


@pytest.mark.parametrize("header", ["Origin", "Host"])
def test_a_refusal_repeats_no_more_than_a_line(header: str) -> None:
    """A client's own text comes back short and printable."""
    for text in ("http://" + "a" * 5000, "http://\x1b[2J\u202eexe\x7f\xe9" + "\u2028" * 200):
        error = _refusal({header: text})
        shown = error.details[header.lower()]
        assert len(shown) <= 103
        assert (error.message + shown).isprintable()
        assert error.message.isascii()


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
    answer = security.check(_request(target, ADDRESS_BAR), KEYED)
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


def test_a_token_counts_for_head_as_for_get() -> None:
    """A program that looks before it leaps is told the same (RFC 9110 9.3.2)."""
    answer = security.check(_request(f"/a?token={KEY}", method="HEAD"), KEYED)
    assert answer is not None
    assert (answer.status, answer.headers["Location"]) == (303, "/a")


@pytest.mark.parametrize(
    ("target", "method", "headers"),
    [
        ("/?token=wrong", "GET", {}),
        ("/?token", "GET", {}),
        (f"/?token={KEY}", "POST", {}),
        (f"/?token={KEY}", "OPTIONS", {}),
        (f"/queue?token={KEY}", "GET", {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"}),
        (f"/view?token={KEY}", "GET", {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}),
    ],
)
def test_other_tokens_open_nothing(target: str, method: str, headers: dict[str, str]) -> None:
    """A wrong one, and one in the URL of what shows no page: scripts can send a header."""
    with pytest.raises(UnauthorizedError):
        security.check(_request(target, headers, method=method), KEYED)


SOCKET = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-Fetch-Mode": "websocket"}


@pytest.mark.parametrize("path", ["/ws", "/api/ws"])
def test_comfyuis_socket_may_bring_its_token_along(path: str) -> None:
    """A WebSocket handshake follows no redirect and, in a browser, has no headers to set."""
    assert security.check(_request(f"{path}?token={KEY}", SOCKET), KEYED) is None


@pytest.mark.parametrize("path", ["/terminal", "/queue", "/ws/x"])
def test_no_other_request_passes_for_a_socket(path: str) -> None:
    """An ``Upgrade`` header makes no token count; a custom node's socket has the cookie."""
    with pytest.raises(UnauthorizedError):
        security.check(_request(f"{path}?token={KEY}", SOCKET), KEYED)


def test_a_cookie_of_another_path_of_the_host_does_no_harm() -> None:
    """Browsers send both; whichever is ours counts."""
    mine, name = security.cookie_value(KEY), security.COOKIE_NAME
    for pair in ((mine, "theirs"), ("theirs", mine)):
        cookie = "; ".join(f"{name}={value}" for value in pair)
        assert security.check(_request("/queue", {"Cookie": cookie}), KEYED) is None


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


@pytest.mark.parametrize(
    ("target", "left"),
    [
        ("/x?token=KEY#a", "/x#a"),
        ("/x?b=1&token=KEY#a?c", "/x?b=1#a?c"),
        ("/x?token=KEY&b", "/x?b"),
        ("/x?token=KEY", "/x"),
        ("/x?token=other#a", "/x?token=other#a"),
    ],
)
def test_a_key_before_a_fragment_is_taken_out(target: str, left: str) -> None:
    """A program that sends ``#a`` along does not hand its key to an instance by that."""
    assert security.without_key(target, ("KEY",)) == left
