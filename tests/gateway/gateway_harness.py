"""A proxy in front of real loopback servers, without the cluster's background work."""

from __future__ import annotations

import asyncio
import atexit
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

from comfy_proxy.clock import SystemClock
from comfy_proxy.cluster.connection_manager import ConnectionManager
from comfy_proxy.cluster.hang_watch import HangWatch
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.load_balancer import LoadBalancer
from comfy_proxy.gateway.frontend.first_page import FirstPage
from comfy_proxy.gateway.views.features import Features, UploadLimits
from comfy_proxy.keys import CLUSTER, GATEWAY
from comfy_proxy.metrics.records import Attempt
from comfy_proxy.middleware import register
from comfy_proxy.settings import Settings, parse_instance

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Script = Callable[["RawServer", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class GatewayCluster:
    """The part of the cluster that the gateway uses, real; no health checks, no scheduler."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.clock = SystemClock()
        self.instances = tuple(
            Instance(id=str(number), url=url, clock=self.clock)
            for number, url in enumerate(settings.instances, start=1)
        )
        self.load_balancer = LoadBalancer(self.instances)
        self.connections = ConnectionManager(self.instances, max_connections=1, clock=self.clock)
        self.hang_watch = HangWatch(
            self.instances, self._answers, clock=self.clock, timeout_s=settings.hang_timeout_s
        )
        self.attempts: asyncio.Queue[Attempt] = asyncio.Queue()
        for instance in self.instances:
            instance.observers.append(self.attempts.put_nowait)

    async def _answers(self, instance: Instance) -> bool:
        """Nobody hangs here."""
        return True

    async def healthy(self, among: Iterable[Instance] | None = None) -> list[Instance]:
        """Nobody is checked: who is away stays away."""
        return [one for one in (self.instances if among is None else among) if one.healthy]

    async def primary(self, exclude: Collection[Instance] = ()) -> Instance:
        return self.load_balancer.primary(exclude)

    def prompt_forwarded(self, instance: Instance) -> None:
        instance.prompts.external_jobs += 1

    def tell_prompt(self, event: object, instance: Instance, prompt_id: str | None) -> None:
        """Nobody listens."""

    async def running(self, app: web.Application) -> AsyncIterator[None]:
        await self.connections.start()
        yield
        await self.connections.close()


class Proxy:
    """A running proxy: its cluster, a client that changes nothing, and raw connections to it."""

    def __init__(self, cluster: GatewayCluster, runner: web.AppRunner, client: Any) -> None:
        self.cluster = cluster
        self.runner = runner
        self.client: aiohttp.ClientSession = client

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.runner.addresses[0][:2]
        return host, port

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.address)

    async def exchange(self, request: bytes) -> bytes:
        """Send bytes, read until the proxy closes."""
        reader, writer = await self.open()
        try:
            writer.write(request)
            return await reader.read()
        finally:
            writer.close()


class RawServer:
    """Runs a script on each connection after the request's head has come; sees the bytes."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._tasks: set[asyncio.Task[Any]] = set()
        self.heads: list[bytes] = []
        self.asked = asyncio.Event()
        self.closed = asyncio.Event()

    async def start(self) -> RawServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = URL(f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}")
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            self.asked.set()
            await self._script(self, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.closed.set()
        finally:
            writer.close()
            self._tasks.discard(task)

    async def stop(self) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Harness:
    """Starts proxies and upstreams, and stops them in reverse order."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def serve(self, app: web.Application, **runner_options: Any) -> web.AppRunner:
        """``app`` on a loopback port; aiohttp's TestServer would force handler_cancellation."""
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1, **runner_options)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner

    async def upstream(self, handler: Handler, **runner_options: Any) -> URL:
        """An instance that answers everything with ``handler``; takes bodies of any size."""
        app = web.Application(client_max_size=0)
        app.router.add_route("*", "/{path:.*}", handler)
        runner_options = {"handler_cancellation": True, "auto_decompress": False} | runner_options
        runner = await self.serve(app, **runner_options)
        return URL(f"http://127.0.0.1:{runner.addresses[0][1]}")

    async def raw(self, script: Script) -> RawServer:
        """An instance made of bytes."""
        server = await RawServer(script).start()
        self._stack.push_async_callback(server.stop)
        return server

    async def proxy(
        self,
        *upstreams: URL | str,
        routes: Iterable[web.AbstractRouteDef] = (),
        app: web.Application | None = None,
        inside: Callable[[web.Application], web.Application] | None = None,
        runner_options: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Proxy:
        """A proxy in ``app`` (a new one if None), its host's settings those that aiohttp has.

        ``inside(app)`` is the application that runs, if that is another one.
        """
        app = web.Application() if app is None else app
        urls = tuple(parse_instance(str(url)) for url in upstreams)
        cluster = GatewayCluster(Settings(instances=urls, **settings))
        app[CLUSTER] = cluster  # type: ignore[misc]
        # One instance as far as policies go: these tests are about forwarding itself.
        features = Features(cluster, UploadLimits(cluster))
        app[GATEWAY] = SimpleNamespace(  # type: ignore[misc]
            cluster=cluster, several=False, features=features, first_page=FirstPage(cluster)
        )
        app.cleanup_ctx.append(cluster.running)
        register(app, list(routes), cluster.settings)
        served = app if inside is None else inside(app)
        runner = await self.serve(served, **(runner_options or {}))
        client = aiohttp.ClientSession(
            f"http://127.0.0.1:{runner.addresses[0][1]}",
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._stack.push_async_callback(client.close)
        return Proxy(cluster, runner, client)


async def unused_url() -> URL:
    """An address that refuses connections, held so that no test in another process gets it."""
    taken = socket.socket()
    atexit.register(taken.close)
    taken.bind(("127.0.0.1", 0))
    return URL(f"http://127.0.0.1:{taken.getsockname()[1]}")


async def until_still(progress: Callable[[], int]) -> None:
    """Return when a thousand turns of the loop change nothing: flow control holds everybody."""
    before = -1
    while progress() != before:
        before = progress()
        for _ in range(1000):
            await asyncio.sleep(0)
