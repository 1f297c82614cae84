"""One life of a worker, from a start to the stop or the kill."""

import asyncio
import contextlib
import socket

from aiohttp import web

from comfy_proxy.embedded.instance import Instance
from comfy_proxy.embedded.local_server import HOST
from comfy_proxy.embedded.server import create_app

ACCEPT_TURNS = 3
"""Turns of the event loop for which :meth:`Life.kill` waits: after so many a connection that was
accepted is known to aiohttp's server, and only then can it be aborted."""


class Life:
    """Owns the instance, its listening socket and its publishing task."""

    def __init__(self, instance: Instance, *, allow_faults: bool) -> None:
        self.instance = instance
        app = create_app(instance, allow_faults=allow_faults)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
        self._listener: asyncio.Server | None = None
        self._publisher: asyncio.Task[None] | None = None
        self._reopening: asyncio.Task[None] | None = None
        instance.actions["drop_sockets"] = lambda _now: instance.sockets.abort_all()
        instance.actions["refuse_connections_s"] = self._refuse_for

    async def start(self, port: int) -> int:
        """Listen on `port` (0: a free one) and run; returns the port. Raises OSError."""
        await self._runner.setup()
        try:
            bound = await self.listen(port)
        except OSError:
            await self._runner.cleanup()
            raise
        self._publisher = asyncio.create_task(self.instance.sockets.publish())
        self.instance.executor.start(self.instance.sockets)
        return bound

    async def listen(self, port: int) -> int:
        """Listen if it does not; returns the port. Raises OSError if somebody else has it."""
        if self._listener is None:
            loop = asyncio.get_running_loop()
            server = self._runner.server
            if server is None:
                raise RuntimeError("The worker has been stopped.")
            self._listener = await loop.create_server(
                server, HOST, port, family=socket.AF_INET, reuse_address=True
            )
            port = self._listener.sockets[0].getsockname()[1]
        return port

    def refuse(self) -> None:
        """Stop listening: new connections are refused, open ones go on."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _refuse_for(self, seconds: float) -> None:
        """Refuse connections for so long: over HTTP nobody could ask to listen again."""
        port = self._listener.sockets[0].getsockname()[1] if self._listener else 0
        self.refuse()
        self._reopening = asyncio.create_task(self._listen_after(seconds, port))

    async def _listen_after(self, seconds: float, port: int) -> None:
        await asyncio.sleep(seconds)
        await self.listen(port)

    def abort_connections(self) -> None:
        """Reset every connection, HTTP and WebSocket."""
        server = self._runner.server
        for connection in server.connections if server is not None else ():
            if isinstance(connection.transport, asyncio.Transport):
                connection.transport.abort()

    async def stop(self) -> None:
        """End in order: hanging requests are answered, sockets closed, then the rest."""
        await self._stop_accepting()
        self.refuse()
        self.instance.faults.clear()
        await self.instance.executor.stop()
        await self.instance.sockets.close()
        await self._end()

    async def kill(self) -> None:
        """End as a process does that is killed: every connection is reset, nothing is sent."""
        await self._stop_accepting()
        self.refuse()
        self.instance.sockets.mute()
        self.abort_connections()
        await self.instance.executor.stop()
        await self._end()

    async def _stop_accepting(self) -> None:
        """Accept no more, and wait until each accepted connection can be aborted.

        asyncio loses a connection whose listening server is closed between its acceptance and its
        hand-over to the protocol: it would stay open after the kill.
        """
        for listening in self._listener.sockets if self._listener is not None else ():
            asyncio.get_running_loop().remove_reader(listening.fileno())
        for _ in range(ACCEPT_TURNS):
            await asyncio.sleep(0)

    async def _end(self) -> None:
        for task in (self._publisher, self._reopening):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self.refuse()
        self.abort_connections()
        await self._runner.cleanup()
