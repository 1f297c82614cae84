"""What requests about prompts by id promise: the owner does it, nothing moves out of reach."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
from typing import Any
from urllib.parse import unquote

import aiohttp
import pytest
from gateway_harness import unused_url
from ledger_front import is_deleted, taken
from views_harness import (
    BLUE,
    Workers,
    entry,
    finished,
    front,
    get,
    moving,
    post,
    run,
    two_fakes,
)

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.gateway.gateway import Gateway
from comfy_proxy.ledger.events import Deleted, Found

# --- /history/{id} ----------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_an_entry_nobody_remembers_is_found(workers: Workers, prefix: str) -> None:
    """All are asked, the owner is recorded, and its name is in the outputs."""
    await run(workers[1], "a")
    async with front(*workers) as (client, gateway):
        found = await get(client, f"{prefix}/history/a")
        picture = found["a"]["outputs"]["2"]["images"][0]
        assert picture == {"filename": "blue_00001_.png", "subfolder": "@2", "type": "output"}
        assert found["a"]["prompt"][2] == BLUE
        owner = gateway.ledger.owner("a")
        assert owner is not None
        assert owner.id == "2"
    async with front(*workers, shared_storage=frozenset({"output"})) as (client, _):
        found = await get(client, f"{prefix}/history/a")
        assert found["a"]["outputs"]["2"]["images"][0]["subfolder"] == ""


async def test_the_owner_alone_is_asked() -> None:
    """Nobody else hears of a prompt whose owner is on record and has it."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        two.history = {"a": finished("a", 1, 2)}
        own(gateway, "a", 2)
        assert list(await get(client, "/history/a")) == ["a"]
        assert one.requests == []


async def test_a_record_that_is_wrong_does_no_harm() -> None:
    """The others are asked then, and the record is put right."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        two.history = {"a": finished("a", 1, 2)}
        own(gateway, "a", 1)
        assert list(await get(client, "/history/a")) == ["a"]
        assert gateway.ledger.owner("a") is gateway.cluster.instances[1]


@pytest.mark.parametrize("name", ["unknown", "a%2Fb%3F%25", "%C3%A4", "a+b"])
async def test_an_entry_of_nobody_is_empty(name: str) -> None:
    """200 and ``{}``, whatever characters the id has; they reach the instances as they are."""
    async with two_fakes() as (one, two), front(one, two) as (client, _):
        async with client.get(f"/history/{name}") as answer:
            assert (answer.status, await answer.text()) == (200, "{}")
        asked = [unquote(path) for _, path, _ in (*one.requests, *two.requests)]
        assert asked == [f"/history/{unquote(name)}"] * 2


async def test_what_only_an_owner_that_is_down_knows_is_503(workers: Workers) -> None:
    """The others' ``{}`` would say that it is lost. Of what nobody owns they are right."""
    path = "/history/a"
    async with front(*workers) as (client, gateway):
        own(gateway, "a", 2)
        await workers[1].kill()
        async with client.get(path) as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"] == "5"
        assert await get(client, "/history/b") == {}
        await workers[0].kill()
        async with client.get(path) as answer:
            assert answer.status == 503


# --- POST /queue and /history -----------------------------------------------------------


@pytest.mark.parametrize("path", ["/queue", "/api/queue", "/history", "/api/history"])
async def test_ids_go_to_their_owners(path: str) -> None:
    """Each instance hears of its own prompts; of those that nobody remembers all do."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        own(gateway, "a", 1)
        own(gateway, "b", 2)
        assert await post(client, path, {"delete": ["a", "b"]}) == b""
        bare = path.removeprefix("/api")
        assert one.told == [(bare, {"delete": ["a"]})]
        assert two.told == [(bare, {"delete": ["b"]})]
        await post(client, path, {"delete": ["b", "c"]})
        assert one.told[1:] == [(bare, {"delete": ["c"]})]
        assert two.told[1:] == [(bare, {"delete": ["b", "c"]})]


@pytest.mark.parametrize("path", ["/queue", "/history"])
async def test_clear_is_for_all(path: str) -> None:
    """With or without ids beside it."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        own(gateway, "a", 1)
        await post(client, path, {"clear": True})
        await post(client, path, {"clear": True, "delete": ["a"]})
        assert one.told[1] == (path, {"clear": True, "delete": ["a"]})
        assert two.told[1] == (path, {"clear": True, "delete": []})
        assert one.told[0][1]["clear"] is two.told[0][1]["clear"] is True


async def test_deleting_and_clearing_real_histories(workers: Workers) -> None:
    """After a restart of the proxy, when no owner is known."""
    for worker, prompt_id in zip((*workers, *workers), "abcd", strict=True):
        await run(worker, prompt_id)
    async with front(*workers) as (client, _):
        await post(client, "/history", {"delete": ["b", "c", "x"]})
        assert list(await get(client, "/history")) == ["a", "d"]
        await post(client, "/history", {"clear": True})
        assert await get(client, "/history") == {}


@pytest.mark.long
@pytest.mark.parametrize("path", ["/queue", "/history", "/interrupt", "/free"])
@pytest.mark.parametrize(
    "body", [b"", b"{", b"5", b"{}", b"[]", b'{"delete": 5}', b'{"delete": [[]]}', b'"clear"']
)
async def test_odd_bodies_get_comfyuis_own_answer(workers: Workers, path: str, body: bytes) -> None:
    """Status, body and content type are those of a direct request."""
    direct = aiohttp.ClientSession(workers[0].url)
    async with (
        direct,
        front(*workers) as (client, _),
        client.post(path, data=body) as answer,
        direct.post(path, data=body) as expected,
    ):
        assert answer.status == expected.status
        assert await answer.read() == await expected.read()
        assert answer.content_type == expected.content_type


async def test_a_compressed_body_is_understood(workers: Workers) -> None:
    """Trap 20: gzip, and the charset that the header names."""
    for worker, prompt_id in zip(workers, "ab", strict=True):
        await run(worker, prompt_id)
    async with front(*workers) as (client, _):
        body = gzip.compress(json.dumps({"delete": ["a"]}).encode("utf-16"))
        headers = {"Content-Type": "text/plain; charset=utf-16", "Content-Encoding": "gzip"}
        async with client.post("/history", data=body, headers=headers) as answer:
            assert answer.status == 200
        assert list(await get(client, "/history")) == ["b"]


@pytest.mark.parametrize("path", ["/queue", "/history", "/interrupt", "/api/jobs/cancel", "/free"])
async def test_a_body_without_end_is_refused(path: str) -> None:
    """413 in JSON beyond 1 MiB, and no instance hears of it: reading it would stop everything."""
    async with two_fakes() as (one, two), front(one, two) as (client, _):
        async with client.post(path, data=io.BytesIO(b" " * (2**20 + 1))) as answer:
            body = await answer.json()
            assert (answer.status, body["code"]) == (413, "payload_too_large")
            assert body["details"] == {"limit": 2**20}
        assert one.requests == two.requests == []


async def test_twenty_thousand_ids_are_an_order() -> None:
    """Each instance is told of all that nobody remembers."""
    ids = [f"{number:036}" for number in range(20_000)]
    async with two_fakes() as (one, two), front(one, two) as (client, _):
        await post(client, "/queue", {"delete": ids})
        assert one.told == two.told == [("/queue", {"delete": ids})]


async def test_deleting_what_moves_ends_its_move() -> None:
    """The move is cancelled and everybody is told; other moves go on."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        own(gateway, "a", 1)
        moving(gateway, "a")
        moving(gateway, "b")
        await post(client, "/queue", {"delete": ["a"]})
        assert is_deleted(gateway, "a")
        assert two.told[0] == ("/queue", {"delete": ["a"]})
        assert [row[1] for row in (await get(client, "/queue"))["queue_pending"]] == ["b"]


@pytest.mark.parametrize("body", [{"delete": ["a"]}, {"clear": True}])
async def test_a_move_during_the_deletion_does_not_save_a_prompt(body: dict[str, Any]) -> None:
    """It left before its old place was told and came after its new place was: told again."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        one.pending = [entry("a")]
        own(gateway, "a", 1)

        async def move() -> None:
            one.before.clear()
            moving(gateway, "a")
            one.pending = []
            if "clear" in body:
                await two_was_told.wait()
            two.pending = [entry("a")]
            taken(gateway, "a")

        async def told() -> None:
            two_was_told.set()

        two_was_told = asyncio.Event()
        one.before["/queue"], two.after["/queue"] = move, told
        await post(client, "/queue", body)
        assert two.pending == []
        assert not any(one.deleted for one in gateway.ledger.transit)


# --- /interrupt and /free ---------------------------------------------------------------


async def test_an_interrupt_with_an_id_is_for_the_owner_alone() -> None:
    """Known or found running; if nobody runs it nobody hears of it."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        own(gateway, "a", 2)
        assert await post(client, "/interrupt", {"prompt_id": "a"}) == b""
        assert two.told == [("/interrupt", {"prompt_id": "a"})]
        one.running, two.pending = [entry("b")], [entry("c")]
        await post(client, "/api/interrupt", {"prompt_id": "b"})
        assert one.told == [("/interrupt", {"prompt_id": "b"})]
        assert await post(client, "/interrupt", {"prompt_id": "c"}) == b""
        assert len(one.told) == len(two.told) == 1


@pytest.mark.parametrize("body", [b"", b"{}", b"?", b'{"prompt_id": null}', b'{"prompt_id": ""}'])
async def test_an_interrupt_without_an_id_is_for_all(body: bytes) -> None:
    """Also with a body that is no JSON, as in ComfyUI."""
    async with two_fakes() as (one, two), front(one, two) as (client, _):
        async with client.post("/interrupt", data=body) as answer:
            assert answer.status == 200
        assert [path for path, _ in one.told] == [path for path, _ in two.told] == ["/interrupt"]


async def test_interrupting_a_real_prompt_spares_the_other(workers: Workers) -> None:
    """Found without a record; the one at the other instance runs on."""
    await asyncio.gather(start(workers[0], "a", 60), start(workers[1], "b", 60))
    async with front(*workers) as (client, _):
        await post(client, "/interrupt", {"prompt_id": "b"})
        while not (found := await get(client, "/history/b")):
            pass
        assert found["b"]["status"]["messages"][-1][0] == "execution_interrupted"
        assert [row[1] for row in (await get(client, "/queue"))["queue_running"]] == ["a"]
        await post(client, "/interrupt", {})
        while not await get(client, "/history/a"):
            pass


async def test_free_is_for_all() -> None:
    """The body reaches every instance; the primary's answer is the client's."""
    async with two_fakes() as (one, two), front(one, two) as (client, _):
        assert await post(client, "/api/free", {"unload_models": True}) == b""
        assert one.told == two.told == [("/free", {"unload_models": True})]
        two.status = 500
        assert await post(client, "/free", {}) == b""


@pytest.mark.parametrize("path", ["/queue", "/history", "/interrupt", "/free"])
@pytest.mark.parametrize("body", [{}, {"delete": ["a"]}, {"clear": True}, {"prompt_id": "a"}])
async def test_a_command_that_nobody_hears_is_503(path: str, body: dict[str, Any]) -> None:
    """And never a success."""
    nobody = front(str(await unused_url()), str(await unused_url()))
    async with nobody as (client, _), client.post(path, json=body) as answer:
        assert answer.status == 503


# --- /api/jobs/{id} ---------------------------------------------------------------------


async def test_a_job_is_found_and_its_outputs_marked() -> None:
    """HEAD has its length; an id of nobody is ComfyUI's 404."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        two.history = {"a": finished("a", 1, 2)}
        job = await get(client, "/api/jobs/a")
        assert (job["status"], job["preview_output"]["subfolder"]) == ("completed", "@2")
        assert gateway.ledger.owner("a") is gateway.cluster.instances[1]
        async with client.head("/api/jobs/a") as answer:
            assert int(answer.headers["Content-Length"]) == len(json.dumps(job))
        async with client.get("/api/jobs/b") as answer:
            assert (answer.status, await answer.text()) == (404, '{"error": "Job not found"}')
    async with (
        two_fakes() as (one, two),
        front(one, two, shared_storage=frozenset({"output"})) as (client, _),
    ):
        two.history = {"a": finished("a", 1, 2)}
        assert (await get(client, "/api/jobs/a"))["preview_output"]["subfolder"] == ""


async def test_a_job_that_moves_is_pending() -> None:
    """In the shape of 2026, unless its client has cancelled it; one that arrives is found."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        moving(gateway, "a", 3, 77)
        job = await get(client, "/api/jobs/a")
        assert job["status"] == "pending"
        assert (job["id"], job["priority"], job["create_time"]) == ("a", 3, 77)

        async def arrive() -> None:
            two.running = [entry("a")]
            taken(gateway, "a")

        two.after["/api/jobs/a"] = arrive
        assert (await get(client, "/api/jobs/a"))["status"] == "in_progress"
        moving(gateway, "b")
        gateway.ledger.apply(Deleted(prompt_ids=["b"]))
        async with client.get("/api/jobs/b") as answer:
            assert answer.status == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/api/jobs/a"), ("POST", "/api/jobs/a/cancel"), ("POST", "/api/jobs/cancel")],
)
async def test_a_server_without_jobs_says_so_itself(method: str, path: str) -> None:
    """Its own 404, and nothing is cancelled, even what moves."""
    async with two_fakes(with_jobs=False) as (one, two), front(one, two) as (client, gateway):
        moving(gateway, "a")
        async with client.request(method, path, json={"job_ids": ["a"]}) as answer:
            assert (answer.status, await answer.text()) == (404, "404: Not Found")
        assert not any(one.deleted for one in gateway.ledger.transit)


async def test_cancelling_a_job() -> None:
    """At its owner, found if need be; an unknown one is false."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        one.pending, two.running = [entry("a")], [entry("b")]
        own(gateway, "a", 1)
        assert await post(client, "/api/jobs/a/cancel", {}) == b'{"cancelled": true}'
        assert two.requests == []
        assert await post(client, "/api/jobs/b/cancel", {}) == b'{"cancelled": true}'
        assert (one.cancelled, two.cancelled) == (["a"], ["b"])
        assert await post(client, "/api/jobs/b/cancel", {}) == b'{"cancelled": false}'


async def test_cancelling_a_job_that_moves() -> None:
    """Its move is cancelled; one that has arrived meanwhile is cancelled at its new place."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        moving(gateway, "a")
        assert await post(client, "/api/jobs/a/cancel", {}) == b'{"cancelled": true}'
        assert is_deleted(gateway, "a")
        moving(gateway, "b")

        async def arrive() -> None:
            two.after.clear()
            two.running = [entry("b")]
            taken(gateway, "b")

        two.after["/api/jobs/b/cancel"] = arrive
        assert await post(client, "/api/jobs/b/cancel", {}) == b'{"cancelled": true}'
        assert two.cancelled == ["b"]


async def test_cancelling_many() -> None:
    """True if any was; a bad id is ComfyUI's 400 for all of them."""
    path = "/api/jobs/cancel"
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        one.pending, two.running = [entry("a"), entry("c")], [entry("b")]
        own(gateway, "a", 1)
        assert await post(client, path, {"job_ids": ["a", "b"]}) == b'{"cancelled": true}'
        assert (one.cancelled, two.cancelled) == (["a"], ["b"])
        assert await post(client, path, {"job_ids": ["x"]}) == b'{"cancelled": false}'
        assert await post(client, path, {"job_ids": []}) == b'{"cancelled": false}'
        async with client.post(path, json={"job_ids": ["c", "no such form"]}) as answer:
            assert answer.status == 400
            assert "no such form" in (await answer.json())["invalid_ids"]
        async with client.post(path, json={"job_ids": ["no such form"] * 2}) as answer:
            assert (await answer.json())["invalid_ids"] == ["no such form"] * 2
        assert one.cancelled == ["a"]
        moving(gateway, "m")
        assert await post(client, path, {"job_ids": ["m"]}) == b'{"cancelled": true}'
        assert is_deleted(gateway, "m")


def own(gateway: Gateway, prompt_id: str, number: int) -> None:
    """Note the owner of a prompt."""
    instance = gateway.cluster.instances[number - 1]
    gateway.ledger.apply(Found(prompt_id=prompt_id, instance=instance))


async def start(worker: EmbeddedWorker, prompt_id: str, seconds: float) -> None:
    """Have a worker run a prompt that lasts; return when it runs."""
    node = {"class_type": "TimedPass", "inputs": {"image": ["1", 0], "seconds": seconds, "salt": 0}}
    graph = {
        "1": BLUE["1"],
        "3": node,
        "2": {**BLUE["2"], "inputs": {"images": ["3", 0], "filename_prefix": "x"}},
    }
    async with (
        aiohttp.ClientSession(worker.url) as session,
        session.ws_connect("/ws?clientId=start") as socket,
    ):
        body = {"prompt": graph, "prompt_id": prompt_id, "client_id": "start"}
        async with session.post("/prompt", json=body) as answer:
            assert answer.status == 200
        while (await socket.receive_json())["type"] != "execution_start":
            pass
