"""With RETRY_OUT_OF_MEMORY a client's prompt that ran out of memory runs once more under its id."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from prompts_front import Http, Json, get, instance_of, listening, post, until

from comfy_proxy.embedded.simulated_gpu import SimulatedModels
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.gateway.prompts import first_tries
from comfy_proxy.keys import CLUSTER, GATEWAY
from comfy_proxy.ledger.states import State

_seeds = itertools.count(1)
FIRST = ["execution_start", "execution_cached", "executing", "executing"]
AGAIN = [*FIRST[1:], "executing", "executed", "execution_success", "executing"]


def graph() -> Json:
    sampler = {"model": ["1", 0], "steps": 1, "width": 8, "height": 8, "batch_size": 1}
    return {
        "1": {"class_type": "SimulatedModelLoader", "inputs": {"ckpt_name": "a.safetensors"}},
        "2": {
            "class_type": "SimulatedSampler",
            "inputs": sampler | {"seed": next(_seeds), "seconds": 0.0},
        },
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }


class Pair:
    """Two workers, of which the first one is out of memory, and the proxy before them."""

    def __init__(self, workers: list[EmbeddedWorker], http: Http) -> None:
        self.first, self.second = workers
        self.http = http

    async def post(self, **fields: Any) -> str:
        """A prompt of which the first try is the first worker's."""
        return await post(self.http, graph(), **fields)

    async def history(self, prompt_id: str) -> Json | None:
        """Its entry, once it has one; the list has the same."""
        entry: Json = {}

        async def ask() -> bool:
            nonlocal entry
            one = await get(self.http, f"/history/{prompt_id}")
            listed = await get(self.http, "/history")
            entry = listed or one
            return bool(one)

        while not await ask():
            pass
        return entry.get(prompt_id)

    async def own_history(self, worker: EmbeddedWorker) -> Json:
        """What the instance itself has."""
        async with self.http.session.get(f"{worker.url}/history") as answer:
            return await answer.json()

    @property
    def live(self) -> int:
        return len(self.http.app[GATEWAY].ledger.live())


@pytest.fixture
async def start(
    tmp_path: Path, start_proxy: Callable[..., Awaitable[Http]]
) -> AsyncIterator[Callable[..., Awaitable[Pair]]]:
    """``await start(100, 100)`` → so many bytes of memory each."""
    async with AsyncExitStack() as stack:

        async def make(*sizes: int, **settings: Any) -> Pair:
            models = {"a.safetensors": 50}
            workers = [
                await stack.enter_async_context(
                    EmbeddedWorker(
                        base_directory=tmp_path / f"gpu{number}",
                        name=f"gpu{number}",
                        simulated_models=SimulatedModels(files=models, vram=size, load_s=0.0),
                    )
                )
                for number, size in enumerate(sizes)
            ]
            http = await start_proxy(*workers, **{"retry_out_of_memory": True, **settings})
            await until(lambda: all(one.vram_total for one in http.app[CLUSTER].instances))
            workers[0].faults.oom_until_free = True
            return Pair(workers, http)

        yield make


def errors(frames: list[Json]) -> list[Json]:
    return [one["data"] for one in frames if one["type"] == "execution_error"]


async def test_a_client_sees_one_start_and_one_end(
    start: Callable[..., Awaitable[Pair]],
) -> None:
    """Neither the error nor the end of the first try, nor the start of the second; the history has
    the second one alone."""
    pair = await start(100, 100)
    async with listening(pair.http) as client:
        prompt_id = await pair.post(client_id=client.client_id)
        await until(lambda: client.over(prompt_id))
        assert client.kinds(prompt_id) == [*FIRST, *AGAIN]
        entry = await pair.history(prompt_id)
        assert entry is not None
        assert entry["status"]["status_str"] == "success"
    assert not pair.first.faults.oom_until_free  # it was freed
    assert pair.first.started == [prompt_id, prompt_id]
    assert pair.second.started == []
    assert pair.live == 0
    assert client.sums()[-1] == 0


@pytest.mark.long
async def test_a_client_that_only_asks(start: Callable[..., Awaitable[Pair]]) -> None:
    """It is never shown the end of the first try, however often it asks."""
    pair = await start(100, 100)
    for _ in range(5):
        pair.first.faults.oom_until_free = pair.second.faults.oom_until_free = True
        prompt_id = await pair.post()
        entry = await pair.history(prompt_id)
        assert entry is not None
        assert entry["status"]["status_str"] == "success"
        assert (pair.first.started + pair.second.started).count(prompt_id) == 2
        await until(lambda: pair.live == 0)


async def test_where_there_is_more(start: Callable[..., Awaitable[Pair]]) -> None:
    """It goes on at the instance with more memory, and leaves nothing at the other."""
    pair = await start(100, 200)
    async with listening(pair.http) as client:
        prompt_id = await pair.post(client_id=client.client_id)
        await until(lambda: client.over(prompt_id))
        assert client.kinds(prompt_id) == [*FIRST, *AGAIN]
    assert pair.first.started == pair.second.started == [prompt_id]
    assert await pair.own_history(pair.first) == {}
    assert list(await get(pair.http, "/history")) == [prompt_id]


async def test_it_ends_when_memory_is_wanting_again(
    start: Callable[..., Awaitable[Pair]],
) -> None:
    """The client is told ComfyUI's own error once, and finds one entry with it."""
    pair = await start(100, 100)
    for worker in (pair.first, pair.second):
        worker.faults.oom_until_free = True
        worker.faults.answers = {"/free": "500"}
    async with listening(pair.http) as client:
        prompt_id = await pair.post(client_id=client.client_id)
        await until(lambda: client.over(prompt_id))
        kinds = client.kinds(prompt_id)
        assert kinds.count("execution_start") == 1
        assert kinds[-2:] == ["execution_error", "executing"]
        (error,) = errors(client.frames)
        assert error["exception_type"] == "torch.OutOfMemoryError"
        entry = await pair.history(prompt_id)
        assert entry is not None
        assert entry["status"]["status_str"] == "error"
    await until(lambda: pair.live == 0)
    histories = [await pair.own_history(one) for one in (pair.first, pair.second)]
    assert list(map(len, histories)) == [1, 0]


async def hung_with_a_first_try(pair: Pair, client_id: str) -> str:
    """The first worker answers checks and takes prompts, but does not let go of this one."""
    pair.first.faults.hang = ("/queue", "/history", "/free")
    prompt_id = await pair.post(client_id=client_id)
    ledger = pair.http.app[GATEWAY].ledger
    await until(lambda: ledger.find(prompt_id).state is State.MOVING)
    return prompt_id


async def test_an_instance_that_hangs_makes_no_second_try_at_another_one_wait(
    start: Callable[..., Awaitable[Pair]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it has to let go of the one that ran out of memory there."""
    monkeypatch.setattr(first_tries, "CLEAR_AWAY_S", 3600.0)
    pair = await start(100, 100)
    pair.second.faults.oom_until_free = True
    ledger = pair.http.app[GATEWAY].ledger
    async with listening(pair.http) as client:
        held = await hung_with_a_first_try(pair, client.client_id)
        # The next one goes elsewhere.
        instance_of(pair.http, pair.first).prompts.external_jobs += 5
        other = await pair.post(client_id=client.client_id)
        await until(lambda: ledger.find(other) is None)
        assert pair.second.started == [other, other]
        assert ledger.find(held).state is State.MOVING


async def test_an_instance_that_hangs_has_a_short_time_and_is_the_last_to_run_it_again(
    start: Callable[..., Awaitable[Pair]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_tries, "CLEAR_AWAY_S", 0.05)
    pair = await start(100, 100)
    async with listening(pair.http) as client:
        prompt_id = await hung_with_a_first_try(pair, client.client_id)
        await until(lambda: client.over(prompt_id))
        assert client.kinds(prompt_id) == [*FIRST, *AGAIN]
    await until(lambda: pair.live == 0)
    assert (pair.first.started, pair.second.started) == ([prompt_id], [prompt_id])


async def test_deleted_between_its_tries(start: Callable[..., Awaitable[Pair]]) -> None:
    """As any prompt that is on its way: it does not run again."""
    pair = await start(100, 100)
    pair.first.faults.hang = ("/free",)
    prompt_id = await pair.post()
    ledger = pair.http.app[GATEWAY].ledger
    await until(lambda: ledger.find(prompt_id).state is State.MOVING)
    queue = await get(pair.http, "/queue")
    assert [entry[1] for entry in queue["queue_pending"]] == [prompt_id]
    async with pair.http.post("/queue", json={"delete": [prompt_id]}) as answer:
        assert answer.status == 200
    pair.first.faults.hang = ()
    await until(lambda: pair.live == 0)
    assert pair.first.started + pair.second.started == [prompt_id]
    assert await get(pair.http, "/history") == {}


async def test_nothing_changes_by_default(start: Callable[..., Awaitable[Pair]]) -> None:
    """One try, and its error is the client's; what is loaded there is forgotten all the same."""
    pair = await start(100, 100, retry_out_of_memory=False)
    async with listening(pair.http) as client:
        prompt_id = await pair.post(client_id=client.client_id)
        await until(lambda: client.over(prompt_id))
        assert client.kinds(prompt_id) == [*FIRST, "execution_error", "executing"]
        entry = await pair.history(prompt_id)
        assert entry is not None
        assert entry["status"]["status_str"] == "error"
    assert pair.first.faults.oom_until_free
    assert pair.first.started == [prompt_id]
    planner = pair.http.app[CLUSTER].planner
    assert planner.lines[instance_of(pair.http, pair.first)].loaded.names() == []
