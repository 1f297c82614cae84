"""Which hosts of a URL that a client names may be asked: a list of the operator's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from yarl import URL

_HOST = re.compile(r"(\*\.)?[\w.-]+(:[0-9]{1,5})?|\[[0-9a-f:.]+\](:[0-9]{1,5})?")


def parse_hosts(text: str) -> tuple[str, ...]:
    """A comma list of hosts as :class:`AllowedHosts` takes them; raises ValueError."""
    hosts = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    for host in hosts:
        if not _HOST.fullmatch(host):
            raise ValueError(f"{host!r} is no host, host:port or *.example.com")
    return hosts


@dataclass(frozen=True)
class AllowedHosts:
    """``hosts``: each ``host``, ``host:port`` or ``*.example.com`` (any name below it).

    Without a port the scheme's own is meant (80 and 443). A name is compared, not what it resolves
    to: whoever lists a name trusts its DNS.
    """

    hosts: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.hosts)

    def why_not(self, url: URL) -> str | None:
        """Why ``url`` may not be asked, as the end of a sentence; None if it may."""
        if url.scheme not in ("http", "https") or not url.host:
            return "is no http or https URL"
        if url.user is not None or url.password is not None:
            return "has a user name or a password in it"
        if not any(self._is(one, url) for one in self.hosts):
            return "is of a host that is not allowed here"
        return None

    def _is(self, allowed: str, url: URL) -> bool:
        pattern = URL.build(scheme=url.scheme, authority=allowed.removeprefix("*."))
        host = (url.host or "").lower().rstrip(".")
        if url.port != pattern.port:
            return False
        if allowed.startswith("*."):
            return host.endswith(f".{pattern.host}")
        return host == pattern.host
