"""Ports at which nobody listens, and that nobody else is given meanwhile.

A socket that is bound and does not listen refuses each connection. Without one, the kernel may give
the port of a worker that has died to a server of another test run, which then answers in its place.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def kept_port() -> Iterator[int]:
    """A free port of the loopback; a server with SO_REUSEADDR, which asyncio sets, may take it."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])
