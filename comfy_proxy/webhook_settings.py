"""``WEBHOOK_SECRET``: how it is read, and what is wrong without it. Pure.

No message has a secret in it: only numbers and lengths.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection
from typing import Final

from comfy_proxy.addresses import comma_list
from comfy_proxy.allowed_hosts import AllowedHost

SECRET_PREFIX: Final = "whsec_"
"""What a secret of Standard Webhooks may begin with; the rest is base64."""
SECRET_BYTES: Final = range(24, 65)
"""How many bytes a secret may have, as Standard Webhooks wants it: fewer could be found by
trying."""


def parse_secrets(text: str) -> tuple[bytes, ...]:
    """A comma list of secrets in base64, ``whsec_`` before each or not.

    Raises ValueError, which names a secret by its place in the list.
    """
    return tuple(_secret(part, place) for place, part in enumerate(comma_list(text), 1))


def secret_texts(secrets: Collection[bytes]) -> set[str]:
    """What a log must not show: each secret as it may be written, without ``=`` at its end."""
    return {base64.b64encode(secret).decode().rstrip("=") for secret in secrets}


def webhook_problems(hosts: Collection[AllowedHost], secrets: Collection[bytes]) -> list[str]:
    """What keeps webhooks from being sent as the settings are; a line for each problem."""
    if not hosts or secrets:
        return []
    return [
        "WEBHOOK_SECRET: is needed with WEBHOOK_ALLOWED_HOSTS, because receivers tell our webhooks"
        " from anybody's by it (echo whsec_$(openssl rand -base64 32) makes one)"
    ]


def _secret(part: str, place: int) -> bytes:
    text = part.removeprefix(SECRET_PREFIX)
    try:
        secret = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"secret {place} is not base64") from None
    if len(secret) not in SECRET_BYTES:
        raise ValueError(
            f"secret {place} has {len(secret)} bytes, and not {SECRET_BYTES.start} to"
            f" {SECRET_BYTES.stop - 1} (echo whsec_$(openssl rand -base64 32) makes a good one)"
        )
    return secret
