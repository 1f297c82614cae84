"""client_identity.py: who counts as one client where each gets a fair share."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from comfy_proxy.addresses import parse_networks
from comfy_proxy.client_identity import client_of
from comfy_proxy.security import COOKIE_NAME, cookie_value
from comfy_proxy.settings import Settings


def _client(
    *headers: tuple[str, str], peer: str = "127.0.0.1", query: str = "", **settings: Any
) -> str:
    transport = mock.Mock()
    transport.get_extra_info.side_effect = {"peername": (peer, 50000)}.get
    request: web.Request = make_mocked_request(
        "GET", f"/{query}", headers=CIMultiDict(headers), transport=transport
    )
    return client_of(request, Settings(**settings))


def test_a_key_is_one_client_however_it_comes_and_from_wherever() -> None:
    """Header, cookie or query; it is not in the name."""
    keys = {"api_keys": ("one", "two")}
    forms = {
        _client(("X-API-Key", "one"), **keys),
        _client(("Authorization", "Bearer one"), peer="192.0.2.1", **keys),
        _client(("Cookie", f"{COOKIE_NAME}={cookie_value('one')}"), **keys),
        _client(query="?token=one", **keys),
    }
    assert len(forms) == 1
    assert "one" not in forms.pop()
    assert _client(("X-API-Key", "one"), **keys) != _client(("X-API-Key", "two"), **keys)


def test_a_key_that_nobody_gave_out_makes_no_client() -> None:
    """Else one client could be as many as it likes."""
    assert _client(("X-API-Key", "a")) == _client(("X-API-Key", "b"))
    keys = {"api_keys": ("one",)}
    assert _client(("X-API-Key", "a"), **keys) == _client(**keys)


@pytest.mark.parametrize(
    ("forwarded", "trusted", "same_as"),
    [
        (["192.0.2.1"], "loopback", "192.0.2.1"),
        (["198.51.100.9, 192.0.2.1"], "loopback", "192.0.2.1"),
        (["198.51.100.9", "192.0.2.1"], "loopback", "192.0.2.1"),
        (["192.0.2.1, 10.0.0.7"], "loopback,10.0.0.0/8", "192.0.2.1"),
        (["192.0.2.1:4711"], "loopback", "192.0.2.1"),
        (["[2001:db8::1]:4711"], "loopback", "2001:db8::1"),
        (["192.0.2.1"], "none", "127.0.0.1"),
        ([], "loopback", "127.0.0.1"),
    ],
)
def test_behind_a_server_that_is_believed_it_is_who_that_says(
    forwarded: list[str], trusted: str, same_as: str
) -> None:
    """The last one that is no such server's; what a client wrote before it counts nothing."""
    headers = [("X-Forwarded-For", value) for value in forwarded]
    client = _client(*headers, trusted_proxies=parse_networks(trusted))
    assert client == _client(peer=same_as)


def test_one_machine_is_one_client() -> None:
    """It has all addresses of its IPv6 network; IPv4 in IPv6 is IPv4."""
    assert _client(peer="2001:db8::1") == _client(peer="2001:db8::2:0:0:9")
    assert _client(peer="2001:db8::1") != _client(peer="2001:db8:0:1::1")
    assert _client(peer="::ffff:192.0.2.1") == _client(peer="192.0.2.1")
