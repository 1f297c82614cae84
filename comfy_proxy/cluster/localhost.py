"""``localhost`` is this machine, IPv4 and IPv6, whatever a resolver says."""

from __future__ import annotations

import socket

from aiohttp.abc import AbstractResolver, ResolveResult

_ADDRESSES = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


def is_localhost(host: str) -> bool:
    """True for ``localhost`` and the names below it (RFC 6761 6.3), not for addresses."""
    name = host.rstrip(".").lower()
    return name == "localhost" or name.endswith(".localhost")


class LocalhostResolver(AbstractResolver):
    """Gives both loopback addresses for any name, 127.0.0.1 first, and asks no name server.

    A server often listens on one of them only, and a resolver may know only the other one (many
    ``/etc/hosts`` have no ``::1 localhost``), or be slow. aiohttp dials the second address as soon
    as the first one refuses.
    """

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of ``family``, of both if it is unspecified."""
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=of,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for of, address in _ADDRESSES
            if family in (socket.AF_UNSPEC, of)
        ]

    async def close(self) -> None:
        """Nothing to close: there is no connection to a name server."""
