"""Which hosts may be asked: as text, read and checked."""

from __future__ import annotations

import pytest
from yarl import URL

from comfy_proxy.allowed_hosts import parse_allowed_hosts, read_allowed_url
from comfy_proxy.errors import SettingsError
from comfy_proxy.settings import load_settings


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        ("a.example", "https://a.example/x?y=1"),
        ("a.example", "http://A.Example./"),
        ("a.example", "http://a.example:80/"),
        ("A.example:8443", "https://a.example:8443/"),
        ("b.example, a.example:443", "https://a.example/"),
        ("*.a.example", "https://b.a.example/"),
        ("*.a.example", "https://c.b.a.example/"),
        ("*.a.example:8080", "http://b.a.example:8080/"),
        ("my_receiver:9000", "http://my_receiver:9000/"),
        ("127.0.0.1:9000", "http://127.0.0.1:9000/"),
        ("[0:0::1]:9000", "http://[::1]:9000/"),
        ("xn--mnchen-3ya.example", "http://münchen.example/"),
    ],
)
def test_an_allowed_url(allowed: str, url: str) -> None:
    """The host as it is, in whatever spelling, at the port that is named or the scheme's."""
    assert read_allowed_url(url, parse_allowed_hosts(allowed)) == URL(url)


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        ("a.example", "https://b.example/"),
        ("a.example", "https://a.example:8443/"),
        ("a.example", "http://a.example:443/"),
        ("a.example:8443", "https://a.example/"),
        ("a.example", "https://b.a.example/"),
        ("a.example", "https://a.example.b/"),
        ("a.example", "https://b.example/a.example"),
        ("a.example", "https://b.example#a.example/"),
        ("a.example", "https://b.example?@a.example/"),
        ("a.example", "https://a.example@b.example/"),
        ("a.example", "https://user@a.example/"),
        ("a.example", "https://:secret@a.example/"),
        ("a.example", "https://b.example\\@a.example/"),
        ("a.example", "ftp://a.example/"),
        ("a.example", "file:///etc/passwd"),
        ("a.example", "//a.example/"),
        ("a.example", "a.example"),
        ("a.example", ""),
        ("a.example", "https://a.example:0/"),
        ("a.example", "https://a.example:99999/"),
        ("a.example", "https://a.exa\tmple/"),
        ("a.example", "https://a.example/ x"),
        ("a.example", "https://a.example/\r\nHost: b"),
        ("*.a.example", "https://a.example/"),
        ("*.a.example", "https://.a.example/"),
        ("*.a.example", "https://ba.example/"),
        ("*.a.example", "https://b%2f.a.example/"),
        ("127.0.0.1", "http://127.1/"),
        ("127.0.0.1", "http://2130706433/"),
        ("127.0.0.1", "http://[::ffff:127.0.0.1]/"),
        ("", "https://a.example/"),
    ],
)
def test_a_forbidden_url(allowed: str, url: str) -> None:
    """Anything that is not plainly an allowed host is refused, whatever it would resolve to."""
    with pytest.raises(ValueError, match=r"^(is|has|names) "):
        read_allowed_url(url, parse_allowed_hosts(allowed))


@pytest.mark.parametrize("name", ["INPUT_ALLOWED_HOSTS", "WEBHOOK_ALLOWED_HOSTS"])
@pytest.mark.parametrize(
    "text",
    ["*", "*.", "https://a.example", "a.example/x", "a b", "a:0", "a:99999", "a:x", "a@b", "-a.*"],
)
def test_what_is_no_allowed_host(text: str, name: str) -> None:
    """A slip stops the start: it would be an entry that covers nothing, or all."""
    with pytest.raises(SettingsError, match=name) as caught:
        load_settings({name: text, "WEBHOOK_SECRET": f"whsec_{'k' * 43}="})
    assert len(caught.value.problems) == 1
