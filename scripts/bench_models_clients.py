"""The clients of bench-models: of an instance or the proxy, of the job API, and by hand."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import aiohttp
from bench_jobs import PICTURE
from bench_models_plan import Place, Planner
from bench_models_work import Costs, Scenario, graph, job_graph, next_seed

POLL_S = 0.1  # seconds between two looks of a silent client into the history of a prompt
FREE = {"unload_models": True, "free_memory": True}


class PromptClient:
    """One clientId at one server; a silent one opens no socket and polls the history."""

    def __init__(self, session: aiohttp.ClientSession, url: str, *, silent: bool = False) -> None:
        self.url = url
        self.heard: Counter[tuple[str, str]] = Counter()
        self.posted: list[str] = []
        self._session = session
        self._id = None if silent else uuid.uuid4().hex
        self._ends: dict[str, asyncio.Future[None]] = {}
        self._reader: asyncio.Task[None] | None = None

    async def open(self) -> None:
        if self._id is not None:
            url = f"{self.url}/ws?clientId={self._id}"
            self._reader = asyncio.create_task(
                self._read(await self._session.ws_connect(url, max_msg_size=0))
            )

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])

    async def _read(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        async for message in ws:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue
            frame = json.loads(message.data)
            if not frame["type"].startswith("execution_"):
                continue
            prompt_id = frame["data"]["prompt_id"]
            self.heard[frame["type"], prompt_id] += 1
            end = self._ends.get(prompt_id)
            if end is None or end.done():
                continue
            if frame["type"] == "execution_success":
                end.set_result(None)
            elif frame["type"] in ("execution_error", "execution_interrupted"):
                end.set_exception(RuntimeError(f"{prompt_id}: {frame}"))

    async def run(self, nodes: object) -> None:
        """Post a graph and wait for its end; RuntimeError if that is none of success."""
        prompt_id = str(uuid.uuid4())
        self._ends[prompt_id] = asyncio.get_running_loop().create_future()
        body = {"prompt": nodes, "prompt_id": prompt_id}
        body |= {} if self._id is None else {"client_id": self._id}
        async with self._session.post(f"{self.url}/prompt", json=body) as response:
            if response.status != 200:
                raise RuntimeError(await response.text())
        self.posted.append(prompt_id)
        await (self._poll(prompt_id) if self._id is None else self._ends[prompt_id])

    async def _poll(self, prompt_id: str) -> None:
        while True:
            async with self._session.get(f"{self.url}/history/{prompt_id}") as response:
                entry = (await response.json()).get(prompt_id)
            if entry is not None:
                if entry["status"]["status_str"] != "success":
                    raise RuntimeError(f"{prompt_id}: {entry['status']}")
                return
            await asyncio.sleep(POLL_S)

    async def upload(self) -> str:
        form = aiohttp.FormData()
        form.add_field("image", PICTURE, filename="bench.png")
        async with self._session.post(f"{self.url}/upload/image", data=form) as response:
            name: str = (await response.json())["name"]
        return name

    async def free(self) -> None:
        """Nothing is loaded afterwards."""
        async with self._session.post(f"{self.url}/free", json=FREE) as response:
            if response.status != 200:
                raise RuntimeError(await response.text())

    def not_once(self) -> list[str]:
        """Its prompts that did not begin and end once, by what it heard."""
        if self._id is None:
            return []
        kinds = ("execution_start", "execution_success")
        return [one for one in self.posted if [self.heard[kind, one] for kind in kinds] != [1, 1]]


class Way(Protocol):
    """A way for work to the instances."""

    estimates: list[tuple[float, float]]
    """What was told, and what was true: seconds to the result of a job from its acceptance."""

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def run(self, model: str) -> None:
        """One prompt, or one job, to its end."""

    async def free(self) -> None:
        """Unload everything, everywhere."""

    async def prompt_ids(self) -> list[str]:
        """Of all that was run. RuntimeError if one did not begin and end once."""


class ProxyPrompts:
    """Prompts posted blindly to the proxy."""

    def __init__(self, client: PromptClient, run_s: float) -> None:
        self.estimates: list[tuple[float, float]] = []
        self._client = client
        self._run_s = run_s
        self.open, self.close, self.free = client.open, client.close, client.free

    async def run(self, model: str) -> None:
        await self._client.run(graph(model, self._run_s))

    async def prompt_ids(self) -> list[str]:
        return ids_of([self._client])


class ProxyJobs:
    """Jobs of the proxy's own API, each waited for with one long request."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.estimates: list[tuple[float, float]] = []
        self._session = session
        self._url = url
        self._status_urls: list[str] = []
        self.free = PromptClient(session, url).free

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def run(self, model: str) -> None:
        form = aiohttp.FormData({"seed": str(next_seed())})
        form.add_field("imageFile", PICTURE, filename="p.png")
        async with self._session.post(f"{self._url}/api/workflows/{model}", data=form) as response:
            job = await response.json()
            if response.status != 202:
                raise RuntimeError(str(job))
        begun = time.perf_counter()
        async with self._session.get(f"{self._url}{job['result_url']}?wait=300") as response:
            body = await response.read()
            if response.status != 200:
                raise RuntimeError(body.decode())
        self._status_urls.append(job["status_url"])
        if job["estimated_completion_seconds"] is not None:
            true_s = time.perf_counter() - begun
            self.estimates.append((job["estimated_completion_seconds"], true_s))

    async def prompt_ids(self) -> list[str]:
        found = []
        for path in self._status_urls:
            async with self._session.get(f"{self._url}{path}") as response:
                job = await response.json()
            if job["attempts"] != 1:
                raise RuntimeError(f"run {job['attempts']} times: {job}")
            found.append(job["prompt_id"])
        return found


class ByHand:
    """A client that plans by hand: a socket at each instance, two prompts in flight there."""

    def __init__(self, clients: Sequence[PromptClient], scenario: Scenario, costs: Costs) -> None:
        self.estimates: list[tuple[float, float]] = []
        self._clients = clients
        self._costs = costs
        self._jobs = scenario.jobs
        self._places = [Place(speed=speed, fit=scenario.fit) for speed in scenario.speeds]
        self._planner = Planner(self._places, scenario.models, costs)
        self._waiting: list[tuple[str, asyncio.Future[Place]]] = []

    async def open(self) -> None:
        await asyncio.gather(*(client.open() for client in self._clients))

    async def close(self) -> None:
        await asyncio.gather(*(client.close() for client in self._clients))

    async def run(self, model: str) -> None:
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[Place] = loop.create_future()
        self._waiting.append((model, turn))
        loop.call_soon(self._send)  # after all that have come at the same moment
        place = await turn
        client = self._clients[self._places.index(place)]
        if self._jobs:
            nodes = job_graph(model, self._costs.run_s, await client.upload())
        else:
            nodes = graph(model, self._costs.run_s)
        await client.run(nodes)
        place.ended(time.perf_counter())
        self._send()

    def _send(self) -> None:
        counts = Counter(model for model, _ in self._waiting)
        for place, model in self._planner.next(counts, time.perf_counter()):
            number = next(at for at, (one, _) in enumerate(self._waiting) if one == model)
            _, turn = self._waiting.pop(number)
            with contextlib.suppress(asyncio.InvalidStateError):
                turn.set_result(place)

    async def free(self) -> None:
        await asyncio.gather(*(client.free() for client in self._clients))
        for place in self._places:
            place.empty()

    async def prompt_ids(self) -> list[str]:
        return ids_of(self._clients)


def ids_of(clients: Sequence[PromptClient]) -> list[str]:
    if not_once := [one for client in clients for one in client.not_once()]:
        raise RuntimeError(f"did not begin and end once: {not_once}")
    return [one for client in clients for one in client.posted]
