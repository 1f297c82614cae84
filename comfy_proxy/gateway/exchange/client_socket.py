"""A client's WebSocket that is served after the handlers of its request have returned.

A socket stays open for days, mostly idle, and all that waits for its handler waits as long: the
middlewares, the choice of who answers. Those are as much memory as half the socket. So the handler
returns it as soon as the client is greeted, and aiohttp serves it when it "sends" the answer, by
:meth:`ClientSocket.write_eof`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Protocol

from aiohttp import web
from loguru import logger


class Served(Protocol):
    """What a socket is for."""

    async def run(self) -> None:
        """Serve the client until it leaves."""

    async def ended(self) -> None:
        """It has left, or serving it has failed."""


class ClientSocket(web.WebSocketResponse[bool]):
    """``on_end`` is called once the client has left, last of all.

    Until a handler has called :meth:`serve_later` it is an ordinary WebSocket.
    """

    # Else each had a dictionary of its own: with these a socket has more attributes than Python
    # keeps without one, and 1.5 KB more.
    __slots__ = ("_context", "_served", "on_end")

    def __init__(self, *, timeout: float) -> None:
        super().__init__(compress=False, timeout=timeout)
        self._served: Served | None = None
        self._context: Context | None = None
        self.on_end: Callable[[], object] | None = None

    def serve_later(self, served: Served) -> None:
        """To be called last of all in a handler, with what is to be served when it has returned."""
        self._served = served
        self._context = copy_context()  # log lines are of this request then, too
        self.headers.clear()  # they are sent

    @property
    def is_waiting(self) -> bool:
        """Whether it is still to be served."""
        return self._served is not None

    async def write_eof(self, data: bytes = b"") -> None:
        """Serve the client until it leaves, unless that was done."""
        if self._served is not None:
            served, self._served = self._served, None
            self._restore_context()
            try:
                await served.run()
            except ConnectionError:
                logger.debug("a client has gone")
            except Exception as error:
                logger.opt(exception=error).error("a WebSocket failed")
            finally:
                try:
                    await served.ended()
                finally:
                    if self.on_end is not None:
                        self.on_end()
        await super().write_eof()

    async def goodbye(self, code: int, reason: bytes, timeout_s: float) -> bool:
        """Close it; False if the client has not read as far as that in ``timeout_s``."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.close(code=code, message=reason)
        except TimeoutError:
            return False
        return True

    def _restore_context(self) -> None:
        """aiohttp has made a task for this request alone: nobody else sees these values."""
        for variable, value in (self._context or {}).items():
            variable.set(value)
        self._context = None
