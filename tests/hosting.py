"""Somebody else's application that carries the proxy: its settings, and how a test starts it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from comfy_proxy import Settings
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.settings import parse_instance

Serve = Callable[[web.Application], Awaitable[str]]
"""``await serve(app)`` → its URL (the fixture of tests/integration)."""


def settings(*workers: EmbeddedWorker, **changes: Any) -> Settings:
    urls = tuple(parse_instance(worker.url) for worker in workers)
    return Settings(instances=urls, **{"shutdown_timeout_s": 0.0, "log_directory": None, **changes})


class MountedServer(TestServer):
    """Runs ``host``, which has ``app`` under ``mount``. A client of it names paths of ``app``."""

    def __init__(
        self, app: web.Application, mount: str, host: web.Application, **options: Any
    ) -> None:
        super().__init__(app, **options)
        host.add_subapp(mount, app)
        self.mount = mount.rstrip("/")
        self._host = host

    async def _make_runner(self, **options: Any) -> web.AppRunner:
        return web.AppRunner(self._host, **options)

    def make_url(self, path: str | URL) -> URL:
        below = f"{self.mount}{path}"
        return super().make_url(URL(below, encoded=True) if isinstance(path, URL) else below)
