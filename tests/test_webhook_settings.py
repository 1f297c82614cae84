"""Secrets of webhooks: as text, read and checked."""

from __future__ import annotations

import base64

import pytest

from comfy_proxy import Settings
from comfy_proxy.allowed_hosts import parse_allowed_hosts
from comfy_proxy.errors import SettingsError
from comfy_proxy.logs.lines import Redaction
from comfy_proxy.settings import load_settings
from comfy_proxy.webhook_settings import (
    parse_secrets,
    secret_texts,
)

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


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
