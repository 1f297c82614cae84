"""``POST /prompt`` through the proxy: who runs it, what the client is told, what the worker got."""

from __future__ import annotations

import asyncio
import gzip
import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestClient, TestServer
from prompts_front import (
    COMPLETE,
    ended,
    get,
    graph,
    instance_of,
    listening,
    png,
    post,
    recover,
    until,
    upload,
)

from comfy_proxy.cluster.instance import Instance
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import CLUSTER, GATEWAY

Workers = tuple[EmbeddedWorker, EmbeddedWorker]
Start = Callable[..., Any]
JSON = {"Content-Type": "application/json"}


async def both(http: Any, workers: Workers, body: bytes) -> list[tuple[Any, ...]]:
    """Status, type and bytes of the answer through the proxy and of a direct one."""
    answers: list[tuple[Any, ...]] = []
    async with http.post("/prompt", data=body, headers=JSON) as answer:
        answers.append((answer.status, answer.headers["Content-Type"], await answer.read()))
    async with (
        ClientSession() as session,
        session.post(f"{workers[0].url}/prompt", data=body, headers=JSON) as answer,
    ):
        answers.append((answer.status, answer.headers["Content-Type"], await answer.read()))
    return answers


class Recorder:
    """An instance that takes every prompt and keeps what came."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.requests: list[web.Request] = []
        self.statuses: list[int] = []
        self.received = asyncio.Event()
        self.hold = asyncio.Event()
        self.hold.set()

    def app(self) -> web.Application:
        app = web.Application(client_max_size=0)
        app.router.add_post("/{path:(api/)?prompt}", self.prompt)
        app.router.add_get("/queue", self.queue)
        app.router.add_get("/history/{id}", self.history)
        app.router.add_get("/system_stats", self.stats)
        return app

    async def stats(self, request: web.Request) -> web.Response:
        return web.json_response({"system": {}})

    async def history(self, request: web.Request) -> web.Response:
        return web.json_response({})

    async def queue(self, request: web.Request) -> web.Response:
        return web.json_response({"queue_running": [], "queue_pending": []})

    async def prompt(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.read())
        self.requests.append(request)
        self.received.set()
        await self.hold.wait()
        if self.statuses:
            return web.Response(status=self.statuses.pop(0), text="no")
        prompt_id = json.loads(self.bodies[-1])["prompt_id"]
        return web.json_response({"prompt_id": prompt_id, "number": 1, "node_errors": {}})


@pytest.fixture
async def recorders(start_proxy: Start) -> Any:
    """Two recording instances and a proxy in front of them."""
    pair = (Recorder(), Recorder())
    servers = [TestServer(one.app()) for one in pair]
    for server in servers:
        await server.start_server()
    http = await start_proxy(*(str(server.make_url("")).rstrip("/") for server in servers))
    yield http, pair
    await http.close()
    for server in servers:
        await server.close()


async def test_prompts_of_one_client_spread(proxy: TestClient, workers: Workers) -> None:
    """A burst of one client lands on both instances in halves, and each runs once."""
    ids = await asyncio.gather(*(post(proxy, graph(0.01)) for _ in range(10)))
    await ended(proxy, *ids)
    started = [prompt_id for worker in workers for prompt_id in worker.started]
    assert sorted(started) == sorted(ids)
    assert all(len(worker.submitted) >= 4 for worker in workers)


@pytest.mark.long
@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt": {}}',
        b"{}",
        b'{"client_id": "x"}',
        b"no json",
        b"[1]",
        b"",
        b'{"prompt": [1]}',
        b'{"prompt": {"1": {"class_type": "Nothing", "inputs": {}}}}',
        b'{"prompt": {"1": {"class_type": "SaveImage", "inputs": {}}}}',
        b'{"prompt": {"1": {"class_type": "LoadImage", "inputs": {"image": "gone.png"}}}}',
    ],
)
async def test_native_refusals(proxy: TestClient, workers: Workers, body: bytes) -> None:
    """What ComfyUI refuses is refused with its own bytes."""
    ours, theirs = await both(proxy, workers, body)
    assert ours == theirs
    assert ours[0] in (400, 500)


async def test_node_errors_beside_a_prompt_that_runs(proxy: TestClient, workers: Workers) -> None:
    """A prompt of which only some outputs are valid is accepted with ComfyUI's node_errors."""
    half = graph() | {"9": {"class_type": "SaveImage", "inputs": {}}}
    body = json.dumps({"prompt": half, "prompt_id": str(uuid.uuid4())}).encode()
    ours, theirs = await both(proxy, workers, body)
    assert ours[0] == theirs[0] == 200
    errors = [json.loads(answer[2])["node_errors"] for answer in (ours, theirs)]
    assert errors[0] == errors[1] != {}


async def test_bodies_go_on_byte_for_byte(recorders: Any) -> None:
    """A body with a prompt_id is not changed; one without gets one, and nothing else changes."""
    http, pair = recorders
    inside = (
        b' "prompt" : {"1":{"class_type":"X","inputs":{"seed":18446744073709551616,"y":1e400}}}'
    )
    for body in (
        b'{"prompt_id": "mine",' + inside + b' , "extra_data":{}}\n',
        b" \n{" + inside + b', "b": NaN, "u": "\\ud800\xc3\xa9"}',
    ):
        async with http.post("/prompt", data=body, headers=JSON) as answer:
            told = (await answer.json())["prompt_id"]
        (got,) = [one.bodies.pop() for one in pair if one.bodies]
        if b"mine" in body:
            assert got == body
        else:
            assert got == body.replace(b"{", b'{"prompt_id": "%s", ' % told.encode(), 1)
            assert str(uuid.UUID(told)) == told


async def test_headers_and_path_go_on(recorders: Any) -> None:
    """The path with its query and the client's headers reach the instance as they came."""
    http, pair = recorders
    body = b'{"prompt": {"1": {"class_type": "X", "inputs": {}}}}'
    headers = {"X-Mine": "1", "Comfy-User": "me", **JSON}
    async with http.post("/api/prompt?a=1", data=body, headers=headers) as answer:
        assert answer.status == 200
    (request,) = [one.requests[0] for one in pair if one.requests]
    assert request.raw_path == "/api/prompt?a=1"
    assert (request.headers["X-Mine"], request.headers["Comfy-User"]) == ("1", "me")


async def test_compressed_bodies(proxy: TestClient, workers: Workers) -> None:
    """A gzip body runs, under the client's own id."""
    prompt_id = str(uuid.uuid4())
    body = gzip.compress(json.dumps({"prompt": graph(), "prompt_id": prompt_id}).encode())
    headers = {**JSON, "Content-Encoding": "gzip"}
    async with proxy.post("/prompt", data=body, headers=headers) as answer:
        assert (await answer.json())["prompt_id"] == prompt_id
    entry = (await ended(proxy, prompt_id))[prompt_id]
    assert entry["status"]["completed"]


async def test_number_and_front(proxy: TestClient, workers: Workers) -> None:
    """``number`` comes back as a float, ``front`` overtakes what waits."""
    workers[1].refuse_connections()
    workers[1].drop_connections()
    blocker = await post(proxy, graph(60))
    await until(lambda: workers[0].started == [blocker])
    async with proxy.post("/prompt", json={"prompt": graph(), "number": 7}) as answer:
        seventh = await answer.json()
    front = await post(proxy, graph(), front=True)
    assert seventh["number"] == 7.0
    async with proxy.post("/interrupt", json={"prompt_id": blocker}) as answer:
        assert answer.status == 200
    await ended(proxy, seventh["prompt_id"], front)
    assert workers[0].started == [blocker, front, seventh["prompt_id"]]


async def test_only_where_the_nodes_are(
    workers: Workers, start_proxy: Start, tmp_path: Path
) -> None:
    """An instance that lacks a node class is not used, whatever its load."""
    async with EmbeddedWorker(base_directory=tmp_path / "bare", name="bare") as bare:
        http = await start_proxy(bare, workers[0])
        ids = await asyncio.gather(*(post(http) for _ in range(4)))
        await ended(http, *ids)
        assert (sorted(workers[0].started), bare.submitted) == (sorted(ids), [])


async def test_a_missed_check_sends_no_prompt_where_the_nodes_are_missing(
    workers: Workers, start_proxy: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only instance that has them misses one check: it is asked again, the other not at all."""
    async with EmbeddedWorker(base_directory=tmp_path / "bare", name="bare") as bare:
        http = await start_proxy(bare, workers[0])
        await ended(http, await post(http))
        checker, missed = http.app[CLUSTER].health_checker, []
        check = checker.check

        async def miss_one(instance: Instance) -> bool:
            if not missed and instance.host == workers[0].host:
                missed.append(instance)
                return False
            return bool(await check(instance))

        monkeypatch.setattr(checker, "check", miss_one)
        await ended(http, await post(http))
        assert (len(missed), len(workers[0].started), bare.submitted) == (1, 2, [])


async def test_only_where_the_model_is(start_proxy: Start, tmp_path: Path) -> None:
    """An instance that lacks a model file is not used."""
    loader = {"class_type": "UpscaleModelLoader", "inputs": {"model_name": "a.pth"}}
    scale = {
        "class_type": "ImageUpscaleWithModel",
        "inputs": {"upscale_model": ["4", 0], "image": ["1", 0]},
    }
    save = {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "x"}}
    whole = {"1": graph()["1"], "4": loader, "5": scale, "6": save}
    one = EmbeddedWorker(base_directory=tmp_path / "a", upscale_models=("a.pth",))
    other = EmbeddedWorker(base_directory=tmp_path / "b", upscale_models=("b.pth",))
    async with one, other:
        http = await start_proxy(other, one)
        ids = await asyncio.gather(*(post(http, whole) for _ in range(3)))
        assert (sorted(one.submitted), other.submitted) == (sorted(ids), [])
        await http.close()


async def test_the_refusal_of_the_one_that_lacks_least(
    start_proxy: Start, workers: Workers, tmp_path: Path
) -> None:
    """If none can run it the answer is that of the instance that comes nearest."""
    async with EmbeddedWorker(base_directory=tmp_path / "bare", name="bare") as bare:
        http = await start_proxy(bare, workers[0])
        strange = graph() | {"7": {"class_type": "Nothing", "inputs": {}}}
        strange["3"]["inputs"]["images"] = ["7", 0]
        ours, theirs = await both(http, workers, json.dumps({"prompt": strange}).encode())
        assert ours == theirs
        await http.close()


@pytest.fixture
async def hasty(workers: Workers, start_proxy: Start) -> TestClient:
    """Checks have the 300 ms of the default; other tests allow for a busy machine."""
    client: TestClient = await start_proxy(*workers, health_check_timeout_s=0.3)
    return client


@pytest.mark.parametrize("how", ["killed", "hangs"])
async def test_an_instance_that_is_away_is_passed_over(
    hasty: TestClient, workers: Workers, how: str
) -> None:
    """Prompts go to the other one within the same request, without an error."""
    gone, other = workers
    await recover(hasty, gone)
    if how == "killed":
        await gone.kill()
    else:
        gone.faults.hang = ("/",)
    ids = [await post(hasty) for _ in range(3)]
    await ended(hasty, *ids)
    assert other.executed == ids
    gone.faults.clear()


async def test_one_that_hangs_right_after_a_frame_is_passed_over(
    hasty: TestClient, workers: Workers
) -> None:
    """Frames just now do not draw prompts to an instance that does not answer, if another does."""
    hanging, other = workers
    await recover(hasty, hanging)
    hanging.faults.hang = ("/system_stats", "/prompt")
    ids = []
    for _ in range(3):
        instance_of(hasty, hanging).frame_seen()
        ids.append(await post(hasty))
    assert other.submitted == ids
    hanging.faults.clear()


async def test_a_busy_instance_is_used_if_there_is_no_other(
    hasty: TestClient, workers: Workers
) -> None:
    """All fail the check, but one sent frames just now: it takes the prompt."""
    for worker in workers:
        await recover(hasty, worker)
        worker.faults.hang = ("/system_stats",)
    instance_of(hasty, workers[1]).frame_seen()
    prompt_id = await post(hasty)
    assert workers[1].submitted == [prompt_id]
    for worker in workers:
        worker.faults.clear()


async def test_one_missed_check_of_all_is_no_outage(hasty: TestClient, workers: Workers) -> None:
    """All stand still for the length of one check, and none sent a frame: the prompt waits."""
    for worker in workers:
        await recover(hasty, worker)
        worker.faults.hang = ("/system_stats",)
    instances = [instance_of(hasty, worker) for worker in workers]
    posting = asyncio.create_task(post(hasty))
    await until(lambda: all(one.failing for one in instances) or posting.done())
    for worker in workers:
        worker.faults.clear()
    await ended(hasty, await posting)


async def test_all_that_stand_still_are_an_outage_soon(
    workers: Workers, start_proxy: Start
) -> None:
    """Accepting connections and saying nothing: 503 once the circuits are open, not later."""
    proxy = await start_proxy(*workers, health_check_timeout_s=0.1)
    for worker in workers:
        await recover(proxy, worker)
        worker.faults.hang = ("/",)
    async with proxy.post("/prompt", json={"prompt": graph()}) as answer:
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) > 0
    assert not any(instance_of(proxy, worker).healthy for worker in workers)
    for worker in workers:
        worker.faults.clear()


async def test_all_away_and_back(proxy: TestClient, workers: Workers) -> None:
    """With nobody there the answer is 503 with Retry-After; who returns is used at once."""
    for worker in workers:
        await worker.kill()
    for _ in range(4):
        async with proxy.post("/prompt", json={"prompt": graph()}) as answer:
            assert answer.status == 503
            assert int(answer.headers["Retry-After"]) > 0
    await workers[1].start()
    await recover(proxy, workers[1])
    await ended(proxy, await post(proxy))


async def test_a_broken_answer_does_not_run_it_twice(proxy: TestClient, workers: Workers) -> None:
    """The connection breaks after the prompt was queued: it is found there, and told."""
    for worker in workers:
        worker.faults.break_prompts = 1
    ids = [await post(proxy, prompt_id=str(uuid.uuid4())) for _ in range(2)]
    await ended(proxy, *ids)
    assert sorted(workers[0].submitted + workers[1].submitted) == sorted(ids)


async def test_a_prompt_that_was_not_taken_goes_elsewhere(recorders: Any) -> None:
    """A gateway error before an instance took the prompt is no answer."""
    http, (one, two) = recorders
    one.statuses = two.statuses = [502]
    assert await post(http, graph())
    assert len(one.bodies) + len(two.bodies) == 2


async def test_an_instance_that_does_not_say(proxy: TestClient, workers: Workers) -> None:
    """If nobody can tell whether a prompt was taken it is not posted elsewhere: 504."""
    for worker in workers:
        worker.faults.break_prompts = 1
        worker.faults.answers = {"/queue": "non_json"}
    async with proxy.post("/prompt", json={"prompt": graph()}) as answer:
        assert answer.status == 504
    assert len(workers[0].submitted) + len(workers[1].submitted) == 1


async def test_a_client_that_leaves_owns_its_prompt(recorders: Any) -> None:
    """It hangs up during the POST: what was accepted is recorded, and can be moved."""
    http, pair = recorders
    for one in pair:
        one.hold.clear()
    posting = asyncio.create_task(post(http, graph(), prompt_id="mine"))
    await until(lambda: any(one.received.is_set() for one in pair))
    posting.cancel()
    await asyncio.wait([posting])
    for one in pair:
        one.hold.set()
    gateway = http.app[GATEWAY]
    await until(lambda: gateway.ledger.owner("mine") is not None)


async def test_the_socket_is_there_first(proxy: TestClient, workers: Workers) -> None:
    """Each prompt's events are complete and in order, on whichever instance it runs."""
    async with listening(proxy) as listener:
        for _ in range(6):
            prompt_id = await post(proxy, client_id=listener.client_id)
            await until(lambda one=prompt_id: listener.over(one))
            assert listener.kinds(prompt_id) == COMPLETE
    assert all(worker.executed for worker in workers)


async def test_an_input_that_somebody_deleted(proxy: TestClient, workers: Workers) -> None:
    """An upload that vanished from an instance's disk is put there again before a 400 counts."""
    name = await upload(proxy, png("red"), "in.png")
    loads = {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    for worker in workers:
        (worker.folders.base / "input" / name).unlink()
    ids = [await post(proxy, loads) for _ in range(2)]
    await ended(proxy, *ids)


async def test_large_graphs(proxy: TestClient, workers: Workers) -> None:
    """A graph of a thousand nodes comes out of the history as it was sent."""
    large = graph()
    for number in range(4, 1000):
        large[str(number)] = {
            "class_type": "ImageScaleBy",
            "inputs": {"image": ["1", 0], "upscale_method": "lanczos", "scale_by": 1.0},
        }
    prompt_id = await post(proxy, large)
    assert (await ended(proxy, prompt_id))[prompt_id]["prompt"][2] == large
    assert (await get(proxy, "/prompt")) == {"exec_info": {"queue_remaining": 0}}
