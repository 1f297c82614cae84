"""Shared by all tests: a pair of embedded workers, the proxy in front, a clock that stands still.

aioresponses 0.7 does not know aiohttp 3.14's ``stream_writer`` argument: one line mends that.
loguru asks for Python's directories at each new sink, of which a test has two or more; without the
cache below that takes 14 ms each time.
"""

from __future__ import annotations

import functools
import gc
import io
import sysconfig
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import aiohttp.web_app
import aioresponses.core
import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer
from hosting import MountedServer
from hypothesis import HealthCheck, settings
from internal_errors import collected
from job_client import JobClient, write_templates
from kept_ports import kept_port
from loguru import logger
from manual_clock import ManualClock
from PIL import Image

from comfy_proxy import Settings, setup
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.settings import parse_instance
from comfy_proxy.stored_bytes import StoredBytes

aioresponses.core.ClientResponse = functools.partial(
    ClientResponse, stream_writer=Mock(output_size=0)
)

# How hard hypothesis tries: `pytest --hypothesis-profile=thorough tests/ledger` tries most.
settings.register_profile("suite", max_examples=100, deadline=None, derandomize=True)
settings.register_profile(
    "thorough",
    max_examples=10_000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")
sysconfig.get_path = functools.cache(sysconfig.get_path)

DEFAULTS = {
    "shutdown_timeout_s": 0.0,
    "log_directory": None,
    "health_check_timeout_s": 1.0,
}
"""A check has longer than its 300 ms, so that no instance misses one on a busy machine."""


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what lives as long as the run: modules and tests.

    It also begins less often: a test is over soon. In three folders of tests it took 6.8 s of 57 s
    of CPU time before, and 1.9 s of 49 s since.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


@pytest.fixture(autouse=True)
def _applications_are_forgotten() -> Iterator[None]:
    """Clear the cache in which aiohttp keeps the last 1024 handlers with their applications.

    They would outlive their tests, and the garbage collector would look at all of them each time.
    """
    yield
    aiohttp.web_app._cached_build_middleware.cache_clear()


@pytest.fixture(autouse=True)
def _quiet_logs() -> None:
    """Log lines are for people; tests that read them add a sink of their own."""
    logger.remove()


@pytest.fixture(autouse=True)
def _no_unexpected_faults(_quiet_logs: None, request: pytest.FixtureRequest) -> Iterator[None]:
    """A test after which the log has an internal fault fails, unless ``logs_faults`` marks it.

    A test with that mark fails if there is none.
    """
    with collected() as lines:
        yield
    if request.node.get_closest_marker("logs_faults"):
        assert lines
    else:
        assert not lines, "\n".join(lines)


@pytest.fixture(autouse=True)
def _ports_are_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Until the test ends nobody else is given the port of a worker that has died."""
    start_anywhere = EmbeddedWorker.start

    async def start(self: EmbeddedWorker, port: int = 0) -> None:
        await start_anywhere(self, port or self.port or kept.enter_context(kept_port()))

    with ExitStack() as kept:
        monkeypatch.setattr(EmbeddedWorker, "start", start)
        yield


@pytest.fixture
def spools(monkeypatch: pytest.MonkeyPatch) -> list[StoredBytes]:
    """Every spool that is made from now on."""
    made: list[StoredBytes] = []
    original = StoredBytes.__init__

    def recording(self: StoredBytes, *args: object, **kwargs: object) -> None:
        original(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(StoredBytes, "__init__", recording)
    return made


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def workers(tmp_path: Path) -> AsyncIterator[tuple[EmbeddedWorker, EmbeddedWorker]]:
    """Two instances with the test nodes, in this process."""
    async with AsyncExitStack() as stack:
        pair = [
            await stack.enter_async_context(
                EmbeddedWorker(base_directory=tmp_path / name, name=name, test_nodes=True)
            )
            for name in ("one", "two")
        ]
        yield pair[0], pair[1]


@pytest.fixture
async def start_proxy() -> AsyncIterator[Callable[..., object]]:
    """``await start_proxy(worker, …, app=None, **settings)`` → a client of the running proxy.

    ``mount`` is the path under which ``host``, a new application if None, has that.
    """
    async with AsyncExitStack() as stack:

        async def start(
            *targets: EmbeddedWorker | str,
            app: web.Application | None = None,
            mount: str | None = None,
            host: web.Application | None = None,
            **changes: object,
        ) -> TestClient[web.Request, web.Application]:
            urls = [target if isinstance(target, str) else target.url for target in targets]
            settings = Settings(
                instances=tuple(parse_instance(url) for url in urls),
                **{**DEFAULTS, **changes},
            )
            app = web.Application() if app is None else app
            setup(app, settings)
            server = TestServer(app, handler_cancellation=True)
            if mount is not None:
                host = web.Application() if host is None else host
                server = MountedServer(app, mount, host, handler_cancellation=True)
            return await stack.enter_async_context(TestClient(server))

        yield start


@pytest.fixture
async def proxy(
    workers: tuple[EmbeddedWorker, EmbeddedWorker], start_proxy: Callable[..., object]
) -> TestClient[web.Request, web.Application]:
    """The proxy in front of the two workers, with settings by default."""
    return await start_proxy(*workers)


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    """A workflow directory with ``timed`` and ``failing``."""
    directory = tmp_path / "templates"
    directory.mkdir()
    return write_templates(directory)


@pytest.fixture
async def start_jobs(
    workers: Any, start_proxy: Callable[..., Any], templates: Path
) -> Callable[..., Awaitable[JobClient]]:
    """``await start_jobs(worker, …, **settings)`` → a client of a proxy with the templates.

    Needs ``workers`` so that proxies end before the instances do.
    """

    async def start(*workers: Any, **settings: Any) -> JobClient:
        return JobClient(await start_proxy(*workers, workflow_directory=templates, **settings))

    return start


@pytest.fixture
async def jobs(start_jobs: Callable[..., Awaitable[JobClient]], workers: Any) -> JobClient:
    """The proxy in front of two workers, with the templates."""
    return await start_jobs(*workers)


@pytest.fixture(scope="session")
def picture() -> bytes:
    """A small RGB PNG, every pixel different."""
    return encode(Image.merge("RGB", [Image.linear_gradient("L").resize((64, 48))] * 3))


def encode(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()
