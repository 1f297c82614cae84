"""A receiver of webhooks on the loopback, which answers as the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from kept_ports import kept_port

from comfy_proxy.allowed_hosts import parse_allowed_hosts
from comfy_proxy.lenient_json import loads
from comfy_proxy.webhook_settings import parse_secrets

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
"""That of Standard Webhooks' own examples."""
PATIENCE_S = 20.0
"""Before a webhook that does not come fails the test."""


@dataclass(frozen=True, kw_only=True)
class Received:
    """One request: its headers as they came, and its body."""

    headers: dict[str, str]
    body: bytes
    path: str

    @property
    def status(self) -> Any:
        return loads(self.body)

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


class Receiver:
    """``received`` are all requests so far. ``answers`` are used one after the other, the last one
    for all further requests: a status, or a function of the request."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.received: list[Received] = []
        self.answers: list[int | Callable[[web.Request], Any]] = [204]
        self._came = asyncio.Event()
        self._runner: web.AppRunner | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}/hook"

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._take)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def next(self, number: int = 1) -> Received:
        """The request of that number, counted from 1, as soon as it has come."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.received) < number:
                self._came.clear()
                await self._came.wait()
        return self.received[number - 1]

    async def _take(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        body = await request.read()
        self.received.append(Received(headers=headers, body=body, path=request.path_qs))
        self._came.set()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, int):
            return web.Response(status=answer)
        result: web.StreamResponse = await answer(request)
        return result


@asynccontextmanager
async def receiving(*, started: bool = True) -> AsyncIterator[Receiver]:
    """A receiver; nobody else gets its port before the test ends."""
    with kept_port() as port:
        receiver = Receiver(port)
        if started:
            await receiver.start()
        try:
            yield receiver
        finally:
            await receiver.stop()


def hooks(*receivers: Receiver) -> dict[str, Any]:
    """The settings with which webhooks go to ``receivers``."""
    return {
        "webhook_allowed_hosts": parse_allowed_hosts(",".join(one.host for one in receivers)),
        "webhook_secrets": parse_secrets(SECRET),
    }
