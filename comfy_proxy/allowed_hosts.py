"""Which hosts of a URL that a client names may be asked: a list of the operator's. Pure.

A name is compared, not what it resolves to: whoever lists a name trusts its DNS.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from yarl import URL

from comfy_proxy.addresses import comma_list

_ENTRY: Final = re.compile(r"(\*\.)?(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::([0-9]{1,5}))?")
_NAME: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")


@dataclass(frozen=True, kw_only=True, slots=True)
class AllowedHost:
    """One entry of WEBHOOK_ALLOWED_HOSTS or INPUT_ALLOWED_HOSTS.

    ``name`` is a host name or address in lower case; with ``is_suffix`` all names are meant that
    end with ``.name``, but not ``name`` itself. Without a ``port`` it is that of the URL's scheme:
    an entry ``localhost`` is not to open all that listens on this machine.
    """

    name: str
    is_suffix: bool = False
    port: int | None = None

    def covers(self, url: URL) -> bool:
        """Whether the host and port of ``url`` may be asked."""
        host = _host(url)
        if self.is_suffix:
            fits = host.endswith(f".{self.name}") and _NAME.fullmatch(host) is not None
        else:
            fits = host == self.name
        return fits and (url.is_default_port() if self.port is None else url.port == self.port)


def parse_allowed_hosts(text: str) -> tuple[AllowedHost, ...]:
    """A comma list of ``host``, ``host:port``, ``*.example.com`` and ``*.example.com:port``.

    Raises ValueError for anything else, such as a URL, or ``*`` for all hosts: whoever may submit a
    job could then have the proxy ask whatever it reaches in its network.
    """
    return tuple(_entry(part) for part in comma_list(text))


def read_allowed_url(text: str, allowed: Collection[AllowedHost]) -> URL:
    """``text`` as a URL that may be asked.

    Raises ValueError with a reason for the client if it is no http or https URL, has a user or a
    password in it, or names a host that none of ``allowed`` covers.
    """
    if any(ord(character) <= 32 or ord(character) == 127 for character in text):
        raise ValueError("has a blank or a control character in it")
    try:
        url = URL(text)
    except ValueError:
        raise ValueError("is not a URL") from None
    if url.scheme not in ("http", "https") or not url.raw_host or not url.port:
        raise ValueError("is not an http or https URL with a host")
    if url.raw_user is not None or url.raw_password is not None:
        raise ValueError("has a user or a password in it")
    if not any(one.covers(url) for one in allowed):
        raise ValueError(f"names {url.host_port_subcomponent}, which is not allowed")
    return url


def _host(url: URL) -> str:
    return (url.raw_host or "").lower().rstrip(".")


def _entry(part: str) -> AllowedHost:
    found = _ENTRY.fullmatch(part.lower())
    problem = f"{part!r} is not host, host:port or *.example.com"
    if found is None:
        raise ValueError(problem)
    suffix, name, port = found.groups()
    try:
        url = URL(f"http://{name}:{port or 80}")
    except ValueError:
        raise ValueError(problem) from None
    if not url.port or (not name.startswith("[") and not _NAME.fullmatch(name)):
        raise ValueError(problem)
    return AllowedHost(
        name=_host(url), is_suffix=suffix is not None, port=None if port is None else url.port
    )
