"""Addresses that settings and headers name, read and checked: origins, a root path, networks.

Pure functions of text; those that parse raise ValueError with the reason in words.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import suppress
from functools import cached_property, lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import unquote

from yarl import URL

from comfy_proxy.cluster.localhost import is_localhost

Network = IPv4Network | IPv6Network


class Networks(tuple[Network, ...]):
    """Networks that remember their hash, which :func:`is_in` needs several times a request:
    ``ipaddress`` works it out anew each time, at ten times the cost of the answer."""

    @cached_property
    def _hash(self) -> int:
        return super().__hash__()

    def __hash__(self) -> int:
        return self._hash


LOOPBACK = Networks((ip_network("127.0.0.0/8"), ip_network("::1/128")))
SHARED_ORIGINS = ("null", "file://")
"""What pages without an address of their own send as ``Origin``: sandboxed frames, ``data:`` URLs
and local files (``null``), local files in some web views (``file://``). It tells nobody apart."""

MAX_ROOT_PATH = 1024
"""Characters of a root path; a longer one is refused, because it goes into every URL we give."""

_WEB_SCHEMES = ("http", "https")
_NO_PAGES_SCHEMES = ("ws", "wss", "ftp")
_OWN_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://[^\s/?#@\\]+")
# RFC 3986 3.3 less comma and semicolon, which mean something in the headers where it is used.
_ROOT_PATH = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+=:@-]|%[0-9A-Fa-f]{2})+)*/?")


def comma_list(text: str) -> tuple[str, ...]:
    """The parts of ``text`` between commas, without blanks around them and without empty ones."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


# --- origins ------------------------------------------------------------------------------


def parse_origins(text: str) -> tuple[str, ...]:
    """A comma list of origins as browsers and web views write them in ``Origin`` (RFC 6454 7).

    ``https://app.example``, those of an application's own scheme (``app://name``,
    ``capacitor://localhost``), ``null``, ``file://``, or ``*`` for all. Raises ValueError for
    anything else, such as an origin with a path: it would never equal what a browser sends.
    """
    origins = comma_list(text)
    for origin in origins:
        if origin != "*" and origin not in SHARED_ORIGINS and not _is_origin(origin):
            raise ValueError(
                f"{origin!r} is not an origin like https://app.example or app://name"
                " (scheme, host, port if it is not the default; no path)"
            )
    return origins


def _is_origin(text: str) -> bool:
    scheme = text.partition("://")[0]
    if scheme in _WEB_SCHEMES:
        with suppress(ValueError):
            return str(URL(text).origin()) == text
        return False
    return scheme not in _NO_PAGES_SCHEMES and _OWN_SCHEME.fullmatch(text) is not None


def origin_problems(origins: Collection[str], keys: Collection[str]) -> list[str]:
    """What is wrong with ``origins`` where ``keys`` are the API keys: a line for each problem.

    Any page on the web can make itself ``null`` by a sandboxed frame, so without a key whoever
    allows that origin allows everybody.
    """
    if keys:
        return []
    return [
        f"CORS_ORIGINS: {origin!r} needs API_KEYS: pages of strangers can have this origin too,"
        " only a key tells yours from them"
        for origin in SHARED_ORIGINS
        if origin in origins
    ]


def web_authorities(origins: Collection[str]) -> list[str]:
    """``host[:port]`` of the http and https origins among ``origins``; others name no host."""
    split = [origin.partition("://") for origin in origins]
    return [authority for scheme, _, authority in split if scheme in _WEB_SCHEMES]


# --- the root path ------------------------------------------------------------------------


def parse_root_path(text: str) -> str | None:
    """``/a/b`` or ``/a/b/`` → ``/a/b``, ``/`` → None.

    Raises ValueError for whatever could lead elsewhere than to a path of the same server when a URL
    is put behind it: ``//host``, a scheme, ``..`` in any spelling, control characters.
    """
    path = text.strip()
    segments = [unquote(part, "iso-8859-1") for part in path.split("/")]
    if (
        len(path) > MAX_ROOT_PATH
        or not path.startswith("/")
        or not _ROOT_PATH.fullmatch(path)
        or any(part in (".", "..") or not _is_plain(part) for part in segments)
    ):
        raise ValueError(f"{text[:100]!r} is not a path like /comfy (one / before each part)")
    return path.rstrip("/") or None


def _is_plain(segment: str) -> bool:
    return not any(
        character in "/\\" or ord(character) < 32 or 127 <= ord(character) < 160
        for character in segment
    )


# --- networks -----------------------------------------------------------------------------


def parse_networks(text: str) -> Networks:
    """A comma list of addresses and networks (``10.0.0.7``, ``10.0.0.0/8``, ``fd00::/8``).

    ``loopback`` stands for 127.0.0.0/8 and ::1, ``none`` for no network at all. Raises ValueError
    for anything else; names are not resolved, since whoever answers for a name would be believed.
    """
    networks: list[Network] = []
    for part in comma_list(text):
        if part == "loopback":
            networks += LOOPBACK
        elif part != "none":
            try:
                networks.append(ip_network(part))
            except ValueError as error:
                raise ValueError(f"{error}; addresses and networks are named") from None
    return Networks(networks)


@lru_cache(maxsize=1024)
def is_loopback(host: str) -> bool:
    """True for localhost, ``*.localhost`` (RFC 6761 6.3), 127.0.0.0/8 and ::1."""
    name = host.strip("[]").rstrip(".")
    return is_localhost(name) or is_in(name, LOOPBACK)


@lru_cache(maxsize=16)  # asked at each request, of the one HOST
def are_loopback(hosts: str) -> bool:
    """True if each of the comma list HOST is loopback; False for one that names no address, which
    listens on all of them."""
    names = comma_list(hosts)
    return bool(names) and all(map(is_loopback, names))


@lru_cache(maxsize=1024)  # asked several times a request, of a few peers and names
def is_in(address: str, networks: tuple[Network, ...]) -> bool:
    """True if ``address`` is in one of ``networks``; False for a text that is not an address.

    An IPv4 address in IPv6 form (``::ffff:10.0.0.7``) is that IPv4 address; a zone (``%eth0``) is
    ignored.
    """
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return any((mapped or found) in network for network in networks)
