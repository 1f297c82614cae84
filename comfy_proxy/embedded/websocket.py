"""The sockets of one worker: who is connected, and what each gets.

Frames may be sent from any thread; one task writes them in order. As in the real server a clientId
has one socket, and an old socket that closes removes the entry of the newer one, which then
receives nothing (PROTOCOL.md trap 2).
"""

import asyncio
import json
import struct
import uuid
from collections import deque
from collections.abc import Callable
from io import BytesIO

import aiohttp
from aiohttp import web
from PIL import Image

from comfy_proxy.embedded.faults import Faults
from comfy_proxy.embedded.nodes.node_class import Json

PREVIEW_IMAGE = 1
PREVIEW_IMAGE_WITH_METADATA = 4
PNG_IMAGE = 2
SUPPORTS_METADATA = "supports_preview_metadata"


class Sockets:
    """Knows the open sockets and writes frames to them.

    `features` None is an older server that knows no feature flags. `greeting()` gives the `status`
    for a new socket, `executing(client_id)` the node of that client's running prompt, or None.
    """

    def __init__(
        self,
        *,
        faults: Faults,
        features: Json | None,
        greeting: Callable[[], Json],
        executing: Callable[[str], str | None],
    ) -> None:
        self._faults = faults
        self._features = features
        self._greeting = greeting
        self._executing = executing
        self._sockets: dict[str, web.WebSocketResponse] = {}
        self._client_flags: dict[str, Json] = {}
        self._open: dict[web.WebSocketResponse, web.Request] = {}
        self._outgoing: deque[tuple[str | bytes, str | None]] = deque()
        self._wake = asyncio.Event()
        self._waking = False
        self._closed = False
        self._loop = asyncio.get_running_loop()

    def send(self, event: str, data: Json, client_id: str | None) -> None:
        """A text frame to the socket of `client_id`, or to every socket. Any thread."""
        self._put(json.dumps({"type": event, "data": data}), client_id)

    def send_preview(
        self, picture: Image.Image, metadata: Json | None, client_id: str | None
    ) -> None:
        """A PNG as a binary frame. It is encoded here, in the caller's thread."""
        buffer = BytesIO()
        picture.save(buffer, format="PNG", compress_level=1)
        self._put(preview_frame(buffer.getvalue(), metadata), client_id)

    def wants_metadata(self, client_id: str | None) -> bool:
        """Whether that client's FIRST message asked for type-4 previews."""
        flags = self._client_flags.get(client_id or "", {})
        return flags.get(SUPPORTS_METADATA) is True and self._features is not None

    def _put(self, payload: str | bytes, client_id: str | None) -> None:
        if self._closed:
            return
        self._outgoing.append((payload, client_id))
        # One call into the loop wakes the publisher for all frames until it runs.
        if not self._waking:
            self._waking = True
            self._loop.call_soon_threadsafe(self._wake.set)

    async def publish(self) -> None:
        """Write what was sent, in order, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._waking = False
            while self._outgoing:
                await self._deliver(*self._outgoing.popleft())

    async def _deliver(self, payload: str | bytes, client_id: str | None) -> None:
        if client_id is None:
            for socket in list(self._sockets.values()):
                await self._write(socket, payload)
        elif client_id in self._sockets:
            await self._write(self._sockets[client_id], payload)

    async def _write(self, socket: web.WebSocketResponse, payload: str | bytes) -> None:
        if self._faults.silent_sockets:
            return
        try:
            if isinstance(payload, str):
                await socket.send_str(payload)
            else:
                await socket.send_bytes(payload)
        except (ConnectionError, aiohttp.ClientError):
            return  # its handler sees the end of the connection and cleans up

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        """`GET /ws?clientId=…` from the handshake to the close."""
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        sid = request.rel_url.query.get("clientId", "") or uuid.uuid4().hex
        self._sockets.pop(sid, None)  # put in again below, at the end of the broadcast order
        self._sockets[sid] = socket
        self._client_flags[sid] = {}
        self._open[socket] = request
        try:
            await self._greet(socket, sid)
            await self._read(socket, sid)
        finally:
            self._sockets.pop(sid, None)
            self._client_flags.pop(sid, None)
            self._open.pop(socket, None)
        return socket

    async def _greet(self, socket: web.WebSocketResponse, sid: str) -> None:
        status = {"status": self._greeting(), "sid": sid}
        await self._write(socket, json.dumps({"type": "status", "data": status}))
        if (node_id := self._executing(sid)) is not None:
            await self._write(socket, json.dumps({"type": "executing", "data": {"node": node_id}}))

    async def _read(self, socket: web.WebSocketResponse, sid: str) -> None:
        """Only a first message can switch features on; everything else is ignored."""
        is_first = True
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue
            data = _json_object(message.data)
            if is_first and data.get("type") == "feature_flags" and self._features is not None:
                self._client_flags[sid] = data.get("data", {})
                answer = {"type": "feature_flags", "data": self._features}
                await self._write(socket, json.dumps(answer))
            is_first = False

    def abort_all(self) -> None:
        """Reset the connection of every socket, without a close frame."""
        for request in self._open.values():
            if isinstance(request.transport, asyncio.Transport):
                request.transport.abort()

    async def close(self) -> None:
        """Close every socket with 1001 (going away); nothing is sent afterwards."""
        self.mute()
        for socket in list(self._open):
            await socket.close(code=aiohttp.WSCloseCode.GOING_AWAY)

    def mute(self) -> None:
        """Send nothing any more, also of what waits to be sent."""
        self._closed = True
        self._outgoing.clear()

    def __len__(self) -> int:
        return len(self._open)


def preview_frame(png: bytes, metadata: Json | None) -> bytes:
    """The binary frame of a picture: type 4 with metadata, else type 1 (recorded)."""
    if metadata is None:
        return struct.pack(">II", PREVIEW_IMAGE, PNG_IMAGE) + png
    text = json.dumps(metadata | {"image_type": "image/png"}).encode()
    return struct.pack(">II", PREVIEW_IMAGE_WITH_METADATA, len(text)) + text + png


def _json_object(text: str) -> Json:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
