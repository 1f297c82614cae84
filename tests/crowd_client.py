"""A client that knows only what it is told: uploads, prompts, events, results by their names."""

from __future__ import annotations

import asyncio
import io
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestClient
from PIL import Image

Http = TestClient[web.Request, web.Application]
Json = dict[str, Any]
Colour = tuple[int, int, int]

PATIENCE_S = 120.0
"""Nothing takes that long unless something is lost."""
PREFIX = "same"
UPLOAD_NAME = "picture.png"
EVENTS = [
    ("execution_start", None),
    ("execution_cached", None),
    ("executing", "1"),
    ("executing", "2"),
    ("progress", "2"),
    ("executing", "3"),
    ("executed", "3"),
    ("execution_success", None),
    ("executing", None),
]
"""What a client hears of each of its prompts, and at which node; ``progress_state`` left out."""


class Client:
    """One of them. ``pictures`` and ``graphs`` are by prompt id, the colours by what was sent."""

    def __init__(self, http: Http, number: int) -> None:
        self.http = http
        self.number = number
        self.id = uuid.uuid4().hex
        self.frames: list[Json] = []
        self.graphs: dict[str, Json] = {}
        self.colours: dict[str, Colour] = {}
        self.upload_name = ""
        self._over: dict[str, asyncio.Event] = {}

    # --- what it does -----------------------------------------------------------------------

    @asynccontextmanager
    async def connected(self, http: Http | None = None) -> AsyncIterator[None]:
        """Its socket is open and read inside the block; at another proxy if one is given."""
        self.http = http or self.http
        socket = await self.http.ws_connect(f"/ws?clientId={self.id}", max_msg_size=0)
        reader = asyncio.create_task(self._read(socket))
        try:
            yield
        finally:
            await socket.close()
            await reader

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            assert message.type is aiohttp.WSMsgType.TEXT, message
            frame = json.loads(message.data)
            self.frames.append(frame)
            data = frame["data"]
            if frame["type"] == "executing" and data["node"] is None:
                self._over.setdefault(data["prompt_id"], asyncio.Event()).set()

    async def upload(self) -> None:
        """Its own picture under everybody's name; ``upload_name`` is what it was told."""
        form = aiohttp.FormData()
        content = png(self.colour(0))
        form.add_field("image", content, filename=UPLOAD_NAME, content_type="image/png")
        async with self.http.post("/upload/image", data=form) as answer:
            assert answer.status == 200, await answer.text()
            told = await answer.json()
        assert (told["subfolder"], told["type"]) == ("", "input")
        self.upload_name = told["name"]

    async def submit(self, source: Json, colour: Colour, seconds: float = 0.0) -> str:
        """Have the picture of ``source`` saved; the prompt's id."""
        graph = {
            "1": source,
            "2": node("TimedPass", image=["1", 0], seconds=seconds, salt=uuid.uuid4().int % 2**53),
            "3": node("SaveImage", images=["2", 0], filename_prefix=PREFIX),
        }
        body = {"prompt": graph, "client_id": self.id}
        async with self.http.post("/prompt", json=body) as answer:
            assert answer.status == 200, await answer.text()
            prompt_id = str((await answer.json())["prompt_id"])
        self.graphs[prompt_id] = graph
        self.colours[prompt_id] = colour
        self._over.setdefault(prompt_id, asyncio.Event())
        return prompt_id

    async def submit_upload(self, seconds: float = 0.0) -> str:
        return await self.submit(load(self.upload_name), self.colour(0), seconds)

    async def submit_colour(self, shade: int, seconds: float = 0.0) -> str:
        colour = self.colour(shade)
        number = int.from_bytes(bytes(colour), "big")
        source = node("EmptyImage", width=8, height=8, batch_size=1, color=number)
        return await self.submit(source, colour, seconds)

    async def submit_result(self, earlier: str, picture: Json, seconds: float = 0.0) -> str:
        """Take the picture of an earlier prompt as the input, by the name that was told."""
        return await self.submit(load(annotated(picture)), self.colours[earlier], seconds)

    async def over(self, prompt_id: str) -> None:
        """Return when its end was heard."""
        async with asyncio.timeout(PATIENCE_S):
            await self._over[prompt_id].wait()

    async def in_history(self, prompt_id: str) -> Json:
        """Wait for the entry by asking, as clients without a socket do."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                async with self.http.get(f"/history/{prompt_id}") as answer:
                    entries = await answer.json()
                if prompt_id in entries:
                    return dict(entries[prompt_id])
                await asyncio.sleep(0.02)

    # --- what it was told -------------------------------------------------------------------

    def colour(self, shade: int) -> Colour:
        """One that nobody else has, and that rounding does not take for another one."""
        return 6 * self.number, 20 + 40 * shade, 255 - 6 * self.number

    def events(self, prompt_id: str) -> list[tuple[str, str | None]]:
        return [
            (frame["type"], frame["data"].get("node"))
            for frame in self.frames
            if frame["data"].get("prompt_id") == prompt_id and frame["type"] != "progress_state"
        ]

    def executed(self, prompt_id: str) -> Json:
        """The picture that the socket told of."""
        (output,) = [
            frame["data"]["output"]
            for frame in self.frames
            if frame["type"] == "executed" and frame["data"]["prompt_id"] == prompt_id
        ]
        (picture,) = output["images"]
        return dict(picture)

    async def recorded(self, prompt_id: str) -> Json:
        """The picture that the history tells of."""
        entry = await self.in_history(prompt_id)
        assert entry["status"]["status_str"] == "success"
        assert entry["prompt"][2] == self.graphs[prompt_id]
        (picture,) = entry["outputs"]["3"]["images"]
        return dict(picture)

    # --- what must be true ------------------------------------------------------------------

    def check_events(self) -> None:
        """Those of its own prompts, each complete, in order and once; nobody else's."""
        for prompt_id in self.graphs:
            self.check_events_of(prompt_id)
        named = {frame["data"].get("prompt_id") for frame in self.frames}
        assert named - {None} == set(self.graphs)

    def check_events_of(self, prompt_id: str) -> None:
        """Complete, in order, none twice; of nodes served from a cache there are none."""
        frames = [f for f in self.frames if f["data"].get("prompt_id") == prompt_id]
        cached = [f["data"]["nodes"] for f in frames if f["type"] == "execution_cached"]
        assert cached in ([[]], [["1"]]), self.events(prompt_id)
        expected = [event for event in EVENTS if event[1] not in cached[0]]
        assert self.events(prompt_id) == expected, (self.number, prompt_id)

    async def check_bytes(self, prompt_id: str, picture: Json) -> None:
        """``/view`` gives the file that this very prompt has made."""
        async with self.http.get("/view", params=picture) as answer:
            content = await answer.read()
            assert answer.status == 200, content
        with Image.open(io.BytesIO(content)) as file:
            found = file.convert("RGB").getpixel((0, 0))
            made_by = inputs(json.loads(file.info["prompt"]))
        assert made_by == inputs(self.graphs[prompt_id]), (picture, made_by)
        expected = self.colours[prompt_id]
        assert all(abs(a - b) <= 1 for a, b in zip(found, expected, strict=True)), (found, expected)


def node(class_type: str, **inputs: Any) -> Json:
    return {"class_type": class_type, "inputs": inputs}


def load(name: str) -> Json:
    return node("LoadImage", image=name)


def annotated(picture: Json) -> str:
    """How a graph names a picture that a client was told of."""
    name = "/".join(filter(None, (picture["subfolder"], picture["filename"])))
    return f"{name} [{picture['type']}]"


def inputs(graph: Json) -> Json:
    """A graph without what ComfyUI adds to its nodes as it runs them."""
    return {node_id: (node["class_type"], node["inputs"]) for node_id, node in graph.items()}


def png(colour: Colour) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()
