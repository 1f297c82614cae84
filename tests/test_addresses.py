"""Origins, root paths and networks as settings and headers name them."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from comfy_proxy.addresses import (
    LOOPBACK,
    origin_problems,
    parse_networks,
    parse_origins,
    parse_root_path,
    web_authorities,
)
from comfy_proxy.errors import SettingsError
from comfy_proxy.settings import Settings, load_settings


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "https://app.example",
        "http://[::1]:5173",
        "app://name",
        "app://.",
        "capacitor://localhost",
        "tauri://localhost",
        "chrome-extension://mbfkjpiidmdoaaalhnkiidpkhbkgfdio",
        "vscode-webview://1a2b-3c",
        "null",
        "file://",
    ],
)
def test_an_origin_is_taken_as_its_page_sends_it(origin: str) -> None:
    """Web pages, applications with a scheme of their own, pages without an address, all."""
    assert parse_origins(f" {origin}, https://b.example") == (origin, "https://b.example")


@pytest.mark.parametrize(
    "text",
    [
        "app.example",
        "https://app.example/",
        "https://app.example/path",
        "https://app.example:443",
        "https://user@app.example",
        "https://[",
        "app://",
        "app://name/",
        "app://name?x",
        "app:name",
        "App://name",
        "app://na me",
        "file:///",
        "file:///home/page.html",
        "NULL",
        "ws://app.example",
        "wss://app.example",
    ],
)
def test_what_no_page_can_send_as_origin_is_refused(text: str) -> None:
    """It would never match: better to hear so at the start than to wonder."""
    with pytest.raises(ValueError, match="is not an origin like"):
        parse_origins(text)


@pytest.mark.parametrize("origin", ["null", "file://"])
def test_an_origin_that_is_everybodys_needs_a_key(origin: str) -> None:
    """Any page can be ``null``: without API_KEYS the settings are refused, and say why."""
    environ = {"CORS_ORIGINS": f"https://a.example,{origin}", "PORT": "x"}
    with pytest.raises(SettingsError) as caught:
        load_settings(environ)
    (told,) = [problem for problem in caught.value.problems if "CORS_ORIGINS" in problem]
    assert told.startswith(f"CORS_ORIGINS: '{origin}' needs API_KEYS: ")
    assert len(caught.value.problems) == 2
    with pytest.raises(SettingsError):
        Settings(cors_origins=(origin,))
    settings = load_settings({"CORS_ORIGINS": origin, "API_KEYS": "k"})
    assert settings == Settings(cors_origins=(origin,), api_keys=("k",))


def test_other_origins_need_none() -> None:
    """Also ``*``, with which the operator has said that everybody may come."""
    assert origin_problems(("https://a.example", "app://name", "*"), ()) == []


def test_only_web_origins_name_a_host() -> None:
    """``tauri://localhost`` and ``app://evil.example`` say nothing about ``Host``."""
    origins = ("https://a.example:8443", "app://b.example", "null", "file://", "*", "http://[::1]")
    assert web_authorities(origins) == ["a.example:8443", "[::1]"]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/comfy", "/comfy"),
        (" /user/a%40b.example/proxy/3000/ ", "/user/a%40b.example/proxy/3000"),
        ("/~me/a.b", "/~me/a.b"),
        ("/a...b", "/a...b"),
        ("/", None),
    ],
)
def test_a_root_path_ends_without_a_slash(text: str, path: str | None) -> None:
    """So that a path of ours can be put behind it; ``/`` is none."""
    assert parse_root_path(text) == path


@pytest.mark.parametrize(
    "text",
    [
        "",
        "comfy",
        "//evil.example",
        "/a//b",
        "/a//",
        "https://evil.example",
        "https:/evil.example",
        "/..",
        "/a/../b",
        "/a/./b",
        "/%2e%2e",
        "/a/.%2E/b",
        "/a%2fb",
        "/%2Fevil.example",
        "/\\evil.example",
        "/a%5cb",
        "/a\r\nSet-Cookie: x=1",
        "/a%0d%0ab",
        "/a%00",
        "/a b",
        "/a?b",
        "/a#b",
        "/a;b",
        "/a,b",
        '/a"b',
        "/%",
        "/%zz",
        "/ä",
        "/" + "a" * 1024,
    ],
)
def test_a_root_path_leads_nowhere_else(text: str) -> None:
    """No other host, no scheme, no way up, no second header, nothing a cookie's path would end."""
    with pytest.raises(ValueError, match="is not a path like /comfy") as caught:
        parse_root_path(text)
    assert len(str(caught.value)) < 250


def test_networks_are_addresses_networks_and_words() -> None:
    """In the order of the list."""
    assert parse_networks("loopback, 10.0.0.7,fd00::/8") == (
        *LOOPBACK,
        ip_network("10.0.0.7/32"),
        ip_network("fd00::/8"),
    )
    assert parse_networks("none") == ()
    assert any(ip_address("127.9.9.9") in one for one in LOOPBACK)


@pytest.mark.parametrize("text", ["nginx", "10.0.0.1/8", "10.0.0.0/33", "1.2.3", "127.0.0.1:80"])
def test_what_is_no_network_is_refused(text: str) -> None:
    """A host name is none, nor is an address with a mask that does not cover it."""
    with pytest.raises(ValueError, match="addresses and networks are named"):
        parse_networks(text)
