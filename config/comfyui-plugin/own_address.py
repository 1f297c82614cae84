"""Whether an address is one at which this ComfyUI itself is to listen."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

_EVERYWHERE = ("", "0.0.0.0", "::")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def is_own(instance: str, addresses: Sequence[str], port: int) -> bool:
    """Whether `instance` (`host:port`, or a URL) leads to one of `addresses` at `port`.

    Of an address that is wrong in itself it says False: the proxy finds the words for it. Asks the
    resolver, and may wait for it.
    """
    try:
        url = urlsplit(instance if "://" in instance else f"http://{instance}")
        wanted = url.port or _DEFAULT_PORTS.get(url.scheme)
        host = url.hostname
    except ValueError:
        return False
    if wanted != port or not host:
        return False
    found = set(_resolved(host))
    if any(address in _EVERYWHERE for address in addresses):
        return any(map(_is_of_this_machine, found))
    return any(found & set(_resolved(address)) for address in addresses)


def taken(addresses: Iterable[str], port: int) -> str | None:
    """The first of `addresses` at which another program listens at `port`; None if all are free.

    What cannot be listened at for another reason counts as free: whoever listens says why.
    """
    for address in addresses:
        for family, kind, protocol, _, place in _places(address, port):
            with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
                if os.name == "posix":  # as asyncio listens; on Windows it would take it over
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                try:
                    probe.bind(place)
                except OSError as error:
                    if error.errno == errno.EADDRINUSE:
                        return address
    return None


def _places(host: str, port: int) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
    try:
        return list(
            socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        )
    except (OSError, UnicodeError):
        return []


def _resolved(host: str) -> list[str]:
    return [str(place[0]) for *_, place in _places(host, 0)]


def _is_of_this_machine(address: str) -> bool:
    """Only addresses of this machine can be bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True
