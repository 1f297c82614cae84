"""A client that notes what its socket says, and an instance that says what a test wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestServer
from job_client import until

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.gateway.events.frames import status_frame
from comfy_proxy.keys import CLUSTER, GATEWAY

Json = dict[str, Any]
FLAGS = json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
LONG_S = 10.0
"""Nothing waits that long unless something is broken."""


class Listener:
    """A client's socket; ``frames`` are those read so far, text parsed, binary as it is."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws
        self.frames: list[Any] = []
        self.close_code: int | None = None

    @property
    def texts(self) -> list[Json]:
        return [frame for frame in self.frames if isinstance(frame, dict)]

    @property
    def binaries(self) -> list[bytes]:
        return [frame for frame in self.frames if isinstance(frame, bytes)]

    @property
    def sums(self) -> list[int]:
        """The queue_remaining of each status."""
        return [_remaining(frame) for frame in self.texts if frame["type"] == "status"]

    async def until(self, wanted: Callable[[Any], bool]) -> Any:
        """Read up to the first wanted frame."""
        async with asyncio.timeout(LONG_S):
            while True:
                message = await self.ws.receive()
                if message.type is WSMsgType.TEXT:
                    frame: Any = json.loads(message.data)
                elif message.type is WSMsgType.BINARY:
                    frame = message.data
                else:
                    raise ConnectionError(f"{message!r} after {self.frames[-5:]}")
                self.frames.append(frame)
                if wanted(frame):
                    return frame

    async def until_type(self, kind: str, **data: Any) -> Json:
        return await self.until(
            lambda frame: (
                isinstance(frame, dict)
                and frame["type"] == kind
                and data.items() <= frame["data"].items()
            )
        )

    async def until_sum(self, remaining: int) -> Json:
        return await self.until(
            lambda frame: (
                isinstance(frame, dict)
                and frame["type"] == "status"
                and _remaining(frame) == remaining
            )
        )

    async def until_end_of(self, prompt_id: str) -> None:
        await self.until_type("executing", node=None, prompt_id=prompt_id)

    async def until_closed(self) -> int | None:
        """Read everything; the close code."""
        try:
            await self.until(lambda _frame: False)
        except ConnectionError:
            return self.ws.close_code
        raise AssertionError

    def of_prompt(self, prompt_id: str) -> list[Json]:
        return [f for f in self.texts if f["data"].get("prompt_id") == prompt_id]


async def listen(http: Any, client_id: str | None = None, path: str = "/ws", **more: Any) -> Any:
    """Connect and read the greeting; ``http`` is a TestClient or a ClientSession."""
    params = {} if client_id is None else {"clientId": client_id}
    ws = await http.ws_connect(path, params=params, max_msg_size=0, **more)
    listener = Listener(ws)
    await listener.until_type("status")
    return listener


class Wire:
    """One socket at a scripted instance."""

    def __init__(self, ws: web.WebSocketResponse, request: web.Request) -> None:
        self.ws = ws
        self.request = request
        self.heard: asyncio.Queue[Any] = asyncio.Queue()
        self.ended = asyncio.Event()

    async def say(self, kind: str, **data: Any) -> None:
        await self.ws.send_str(json.dumps({"type": kind, "data": data}))

    async def status(self, remaining: int) -> None:
        await self.ws.send_str(status_frame(remaining))

    def drop(self) -> None:
        transport = self.request.transport
        assert isinstance(transport, asyncio.Transport)
        transport.abort()

    async def next(self) -> Any:
        async with asyncio.timeout(LONG_S):
            return await self.heard.get()


class ScriptedInstance:
    """``wires`` are sockets in the name of clients, ``shared`` those of the proxy's own, which have
    no request that they are of. ``greeting`` is what a new socket gets first; ``gate`` holds up
    handshakes of clients' sockets while cleared, ``shared_gate`` those of the others, ``end`` the
    answer to close frames, ``still`` that to checks, of which ``questions`` came. ``open`` counts
    the clients' sockets that are open, ``open_at`` those that were when a path was asked for.
    """

    def __init__(self) -> None:
        self.greeting: list[str] = [status_frame(0, "sid")]
        self.gate = asyncio.Event()
        self.gate.set()
        self.end = asyncio.Event()
        self.end.set()
        self.still = asyncio.Event()
        self.still.set()
        self.answers_pings = True
        self.questions = 0
        self.dialled = 0
        self.open = 0
        self.most_open = 0
        self.open_at: dict[str, int] = {}
        self.wires: asyncio.Queue[Wire] = asyncio.Queue()
        self.shared: asyncio.Queue[Wire] = asyncio.Queue()
        self.shared_gate = asyncio.Event()
        self.shared_gate.set()
        self.shared_asked = asyncio.Event()
        self.asked = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """By ``handler``, whatever that is at the moment."""
        return await self.handler(request)

    async def handler(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/system_stats":
            self.questions += not self.still.is_set()
            await self.still.wait()
            return web.json_response({"system": {}})
        if request.path != "/ws" or "upgrade" not in request.headers.get("Connection", "").lower():
            self.open_at[request.path] = self.open
            return web.json_response({})
        if "x-request-id" not in request.headers:
            self.shared_asked.set()
            await self.shared_gate.wait()
            return await self._socket(request, self.shared)
        self.dialled += 1
        self.asked.set()
        await self.gate.wait()
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            return await self._socket(request, self.wires)
        finally:
            self.open -= 1

    async def _socket(self, request: web.Request, to: asyncio.Queue[Wire]) -> web.StreamResponse:
        ws = web.WebSocketResponse(max_msg_size=0, autoclose=False, autoping=self.answers_pings)
        await ws.prepare(request)
        wire = Wire(ws, request)
        try:
            for text in self.greeting:
                await ws.send_str(text)
            to.put_nowait(wire)
            async for message in ws:
                wire.heard.put_nowait(message.data)
            if to is self.wires:
                await self.end.wait()
            await ws.close()
        finally:
            wire.ended.set()
        return ws

    async def wire(self) -> Wire:
        """The next socket of a client that has been greeted."""
        async with asyncio.timeout(LONG_S):
            return await self.wires.get()

    async def shared_wire(self) -> Wire:
        """The next socket of the proxy's own that has been greeted: the one for all clients."""
        async with asyncio.timeout(LONG_S):
            return await self.shared.get()


@asynccontextmanager
async def scripted(count: int = 2) -> AsyncIterator[list[tuple[str, ScriptedInstance]]]:
    """Addresses and instances."""
    async with AsyncExitStack() as stack:
        result = []
        for _ in range(count):
            instance = ScriptedInstance()
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", instance.handle)
            server = await stack.enter_async_context(TestServer(app, shutdown_timeout=0.1))
            result.append((f"http://127.0.0.1:{server.port}", instance))
        yield result


def _remaining(frame: Json) -> int:
    return int(frame["data"]["status"]["exec_info"]["queue_remaining"])


async def listen_itself(front: Any, client_id: str | None = None, path: str = "/ws") -> Any:
    """As :func:`listen`, and the client has a socket of its own at each instance, as if a prompt of
    it had gone there."""
    listener = await listen(front, client_id, path)
    await has_its_own(front, listener.texts[0]["data"]["sid"])
    return listener


async def has_its_own(front: Any, client_id: str) -> None:
    await front.app[GATEWAY].clients.attend(client_id, front.app[CLUSTER].instances)


def upstreams_to(front: Any, instance: Instance) -> list[Any]:
    """The clients' own sockets there."""
    sessions = front.app[GATEWAY].events._sessions.values()
    own = [one.own.upstreams.get(instance) for one in sessions if one.own is not None]
    return [one for one in own if one is not None]


async def checked(front: Any) -> None:
    """The checks of the start are over, and the questions what each instance can run."""
    cluster = front.app[CLUSTER]
    await until(lambda: all(one.check_ok is not None for one in cluster.instances))
    await until(lambda: not cluster._chores and not cluster.object_info._tasks)


def node(class_type: str, **inputs: Any) -> Json:
    return {"class_type": class_type, "inputs": inputs}


def colour(number: int, output: str = "PreviewImage", seconds: float = 0.0) -> Json:
    """A small picture of one colour, held up for some time."""
    return {
        "1": node("EmptyImage", width=16, height=8, batch_size=1, color=number),
        "2": node("TimedPass", image=["1", 0], seconds=seconds, salt=number),
        "3": node(output, images=["2", 0]),
    }


async def post(http: Any, graph: Json, client_id: str | None = None, url: str = "") -> str:
    body: Json = {"prompt": graph} | ({} if client_id is None else {"client_id": client_id})
    async with http.post(f"{url}/prompt", json=body) as response:
        answer = await response.json()
        assert response.status == 200, answer
        return str(answer["prompt_id"])


async def hears(client: Listener, front: Any, client_id: str, number: int) -> None:
    """A prompt of this clientId is told to this socket, to its end."""
    prompt_id = await post(front, colour(number), client_id)
    await client.until_end_of(prompt_id)
