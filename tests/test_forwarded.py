"""Whom we believe what is said of a client, and what we make of it."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from comfy_proxy.addresses import parse_networks
from comfy_proxy.forwarded import is_believed, is_https, place_under, root_path
from comfy_proxy.settings import Settings

LOCAL = ("127.0.0.1", 50000)
FAR = ("192.168.1.9", 50000)


def _request(headers: Any = (), peer: object = LOCAL) -> web.Request:
    transport = mock.Mock()
    transport.get_extra_info.side_effect = {"peername": peer}.get
    return make_mocked_request("GET", "/", headers=CIMultiDict(headers), transport=transport)


@pytest.mark.parametrize(
    ("peer", "networks", "believed"),
    [
        (LOCAL, "loopback", True),
        (("::1", 1, 0, 0), "loopback", True),
        (("::ffff:127.0.0.1", 1, 0, 0), "loopback", True),
        ("", "loopback", True),
        (b"\0abstract", "loopback", True),
        (FAR, "loopback", False),
        (None, "loopback", False),
        (LOCAL, "none", False),
        ("", "10.0.0.0/8", False),
        (FAR, "10.0.0.0/8,192.168.1.9", True),
        (("::ffff:192.168.1.9", 1, 0, 0), "192.168.0.0/16", True),
        (("fe80::1%eth0", 1, 0, 2), "fe80::/10", True),
        (("fe80::1%eth0", 1, 0, 2), "192.168.0.0/16", False),
    ],
)
def test_trusted_are_the_peers_of_the_setting(peer: object, networks: str, believed: bool) -> None:
    """Loopback unless told otherwise, a Unix socket included; IPv4 in IPv6 is IPv4."""
    settings = Settings(trusted_proxies=parse_networks(networks))
    assert is_believed(_request(peer=peer), settings) is believed


def test_a_host_application_cannot_talk_us_into_it() -> None:
    """The connection counts, not a ``request.remote`` that was made of a header."""
    assert not is_believed(_request(peer=FAR).clone(remote="127.0.0.1"), Settings())


@pytest.mark.parametrize(
    ("values", "root"),
    [
        (["/a/b"], "/a/b"),
        (["/a/"], "/a"),
        (["/"], ""),
        ([""], ""),
        (["/outer", "/inner"], "/outer/inner"),
        (["/outer, /inner/"], "/outer/inner"),
        (["/a/..", "/b"], ""),
        (["//evil.example"], ""),
        (["https://evil.example"], ""),
        (["/a,//evil.example"], ""),
        (["/" + "a" * 900, "/" + "b" * 900], ""),
    ],
)
def test_the_prefix_of_a_trusted_server_is_the_root(values: list[str], root: str) -> None:
    """Of servers in a row all of them, in their order; one bad part and there is none."""
    headers = [("X-Forwarded-Prefix", value) for value in values]
    assert root_path(_request(headers), Settings()) == root
    assert root_path(_request(headers, FAR), Settings()) == ""


def test_the_setting_wins_over_a_header() -> None:
    """What a client can send through a server that does not overwrite it counts less."""
    request = _request({"X-Forwarded-Prefix": "/forged"})
    assert root_path(request, Settings(root_path="/comfy")) == "/comfy"
    assert root_path(_request(peer=FAR), Settings(root_path="/comfy")) == "/comfy"


def test_tls_of_a_trusted_server_is_the_clients() -> None:
    """The outermost scheme counts; anybody else's word does not."""
    headers = {"X-Forwarded-Proto": "HTTPS, http"}
    assert is_https(_request(headers), Settings())
    assert not is_https(_request(headers, FAR), Settings())
    assert not is_https(_request({"X-Forwarded-Proto": "http"}), Settings())


@pytest.mark.parametrize(
    ("location", "placed"),
    [
        ("/", "/r/"),
        ("/a?b#c", "/r/a?b#c"),
        ("/.//a", "/r/.//a"),
        ("a", "a"),
        ("?x", "?x"),
        ("https://elsewhere.example/a", "https://elsewhere.example/a"),
        ("//elsewhere.example/a", "//elsewhere.example/a"),
        ("/\\elsewhere.example", "/\\elsewhere.example"),
    ],
)
def test_a_path_is_placed_under_the_root(location: str, placed: str) -> None:
    """Relative ones are under it by themselves, other hosts have nothing to do with it."""
    headers = CIMultiDict({"Location": location})
    place_under(headers, "/r")
    assert headers == CIMultiDict({"Location": placed})


def test_every_cookie_is_placed_under_the_root() -> None:
    """Each keeps its name, value and order; one without a path has that of its page anyway."""
    cookies = {
        "a=1; Path=/; HttpOnly": "a=1; Path=/r; HttpOnly",
        "b=path=/x; path=/sub/; Secure": "b=path=/x; path=/r/sub/; Secure",
        'c=3;PATH="/q"': 'c=3;PATH="/r/q"',
        "d=4": "d=4",
    }
    headers = CIMultiDict(("Set-Cookie", cookie) for cookie in cookies)
    place_under(headers, "/r")
    assert headers.getall("Set-Cookie") == list(cookies.values())
