"""Talks with a ComfyUI server and writes everything down, in the form of the recordings.

HTTP exchanges and the frames of each socket are kept apart: how they interleave is chance.
"""

import asyncio
import json
import random
import uuid
from collections.abc import Callable
from io import BytesIO
from typing import Any, Self

import aiohttp
from frames import parse_frame
from PIL import Image

Json = dict[str, Any]
TIMEOUT_S = 60.0
SHOWN_HEADERS = ("Content-Type", "Content-Range", "Content-Disposition", "Allow", "Cache-Control")


class Conversation:
    """One scenario's exchange with one server; `http` and `sockets` are its record."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http: list[Json] = []
        self.sockets: dict[str, list[Json]] = {}
        # Never the same twice: what carries it is in no server's cache.
        self.salt = random.randrange(10**6, 10**9)
        self._session = aiohttp.ClientSession()
        self._open: list[Socket] = []

    async def ask(
        self, method: str, path: str, *, body: Any = None, headers: bool = False, **more: Any
    ) -> Any:
        """Send a request and record it; `body` goes as JSON. Returns the decoded answer."""
        request = self._session.request(method, self.url + path, json=body, **more)
        async with asyncio.timeout(TIMEOUT_S), request as response:
            content = await response.read()
        answer = _decoded(content, response.content_type)
        record: Json = {"request": f"{method} {path}", "json": body, "status": response.status}
        if headers:
            shown = {k: response.headers[k] for k in SHOWN_HEADERS if k in response.headers}
            record["headers"] = shown
        self.http.append(record | {"body": answer})
        return answer

    async def quietly(self, method: str, path: str, **more: Any) -> aiohttp.ClientResponse:
        """Send a request that is no part of the record."""
        async with asyncio.timeout(TIMEOUT_S):
            response = await self._session.request(method, self.url + path, **more)
            await response.read()
        return response

    async def connect(
        self, name: str = "A", *, client_id: str | None = None, features: bool = True
    ) -> "Socket":
        """Open a socket and wait for its greeting; `features` asks for type-4 frames."""
        client_id = client_id or str(uuid.uuid4())
        address = f"{self.url}/ws?clientId={client_id}"
        raw = await self._session.ws_connect(address, max_msg_size=0, autoping=False)
        socket = Socket(raw, client_id, self.sockets.setdefault(name, []))
        self._open.append(socket)
        await socket.until(lambda frame: frame.get("type") == "status")
        if features:
            flags = {"supports_preview_metadata": True}
            await raw.send_json({"type": "feature_flags", "data": flags})
            await socket.until(lambda frame: frame.get("type") == "feature_flags")
        return socket

    async def submit(self, graph: Json, client: "Socket | None" = None, **more: Any) -> str:
        """POST a graph under an id of our own; the id."""
        prompt_id = more.pop("prompt_id", str(uuid.uuid4()))
        owner = {} if client is None else {"client_id": client.client_id}
        body = {"prompt": graph, **owner, "prompt_id": prompt_id, **more}
        await self.ask("POST", "/prompt", body=body)
        return prompt_id

    async def run(self, graph: Json, client: "Socket", **more: Any) -> str:
        """Submit a graph and wait for its end; the id."""
        prompt_id = await self.submit(graph, client, **more)
        await client.until_end_of(prompt_id)
        return prompt_id

    async def upload(self, content: bytes, name: str, *, path: str = "/upload/image", **form: str):
        """Upload and record; the answer."""
        return await self.ask("POST", path, data=multipart(content, name, form), headers=True)

    async def idle(self) -> None:
        """Wait, off the record, until nothing waits or runs."""
        socket = await self._session.ws_connect(f"{self.url}/ws")
        await Socket(socket, "", []).until_idle()
        await socket.close()

    async def prepare(self, *graphs: Json) -> None:
        """Run graphs off the record, so that the cache holds the last one's nodes and no more."""
        names = list(self.sockets)
        socket = await self.connect("preparation")
        http = len(self.http)
        for graph in graphs:
            await self.run(graph, socket)
        await socket.close()
        del self.http[http:], self.sockets["preparation"]
        assert list(self.sockets) == names

    async def close(self) -> None:
        for socket in self._open:
            await socket.close()
        await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    def transcript(self) -> Json:
        """The raw record."""
        return {"http": self.http, "sockets": self.sockets}


class Socket:
    """One recorded WebSocket. Reading happens only while somebody waits for a frame."""

    def __init__(
        self, raw: aiohttp.ClientWebSocketResponse, client_id: str, frames: list[Json]
    ) -> None:
        self.client_id = client_id
        self._raw = raw
        self._frames = frames

    async def until(self, wanted: Callable[[Json], bool]) -> Json:
        """Record frames up to the first wanted one, and return it."""
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                message = await self._raw.receive()
                if message.type is aiohttp.WSMsgType.BINARY:
                    frame = parse_frame(message.data)
                elif message.type is aiohttp.WSMsgType.TEXT:
                    frame = json.loads(message.data)
                elif message.type is aiohttp.WSMsgType.PONG:
                    frame = {"type": "pong"}
                else:
                    raise ConnectionError(f"The socket ended with {message!r}.")
                self._frames.append(frame)
                if wanted(frame):
                    return frame

    async def until_event(self, event: str, **data: Any) -> Json:
        """Record frames up to an event whose data has these values."""
        return await self.until(
            lambda frame: frame.get("type") == event and data.items() <= frame["data"].items()
        )

    async def until_end_of(self, prompt_id: str) -> Json:
        return await self.until_event("executing", node=None, prompt_id=prompt_id)

    async def until_idle(self) -> Json:
        """Record frames up to a status with an empty queue."""
        idle = {"exec_info": {"queue_remaining": 0}}
        return await self.until_event("status", status=idle)

    async def say(self, message: Json) -> None:
        """Send a text frame."""
        await self._raw.send_json(message)

    async def settle(self) -> None:
        """Record what was sent so far: a ping is answered behind everything before it."""
        await self._raw.ping()
        await self.until(lambda frame: frame["type"] == "pong")
        self._frames.pop()

    async def close(self) -> None:
        await self._raw.close()


def multipart(content: bytes, name: str, fields: dict[str, str]) -> aiohttp.FormData:
    """An upload form: the file as `image`, then the other fields."""
    form = aiohttp.FormData()
    form.add_field("image", content, filename=name, content_type="image/png")
    for key, value in fields.items():
        form.add_field(key, value)
    return form


def _decoded(content: bytes, content_type: str) -> Any:
    """JSON as such, a picture as its pixels' digest, text as text, the rest as in recordings."""
    if content_type == "application/json" and content:
        return json.loads(content)
    if content_type.startswith("image/") and content:
        return picture_digest(content)
    if content_type.startswith("text/"):
        return content.decode()
    return f"<{len(content)} bytes>"


def picture_digest(content: bytes) -> Json:
    """Format, size, mode and a digest of the pixels; the file's own bytes vary with zlib."""
    with Image.open(BytesIO(content)) as picture:
        shape = {"format": picture.format, "size": list(picture.size), "mode": picture.mode}
        exact = picture.format == "PNG"
        # Lossy encoders differ between versions; their pixels are not compared.
        return shape | ({"pixels": digest(picture.tobytes())} if exact else {})


def digest(content: bytes) -> str:
    """A short name for bytes."""
    return uuid.uuid5(uuid.NAMESPACE_OID, content.hex()).hex[:12]
