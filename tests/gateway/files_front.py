"""Two workers behind the gateway's file functions alone: no middleware, no background work."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from manual_clock import ManualClock
from PIL import Image
from rooms import make_gateway

from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.object_info.catalog import NodeCatalog
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.gateway.exchange.context import CONTEXT, RequestContext
from comfy_proxy.gateway.exchange.error_answers import error_response
from comfy_proxy.gateway.exchange.forward import forward_balanced
from comfy_proxy.gateway.gateway import Gateway
from comfy_proxy.gateway.routes import Policy, match
from comfy_proxy.settings import Settings, parse_instance


def picture(colour: str, mode: str = "RGB") -> bytes:
    """A small PNG of one colour."""
    buffer = io.BytesIO()
    Image.new(mode, (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


LOAD_INFO = NodeCatalog.from_json(
    {"LoadImage": {"input": {"required": {"image": [[], {"image_upload": True}]}}}}
)


class Front:
    """The workers, the gateway in front of them and a client of it that changes nothing."""

    def __init__(self, workers: Sequence[EmbeddedWorker], gateway: Gateway, client: Any) -> None:
        self.workers = workers
        self.gateway = gateway
        self.client: TestClient[web.Request, web.Application] = client

    @property
    def instances(self) -> tuple[Instance, ...]:
        return self.gateway.cluster.instances

    async def upload(
        self, content: bytes, name: str = "x.png", *, route: str = "image", **fields: str
    ) -> dict[str, str]:
        """Upload as a client does; the answer's JSON."""
        form = aiohttp.FormData(quote_fields=False)
        form.add_field("image", io.BytesIO(content), filename=name, content_type="image/png")
        for key, value in fields.items():
            form.add_field(key, value)
        async with self.client.post(f"/upload/{route}", data=form) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def view(self, name: str = "x.png", subfolder: str = "", type: str = "output") -> Any:  # noqa: A002
        """Status and bytes."""
        params = {"filename": name, "subfolder": subfolder, "type": type}
        async with self.client.get("/view", params=params) as answer:
            return answer.status, await answer.read()

    def files(self, path: str) -> list[bytes | None]:
        """What each worker has under ``input/…``, ``output/…``, ``temp/…``."""
        return [content_of(worker, path) for worker in self.workers]

    def write(self, number: int, path: str, content: bytes) -> None:
        """Put a file on a worker's disk directly, as its own prompts do."""
        target = _base(self.workers[number - 1]) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    async def take_away(self, number: int) -> None:
        """Kill a worker; everybody knows."""
        await self.workers[number - 1].kill()
        instance = self.instances[number - 1]
        while instance.healthy:
            instance.fault("killed by the test")

    async def bring_back(self, number: int, *, keep_files: bool = True) -> None:
        """Start it again; everybody knows."""
        await self.workers[number - 1].restart(keep_files=keep_files)
        clock, instance = self.gateway.cluster.clock, self.instances[number - 1]
        assert isinstance(clock, ManualClock)
        await clock.advance(10)
        assert instance.breaker.begin_trial()
        instance.check_passed(0.001)
        assert instance.healthy


def content_of(worker: EmbeddedWorker, path: str) -> bytes | None:
    target = _base(worker) / path
    return target.read_bytes() if target.is_file() else None


def _base(worker: EmbeddedWorker) -> Path:
    return worker.folders.base


@asynccontextmanager
async def running_front(*workers: EmbeddedWorker, **settings: Any) -> AsyncIterator[Front]:
    """A :class:`Front` for as long as the block runs."""
    urls = tuple(parse_instance(worker.url) for worker in workers)
    cluster = Cluster(Settings(instances=urls, **settings), clock=ManualClock())
    gateway = make_gateway(cluster)
    async with AsyncExitStack() as stack:
        await cluster.connections.start()
        stack.push_async_callback(cluster.connections.close)
        stack.callback(gateway.files.close)
        stack.push_async_callback(gateway.uploads.close)
        server = TestServer(_app(gateway))
        client = await stack.enter_async_context(TestClient(server, auto_decompress=False))
        yield Front(workers, gateway, client)


@asynccontextmanager
async def front_over(*bases: Path, **settings: Any) -> AsyncIterator[Front]:
    """A :class:`Front` before one worker for each of ``bases``, its base directory."""
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(EmbeddedWorker(base_directory=base)) for base in bases
        ]
        yield await stack.enter_async_context(running_front(*workers, **settings))


def _app(gateway: Gateway) -> web.Application:
    answers = {
        Policy.OWNER_BY_FILE: gateway.file_view.answer,
        Policy.UPLOAD: gateway.uploads.answer,
    }

    async def handle(request: web.Request) -> web.StreamResponse:
        request[CONTEXT] = RequestContext("test")
        found = match(request.method, request.rel_url.raw_path)
        try:
            if answer := answers.get(found.policy):
                return await answer(request, found)
            return await forward_balanced(request, gateway.cluster)
        except Exception as error:
            return error_response(request, error)

    async def drop_additions(request: web.Request, answer: web.StreamResponse) -> None:
        if hasattr(answer, "drop_additions"):
            answer.drop_additions()

    app = web.Application()
    app.on_response_prepare.append(drop_additions)
    app.router.add_route("*", "/{path:.*}", handle)
    return app
