"""Clients of ComfyUI's own routes: with a socket, as its frontend is, or polling."""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from typing import Any
from urllib.parse import urlencode

import aiohttp
from chaos_http import Http
from chaos_records import Records, Refusal, Work, clock, fault_of, png

MOST_OPEN = 2  # prompts of one client at a time
UPLOADERS = ("1", "2")  # last digits of the clients that upload an input for half of their prompts
POLL_S = 0.5
LOOKS_S = (0.0, 0.5, 2.0, 6.0, 15.0)  # after a success, when its entry in the history is looked at
ENDS = ("execution_success", "execution_error", "execution_interrupted")


def graph_of(colour: int, seconds: float, upload: str) -> dict[str, Any]:
    """Saves a picture of that colour after ``seconds``: the one that was uploaded as ``upload``, or
    an empty one if that is ""."""
    size = {"width": 16, "height": 16, "batch_size": 1}
    source = {"class_type": "EmptyImage", "inputs": {**size, "color": colour}}
    if upload:
        source = {"class_type": "LoadImage", "inputs": {"image": upload}}
    timed = {"image": ["1", 0], "seconds": seconds, "salt": colour}
    return {
        "1": source,
        "2": {"class_type": "TimedPass", "inputs": timed},
        "3": {
            "class_type": "SaveImage",
            "inputs": {"images": ["2", 0], "filename_prefix": "chaos"},
        },
    }


class Client:
    """What both kinds do: post prompts until ``stopping``, look at history and picture."""

    polls = False

    def __init__(self, http: Http, records: Records, name: str, seed: int) -> None:
        self.http = http
        self.records = records
        self.name = name
        self.dice = random.Random(f"{seed} {name}")
        self.client_id = uuid.UUID(int=self.dice.getrandbits(128)).hex
        self.works: list[Work] = []
        self.looking: set[asyncio.Task[None]] = set()
        self.stopping = False

    def open_works(self) -> list[Work]:
        return [work for work in self.works if work.accepted and work.ended is None]

    async def post_all(self) -> None:
        """Prompts until the run ends, never more than MOST_OPEN at once."""
        while not self.stopping:
            if len(self.open_works()) < MOST_OPEN:
                await self.post()
            await asyncio.sleep(self.dice.uniform(0.1, 1.2))

    async def post(self) -> None:
        colour = self.records.new_colour()
        work = Work("prompt", self.name, colour, time.time(), polled=self.polls)
        picture = ""
        if self.name.endswith(UPLOADERS) and self.dice.random() < 0.5:
            picture, work.uploaded = f"in-{colour}.png", time.time()
            if not await self.upload(picture, colour):
                return
        graph = graph_of(colour, round(self.dice.uniform(0.1, 1.5), 2), picture)
        body: dict[str, Any] = {"prompt": graph, "client_id": self.client_id}
        if self.polls:
            body["prompt_id"] = work.id = str(uuid.UUID(int=self.dice.getrandbits(128), version=4))
        status, answer = await self.http.ask_json("POST", "/prompt", json=body)
        self.records.works.append(work)
        if status == 200 and isinstance(answer, dict) and "prompt_id" in answer:
            work.id = answer["prompt_id"]
            work.accepted = time.time()
            self.works.append(work)
        else:
            self.refused("prompt", f"{status} {answer} {work.id}")

    async def upload(self, name: str, colour: int, **fields: str) -> bool:
        """Whether it was taken."""
        form = aiohttp.FormData(fields)
        form.add_field("image", png(colour), filename=name, content_type="image/png")
        begun = time.time()
        status, answer = await self.http.ask_json("POST", "/upload/image", data=form)
        self.records.uploads += 1
        if status != 200:
            took = time.time() - begun
            self.refused("upload", f"{name} after {took:.1f} s: {status} {answer}")
        return status == 200

    def refused(self, what: str, why: str) -> None:
        text = f"{what} of {self.name}"
        self.records.refusals.append(Refusal(time.time(), text, why[:300]))

    def strange(self, text: str) -> None:
        self.records.strange.append(f"{clock(time.time())} {self.name}: {text}"[:300])

    async def history(self, prompt_id: str) -> dict[str, Any] | None:
        """The entry; empty if it has none, None if that was not answered."""
        status, answer = await self.http.ask_json("GET", f"/history/{prompt_id}")
        if status != 200 or not isinstance(answer, dict):
            self.strange(f"/history/{prompt_id}: {status} {answer}")
            return None
        entry: dict[str, Any] = answer.get(prompt_id, {})
        return entry

    def follow(self, work: Work) -> None:
        """Look at it again and again after its success, as a gallery does."""
        task = asyncio.create_task(self._look(work))
        self.looking.add(task)
        task.add_done_callback(self.looking.discard)

    async def _look(self, work: Work) -> None:
        begun = time.monotonic()
        for after in LOOKS_S:
            await asyncio.sleep(max(0.0, begun + after - time.monotonic()))
            await self.look_once(work, f"{after:g} s after")

    async def look_once(self, work: Work, when: str) -> None:
        entry = await self.history(work.id)
        if entry == {} or (entry and _is_lost(entry)):
            work.gone.append((time.time(), when))
        elif entry and not work.image:
            if entry["status"]["status_str"] != "success":
                work.wrong = f"told as a success, history says {entry['status']['status_str']}"
            images = entry.get("outputs", {}).get("3", {}).get("images", [])
            if len(images) == 1:
                work.image = images[0]
            else:
                work.wrong = f"outputs {entry.get('outputs')}"
        if work.image and not work.picture_seen:
            await self._picture(work)

    async def _picture(self, work: Work) -> None:
        status, data = await self.http.ask("GET", f"/view?{urlencode(work.image)}")
        if status == 200:
            work.picture_seen = True
            work.wrong = work.wrong or fault_of(data, work.colour)
        else:
            self.strange(f"picture of {work.id}: {status} {data[:120]!r}")


def _is_lost(entry: dict[str, Any]) -> bool:
    """Whether it says that the results of a success are gone, and nothing else."""
    messages = entry["status"]["messages"]
    return any(data.get("exception_type") == "ResultsLostError" for _, data in messages)


class PollingClient(Client):
    """Knows of its prompts what /history/{id} and /queue say."""

    polls = True

    async def run(self) -> None:
        """Until it is cancelled."""
        posting = asyncio.create_task(self.post_all())
        try:
            while True:
                for work in self.open_works():
                    await self._poll(work)
                await asyncio.sleep(POLL_S)
        finally:
            posting.cancel()

    async def _poll(self, work: Work) -> None:
        entry = await self.history(work.id)
        if entry:
            self._end(work, entry)
        elif entry == {} and await self._is_queued(work.id) is False:
            # It may have ended between the two questions.
            if again := await self.history(work.id):
                self._end(work, again)
            elif again == {}:
                work.unseen += 1

    def _end(self, work: Work, entry: dict[str, Any]) -> None:
        work.ended = time.time()
        if entry["status"]["status_str"] == "success":
            self.follow(work)
        else:
            work.failure = str(entry["status"]["messages"][-1:])[:300]

    async def _is_queued(self, prompt_id: str) -> bool | None:
        status, queue = await self.http.ask_json("GET", "/queue")
        if status != 200 or not isinstance(queue, dict):
            self.strange(f"/queue: {status} {queue}")
            return None
        rows = [*queue["queue_running"], *queue["queue_pending"]]
        return any(row[1] == prompt_id for row in rows)


class SocketClient(Client):
    """Hears of its prompts' ends on its socket, and opens that again if it closes."""

    def __init__(self, http: Http, records: Records, name: str, seed: int) -> None:
        super().__init__(http, records, name, seed)
        self.heard: dict[str, list[tuple[float, str, str]]] = {}

    async def run(self) -> None:
        """Until it is cancelled."""
        posting: asyncio.Task[None] | None = None
        try:
            while True:
                url = f"{self.http.url}/ws?clientId={self.client_id}"
                try:
                    async with self.http.session.ws_connect(url, max_msg_size=0) as socket:
                        posting = posting or asyncio.create_task(self.post_all())
                        await self._read(socket)
                    self.strange(f"its socket was closed with {socket.close_code}")
                except aiohttp.ClientError as error:
                    self.strange(f"its socket: {type(error).__name__} {error}")
                await asyncio.sleep(0.3)
        finally:
            if posting is not None:
                posting.cancel()

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        features = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
        await socket.send_json(features)
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                frame = json.loads(message.data)
                if frame["type"] in ENDS:
                    data = frame["data"]
                    why = str(data.get("exception_message", ""))
                    heard = self.heard.setdefault(data["prompt_id"], [])
                    heard.append((time.time(), frame["type"], why))
                self._match()

    async def post(self) -> None:
        await super().post()
        self._match()  # an end may come before the answer

    def _match(self) -> None:
        """Book the ends that were heard on the prompts whose ids are known by now."""
        for work in self.works:
            heard = self.heard.get(work.id, [])
            for at, kind, why in heard[len(work.told) :]:
                work.told.append((at, kind))
                if work.ended is None:
                    work.ended = at
                    work.failure = "" if kind == "execution_success" else f"{kind}: {why}"
                    if not work.failure:
                        self.follow(work)

    def strangers(self) -> list[tuple[str, str]]:
        own = {work.id for work in self.works}
        return [(self.name, prompt_id) for prompt_id in self.heard if prompt_id not in own]
