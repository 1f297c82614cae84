"""A TCP forwarder before a server: what a network does to connections, a test does here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from yarl import URL

Doomed = Callable[[bytes], bool]


class Forwarder:
    """Passes bytes on. ``dialled`` counts connections, ``sent`` is what came on each, in order.

    ``forget()``: every connection of now breaks as soon as something is sent on it, as those do
    that a firewall has forgotten or a restarted server never knew. ``doomed`` is asked about each
    piece that a client sends: True breaks its connection instead of passing it on. ``unanswered``:
    what is asked is passed on, and each connection breaks instead of bringing the answer.
    """

    def __init__(self, target: str) -> None:
        self._target = URL(target)
        self._forgotten: set[asyncio.StreamWriter] = set()
        self._open: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}
        self.doomed: Doomed = lambda piece: False
        self.unanswered = False
        self.sent: list[bytes] = []
        self.broken = 0
        self.url = ""

    @property
    def dialled(self) -> int:
        return len(self.sent)

    def forget(self) -> None:
        self._forgotten |= self._open.keys()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()
        tasks = tuple(self._open.values())
        for writer in tuple(self._open):
            writer.transport.abort()
        await asyncio.gather(*tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[writer] = task
        number = len(self.sent)
        self.sent.append(b"")
        try:
            there = await asyncio.open_connection(self._target.host, self._target.port)
            back = asyncio.create_task(self._pump(there[0], writer))
            try:
                while piece := await reader.read(1 << 16):
                    self.sent[number] += piece
                    if writer in self._forgotten or self.doomed(piece):
                        self.broken += 1
                        writer.transport.abort()
                        return
                    there[1].write(piece)
                    await there[1].drain()
            finally:
                back.cancel()
                there[1].transport.abort()
        except OSError:
            writer.transport.abort()
        finally:
            writer.close()
            del self._open[writer]

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(1 << 16):
                if self.unanswered:
                    writer.transport.abort()
                writer.write(piece)
                await writer.drain()
            writer.close()
        except OSError:
            writer.transport.abort()


@asynccontextmanager
async def forwarding(*targets: str) -> AsyncIterator[list[Forwarder]]:
    """One before each of ``targets``."""
    forwarders = [Forwarder(target) for target in targets]
    for one in forwarders:
        await one.start()
    try:
        yield forwarders
    finally:
        for one in forwarders:
            await one.stop()
