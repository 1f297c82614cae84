"""One webhook that is to be delivered, and the headers that prove who sent it."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from yarl import URL

from comfy_proxy.version import __version__


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """The end of the job ``job_id``, to be posted to ``url``; ``body`` is its status as JSON.

    ``ended_at`` is when the job ended, in wall time: that goes on while the proxy does not run.
    """

    job_id: str
    url: URL = field(repr=False)  # its query may hold a key of the receiver's
    body: bytes = field(repr=False)
    ended_at: datetime

    @property
    def id(self) -> str:
        """The same at each try and after a restart, by which a receiver knows what it had before.
        A job has one end, so the job's id is enough."""
        return f"msg_{self.job_id.replace('-', '')}"

    @property
    def host(self) -> str:
        """``host`` or ``host:port``, all that a log may show of the URL."""
        return self.url.host_port_subcomponent or ""

    def headers(self, now: datetime, secrets: Iterable[bytes]) -> Mapping[str, str]:
        """The headers of one try at ``now``, signed with each of ``secrets``.

        After Standard Webhooks 1.0.0 (standardwebhooks.com): HMAC-SHA256 over
        ``id.timestamp.body``. The time of the try is signed, so that a receiver can refuse what
        somebody has recorded and sends once more.
        """
        timestamp = str(int(now.timestamp()))
        signed = b"%s.%s.%s" % (self.id.encode(), timestamp.encode(), self.body)
        signatures = [hmac.new(secret, signed, hashlib.sha256).digest() for secret in secrets]
        return {
            "Content-Type": "application/json",
            "User-Agent": f"comfy_proxy/{__version__}",
            "webhook-id": self.id,
            "webhook-timestamp": timestamp,
            "webhook-signature": " ".join(
                f"v1,{base64.b64encode(signature).decode()}" for signature in signatures
            ),
        }
