"""Where webhooks may go, and secrets: as text, read and checked."""

from __future__ import annotations

import base64

import pytest
from yarl import URL

from comfy_proxy import Settings
from comfy_proxy.errors import SettingsError
from comfy_proxy.logs.lines import Redaction
from comfy_proxy.settings import load_settings
from comfy_proxy.webhook_settings import (
    parse_allowed_hosts,
    parse_secrets,
    read_webhook_url,
    secret_texts,
)

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


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
    assert read_webhook_url(url, parse_allowed_hosts(allowed)) == URL(url)


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
        read_webhook_url(url, parse_allowed_hosts(allowed))


@pytest.mark.parametrize(
    "text",
    ["*", "*.", "https://a.example", "a.example/x", "a b", "a:0", "a:99999", "a:x", "a@b", "-a.*"],
)
def test_what_is_no_allowed_host(text: str) -> None:
    """A slip stops the start: it would be an entry that covers nothing, or all."""
    with pytest.raises(SettingsError, match="WEBHOOK_ALLOWED_HOSTS") as caught:
        load_settings({"WEBHOOK_ALLOWED_HOSTS": text, "WEBHOOK_SECRET": SECRET})
    assert len(caught.value.problems) == 1


def test_secrets() -> None:
    """With and without prefix and padding; the first one is the newest, each signs."""
    key, other = b"k" * 32, b"o" * 25
    text = base64.b64encode(other).decode().rstrip("=")
    assert parse_secrets(f"{SECRET}, {text}") == (key, other)


@pytest.mark.parametrize(
    "text", ["short", "whsec_", "not base64!" * 5, base64.b64encode(b"k" * 65).decode(), "a2tr"]
)
def test_what_is_no_secret(text: str) -> None:
    """It stops the start, with a sentence in which it does not stand."""
    with pytest.raises(SettingsError, match="secret 1") as caught:
        load_settings({"WEBHOOK_ALLOWED_HOSTS": "a.example", "WEBHOOK_SECRET": text})
    assert text not in str(caught.value).replace("whsec_$(", "")


def test_hosts_need_a_secret() -> None:
    """Receivers could not tell our webhooks from anybody's: the start stops, also in code."""
    hosts = parse_allowed_hosts("a.example")
    with pytest.raises(SettingsError, match="WEBHOOK_SECRET: is needed"):
        load_settings({"WEBHOOK_ALLOWED_HOSTS": "a.example"})
    with pytest.raises(SettingsError, match="WEBHOOK_SECRET: is needed"):
        Settings(webhook_allowed_hosts=hosts)
    assert load_settings({"WEBHOOK_SECRET": SECRET}).webhook_allowed_hosts == ()


def test_a_secret_is_shown_nowhere() -> None:
    """Neither by the settings nor in a line of the log."""
    settings = load_settings({"WEBHOOK_ALLOWED_HOSTS": "a.example", "WEBHOOK_SECRET": SECRET})
    bare = SECRET.removeprefix("whsec_").rstrip("=")
    assert bare not in repr(settings)
    redaction = Redaction(secret_texts(settings.webhook_secrets))
    assert bare not in redaction.text(f"a line with {SECRET}")
