"""``Client`` and ``AsyncClient`` behind one face, so that each promise is tested of both.

The synchronous one runs in threads, as it would beside a server's event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from comfy_proxy.client import AsyncClient, Client, Policy

QUICK = Policy(patience_s=2.0, max_wait_s=2.0)
_END = object()


class InThreads:
    """A synchronous object whose methods are awaited; what they return is wrapped as well."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._real, name)
        if name == "progress":
            return lambda **options: _iterated(value(**options))
        if name == "job":
            return lambda *arguments: InThreads(value(*arguments))
        if not callable(value):
            return value

        async def awaited(*arguments: Any, **options: Any) -> Any:
            return _wrapped(await asyncio.to_thread(value, *arguments, **options))

        return awaited


def _wrapped(value: Any) -> Any:
    if isinstance(value, list):
        return [_wrapped(one) for one in value]
    return InThreads(value) if type(value).__name__ in ("Job", "Result") else value


async def _iterated(events: Any) -> AsyncIterator[Any]:
    try:
        while (event := await asyncio.to_thread(next, events, _END)) is not _END:
            yield event
    finally:
        events.close()


@asynccontextmanager
async def client_of(kind: str, url: object, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
    """A client that is closed at the end; ``kind`` is ``sync`` or ``async``."""
    options = {"policy": QUICK, **options}
    if kind == "async":
        async with AsyncClient(str(url), *arguments, **options) as client:
            yield client
    else:
        with Client(str(url), *arguments, **options) as client:
            yield InThreads(client)
