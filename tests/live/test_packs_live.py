"""Node packs that keep what they know behind routes of their own, on two real servers."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from PIL import Image
from served_proxy import served
from test_failover import kill, start

Json = dict[str, Any]
PATIENCE_S = 60.0
PROMPTS = 20
_salts = itertools.count(uuid.uuid4().int % 2**40)


def tile(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (number * 12, 255 - number * 12, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def color_of(picture: bytes) -> tuple[int, ...]:
    pixel = Image.open(io.BytesIO(picture)).convert("RGB").getpixel((3, 3))
    assert isinstance(pixel, tuple)
    return pixel


def colored(number: int) -> Json:
    color = {"width": 16, "height": 16, "batch_size": 1, "color": number}
    return {"class_type": "EmptyImage", "inputs": color}


def shown(source: str) -> Json:
    return {"class_type": "PreviewImage", "inputs": {"images": [source, 0]}}


def loading(key: str) -> Json:
    """The picture of that id, after a moment in which the other instance is free."""
    return {
        "1": {"class_type": "PackLoad", "inputs": {"id": key, "salt": next(_salts)}},
        "2": {
            "class_type": "TimedPass",
            "inputs": {"image": ["1", 0], "seconds": 0.2, "salt": next(_salts)},
        },
        "3": shown("2"),
    }


def waiting(class_type: str, number: int) -> Json:
    inputs = {"image": ["1", 0], "salt": next(_salts)}
    return {
        "1": colored(number),
        "7": {"class_type": class_type, "inputs": inputs},
        "3": shown("7"),
    }


class Person:
    """A client with a socket; ``agent`` is the program that it uses."""

    def __init__(self, base: str, agent: str) -> None:
        self.id = uuid.uuid4().hex
        self.http = aiohttp.ClientSession(base, headers={"User-Agent": agent})
        self.frames: asyncio.Queue[Json] = asyncio.Queue()
        self._reading: asyncio.Task[None] | None = None

    async def listen(self) -> None:
        ws = await self.http.ws_connect(f"/ws?clientId={self.id}", max_msg_size=0)
        self._reading = asyncio.create_task(self._read(ws))
        await self.until("status")

    async def _read(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        async for message in ws:
            if message.type is aiohttp.WSMsgType.TEXT:
                self.frames.put_nowait(json.loads(message.data))

    async def until(self, *kinds: str) -> Json:
        while True:
            frame = await self.frames.get()
            if frame["type"] in kinds:
                return frame

    async def post(self, graph: Json) -> str:
        body = {"prompt": graph, "client_id": self.id}
        async with self.http.post("/prompt", json=body) as answer:
            assert answer.status == 200, await answer.text()
            return str((await answer.json())["prompt_id"])

    async def ended(self, prompt_id: str) -> Json:
        """Its entry of the history, once it has one."""
        while True:
            async with self.http.get(f"/history/{prompt_id}") as answer:
                if entry := (await answer.json()).get(prompt_id):
                    return dict(entry)
            await asyncio.sleep(0.05)

    async def picture(self, entry: Json) -> bytes:
        assert entry["status"]["status_str"] == "success", entry["status"]
        async with self.http.get("/view", params=entry["outputs"]["3"]["images"][0]) as answer:
            assert answer.status == 200
            return await answer.read()

    async def answer(self, path: str, **body: Any) -> tuple[int, Json]:
        async with self.http.post(path, json=body) as answer:
            return answer.status, await answer.json()

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        await self.http.close()


@pytest.fixture
async def proxy(live_urls: tuple[str, str]) -> AsyncIterator[str]:
    async with served(*live_urls) as running:
        yield running.url


@asynccontextmanager
async def people(base: str, *agents: str) -> AsyncIterator[list[Person]]:
    """Each listens; what takes longer than ``PATIENCE_S`` has failed."""
    made = [Person(base, agent) for agent in agents]
    try:
        async with asyncio.timeout(PATIENCE_S):
            for one in made:
                await one.listen()
            yield made
    finally:
        for one in made:
            await one.close()


def where(entry: Json) -> str:
    """The mark of the instance in the name of its picture."""
    return str(entry["outputs"]["3"]["images"][0]["subfolder"])


async def put(person: Person, key: str, content: bytes) -> None:
    async with person.http.put(f"/proxy-test/memory/{key}", data=content) as answer:
        assert answer.status == 201


async def post_form(person: Person, key: str, content: bytes) -> None:
    form = aiohttp.FormData({"id": key})
    form.add_field("picture", content, filename="p.png")
    async with person.http.post("/proxy-test/memory", data=form) as answer:
        assert answer.status == 200


async def run_all(person: Person, keys: list[str]) -> Counter[str]:
    """A prompt for each id, all right; how many ran where."""
    ids = [await person.post(loading(key)) for key in keys]
    entries = [await person.ended(one) for one in ids]
    for number, entry in enumerate(entries):
        assert color_of(await person.picture(entry)) == color_of(tile(number % PROMPTS))
    return Counter(map(where, entries))


@pytest.mark.parametrize("send", [put, post_form])
async def test_pictures_in_memory(proxy: str, send: Callable[..., Any]) -> None:
    """Put to all they are found on both instances; posted to one, there."""
    async with people(proxy, "krita") as (person,):
        keys = [f"layer-{uuid.uuid4()}" for _ in range(PROMPTS)]
        for number, key in enumerate(keys):
            await send(person, key, tile(number))
        ran = await run_all(person, keys)
        assert len(ran) == (2 if send is put else 1)
        for number, key in enumerate(keys):
            async with person.http.get(f"/proxy-test/memory/{key}") as answer:
                assert await answer.read() == tile(number)


async def test_pictures_that_came_while_one_was_away(
    proxy: str, live_urls: tuple[str, str], live_directories: tuple[Path, Path]
) -> None:
    """Their prompts run where they are, also when the other one is back."""
    async with people(proxy, "krita") as (person,):
        kill(str(live_directories[0]))
        try:
            await until_healthy(proxy, 1)
            keys = [f"layer-{uuid.uuid4()}" for _ in range(PROMPTS)]
            for number, key in enumerate(keys):
                await (put if number % 2 else post_form)(person, key, tile(number))
        finally:
            start(str(live_directories[0]))
            await until_answers(live_urls[0])
        await until_healthy(proxy, 2)
        assert await run_all(person, keys) == {"@2": PROMPTS}


async def until_healthy(proxy: str, count: int) -> None:
    async with aiohttp.ClientSession(proxy) as http:
        while True:
            async with http.get("/health") as answer:
                if (await answer.json())["comfyui_instances"]["healthy"] == count:
                    return
            async with http.get("/queue"):  # whoever is asked for is looked at
                pass
            await asyncio.sleep(0.1)


async def until_answers(url: str) -> None:
    async with aiohttp.ClientSession() as http:
        while True:
            try:
                async with http.get(f"{url}/system_stats"):
                    return
            except aiohttp.ClientError:
                await asyncio.sleep(0.2)


async def test_two_choosers_of_the_same_node_id_at_once(proxy: str) -> None:
    """Each reply wakes the node of its own client."""
    async with people(proxy, "firefox", "chrome") as (one, two):
        ids = [await one.post(waiting("PackChoose", 1)), await two.post(waiting("PackChoose", 2))]
        for person in (one, two):
            assert (await person.until("proxy-test-waits"))["data"] == {"node": "7"}
        assert await one.answer("/proxy-test/choose", node="7") == (200, {"woken": True})
        first = await one.ended(ids[0])
        async with two.http.get(f"/history/{ids[1]}") as answer:
            assert await answer.json() == {}
        assert await two.answer("/proxy-test/choose", node="7") == (200, {"woken": True})
        assert {where(first), where(await two.ended(ids[1]))} == {"@1", "@2"}


async def test_a_reply_that_could_be_anybodys_is_refused(proxy: str) -> None:
    """Two clients that say the same of themselves, and a node id that both have."""
    async with people(proxy, "firefox", "firefox") as (one, two):
        ids = [await one.post(waiting("PackChoose", 1)), await two.post(waiting("PackChoose", 2))]
        for person in (one, two):
            await person.until("proxy-test-waits")
        status, error = await one.answer("/proxy-test/choose", node="7")
        assert (status, error["code"]) == (409, "ambiguous_request")
        assert "1 and 2" in error["error"]
        for person, prompt_id in zip((one, two), ids, strict=True):
            assert await person.answer("/proxy-test/choose", node="7", client_id=person.id) == (
                200,
                {"woken": True},
            )
            await person.ended(prompt_id)


async def test_pauses_that_name_nothing(proxy: str) -> None:
    """Whoever runs a prompt of this client is meant."""
    async with people(proxy, "firefox", "chrome") as (one, two):
        ids = [await one.post(waiting("PackPause", 1)), await two.post(waiting("PackPause", 2))]
        for person in (one, two):
            await person.until("proxy-test-waits")
        assert await two.answer("/proxy-test/continue") == (200, {"woken": True})
        await two.ended(ids[1])
        assert await one.answer("/proxy-test/continue") == (200, {"woken": True})
        await one.ended(ids[0])


async def test_files_of_both_instances(proxy: str) -> None:
    """Shown by a route of the pack, named in JSON, deleted by name: at the one that made them."""
    async with people(proxy, "firefox") as (person,):
        ids = []
        for number in range(PROMPTS):
            clip = {"class_type": "PackClip", "inputs": {"image": ["2", 0]}}
            timed = {"image": ["1", 0], "seconds": 0.2, "salt": next(_salts)}
            graph = {"1": colored(number), "2": {"class_type": "TimedPass", "inputs": timed}}
            ids.append(await person.post({**graph, "3": clip}))
        files = [(await person.ended(one))["outputs"]["3"]["gifs"][0] for one in ids]
        assert {one["subfolder"] for one in files} == {"@1/clip", "@2/clip"}
        for number, file in enumerate(files):
            async with person.http.get("/proxy-test/clip", params=file) as answer:
                body = await answer.read()
                assert answer.status == 200
            assert color_of(body)[2] == number
            assert await person.answer("/proxy-test/size", file=file) == (200, {"size": len(body)})
            async with person.http.get(
                "/proxy-test/clip", params=file, headers={"Range": "bytes=0-1"}
            ) as answer:
                assert (answer.status, await answer.read()) == (206, body[:2])
            async with person.http.delete("/proxy-test/clip", params=file) as answer:
                assert answer.status == 200
            async with person.http.get("/view", params=file) as answer:
                assert answer.status == 404


async def test_a_get_that_changes_something_is_done_once(
    proxy: str, live_urls: tuple[str, str]
) -> None:
    async def counted(base: str) -> int:
        async with (
            aiohttp.ClientSession(base) as http,
            http.get("/proxy-test/count") as answer,
        ):
            return int((await answer.json())["count"])

    before = [await counted(url) for url in live_urls]
    assert await counted(proxy) == before[0] + 1
    assert [await counted(url) for url in live_urls] == [before[0] + 2, before[1] + 1]


async def test_a_socket_of_a_pack_stays_at_one_instance(proxy: str) -> None:
    async with (
        aiohttp.ClientSession(proxy) as http,
        http.ws_connect("/proxy-test/socket") as ws,
    ):
        for number in range(PROMPTS):
            await ws.send_str(str(number))
            assert await ws.receive_str() == str(number)
