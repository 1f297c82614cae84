"""A client for the tests of the worker, and a graph that takes its time."""

import asyncio
import json
import uuid
from typing import Any

import aiohttp

TIMEOUT_S = 30.0
Json = dict[str, Any]


class Client:
    """One clientId at one server: a socket that was there first, and HTTP beside it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client_id = uuid.uuid4().hex
        self.session = aiohttp.ClientSession(url)
        self.socket: aiohttp.ClientWebSocketResponse

    async def connect(self) -> "Client":
        """Open the socket and read its greeting."""
        path = f"/ws?clientId={self.client_id}"
        self.socket = await self.session.ws_connect(path, max_msg_size=0)
        await self.event("status")
        return self

    async def submit(self, graph: Json) -> str:
        """POST a graph; the id it was given."""
        body = {"prompt": graph, "client_id": self.client_id}
        async with self.session.post("/prompt", json=body) as answer:
            accepted = await answer.json()
        return accepted["prompt_id"]

    async def event(self, kind: str, **data: object) -> Json:
        """Read up to the first event of that kind with these values; its data."""
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                message = await self.socket.receive()
                if message.type is aiohttp.WSMsgType.TEXT:
                    event = json.loads(message.data)
                    if event["type"] == kind and data.items() <= event["data"].items():
                        return event["data"]
                elif message.type is not aiohttp.WSMsgType.BINARY:
                    raise ConnectionError(f"{message.type.name} {self.socket.close_code}")

    async def run(self, graph: Json) -> Json:
        """Run a graph to its end; its history entry."""
        prompt_id = await self.submit(graph)
        await self.event("executing", node=None, prompt_id=prompt_id)
        return (await self.get(f"/history/{prompt_id}"))[prompt_id]

    async def get(self, path: str) -> Any:
        """The JSON at a path."""
        async with self.session.get(path) as answer:
            return await answer.json()

    async def read(self, picture: Json) -> bytes:
        """The bytes of a picture that an output names."""
        async with self.session.get("/view", params=picture) as answer:
            answer.raise_for_status()
            return await answer.read()

    async def upload(self, content: bytes, name: str, **fields: str) -> int:
        """Upload a picture; the status."""
        form = aiohttp.FormData({**fields})
        form.add_field("image", content, filename=name)
        async with self.session.post("/upload/image", data=form) as answer:
            return answer.status

    async def close(self) -> None:
        """Close the socket and every connection."""
        await self.session.close()


def timed(seconds: float, salt: int = 0) -> Json:
    """A graph that takes that long and shows a picture in the end."""
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 1},
        },
        "2": {
            "class_type": "TimedPass",
            "inputs": {"image": ["1", 0], "seconds": seconds, "salt": salt},
        },
        "3": {
            "class_type": "SaveImage",
            "inputs": {"images": ["2", 0], "filename_prefix": "timed"},
        },
    }
