"""The signature: what libraries for Standard Webhooks, and the README's ten lines, make of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError
from webhook_receiver import SECRET
from yarl import URL

from comfy_proxy.webhook_settings import parse_secrets
from comfy_proxy.webhooks.delivery import Delivery

README = Path(__file__).parents[2] / "README.md"
BODY = '{"status":"completed","error":"Müll"}'.encode()
OTHER = "whsec_" + "b3" * 16
Verify = Callable[[str, Mapping[str, str], bytes], object]


def delivery(body: bytes = BODY, **changes: Any) -> Delivery:
    values = {
        "job_id": "0b0d6c35-9b0e-4cf8-9d5e-1f9c1d7b7a10",
        "url": URL("https://a.example/x?key=hidden"),
        "ended_at": datetime.now(UTC),
        **changes,
    }
    return Delivery(body=body, **values)


def headers(now: datetime | None = None, secrets: str = SECRET) -> dict[str, str]:
    return dict(delivery().headers(now or datetime.now(UTC), parse_secrets(secrets)))


def of_the_readme(secret: str, headers: Mapping[str, str], body: bytes) -> object:
    """The README's ``verify``."""
    (code,) = re.findall(r"```python\n(import base64.*?)```", README.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    return names["verify"](secret, headers, body)


def of_the_library(secret: str, headers: Mapping[str, str], body: bytes) -> object:
    return Webhook(secret).verify(body, dict(headers))


@pytest.mark.parametrize("verify", [of_the_readme, of_the_library])
def test_a_receiver_knows_it_by_its_secret(verify: Verify) -> None:
    """Also while the secret is changed: it is signed with the new one and the old one."""
    assert verify(SECRET, headers(), BODY)
    for secrets in (f"{SECRET},{OTHER}", f"{OTHER},{SECRET}"):
        assert verify(SECRET, headers(secrets=secrets), BODY)


@pytest.mark.parametrize("verify", [of_the_readme, of_the_library])
def test_a_receiver_refuses_what_is_not_ours(verify: Verify) -> None:
    """Another secret, another body, another id, another time."""
    forged = [
        (headers(secrets=OTHER), BODY),
        (headers(), BODY + b" "),
        ({**headers(), "webhook-id": "msg_other"}, BODY),
        (
            {**headers(), "webhook-timestamp": str(int(datetime.now(UTC).timestamp()) - 1)},
            BODY,
        ),
    ]
    for told, body in forged:
        with pytest.raises((ValueError, WebhookVerificationError)):
            verify(SECRET, told, body)


@pytest.mark.parametrize("verify", [of_the_readme, of_the_library])
def test_a_receiver_refuses_what_was_recorded(verify: Verify) -> None:
    """Ten minutes later, however well it is signed."""
    old = headers(datetime.now(UTC) - timedelta(minutes=10))
    with pytest.raises((ValueError, WebhookVerificationError)):
        verify(SECRET, old, BODY)


def test_the_specifications_own_example() -> None:
    """From the text of Standard Webhooks: the same secret, id, time and body give the same sum."""
    told = delivery(b'{"test": 2432232314}')
    signature = Webhook(SECRET).sign(
        told.id, datetime.fromtimestamp(1614265330, UTC), '{"test": 2432232314}'
    )
    now = datetime.fromtimestamp(1614265330.9, UTC)
    assert told.headers(now, parse_secrets(SECRET))["webhook-signature"] == signature


def test_each_try_is_signed_anew_under_one_id() -> None:
    """A receiver takes the tenth try too, hours later, and knows that it is no new message."""
    first, second = headers(), headers(datetime.now(UTC) + timedelta(hours=3))
    assert first["webhook-id"] == second["webhook-id"]
    assert first["webhook-signature"] != second["webhook-signature"]


def test_a_log_shows_the_host_alone() -> None:
    """Path and query may be what keeps strangers out of the receiver."""
    one = delivery(url=URL("https://a.example:8443/secret/path?key=hidden"))
    assert one.host == "a.example:8443"
    assert "secret" not in repr(one)
    assert "hidden" not in repr(one)
