"""Each fault does what it says, and goes away when it is switched off."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from worker_client import Client, timed

from comfy_proxy.embedded.faults import Faults
from comfy_proxy.embedded.worker import EmbeddedWorker


async def test_hanging_requests_are_answered_when_it_ends(
    worker: EmbeddedWorker, client: Client
) -> None:
    """A hanging path is accepted and not answered; others are; switching off answers it."""
    worker.faults.hang = ("/system_stats",)
    hanging = asyncio.create_task(client.get("/api/system_stats"))
    assert await client.get("/queue") == {"queue_running": [], "queue_pending": []}
    assert not hanging.done()
    worker.faults.clear()
    assert "system" in await hanging


async def test_a_worker_that_hangs_can_be_stopped(tmp_path: Path) -> None:
    """Stopping does not wait for requests that hang."""
    worker = EmbeddedWorker(base_directory=tmp_path)
    await worker.start()
    worker.faults.hang = ("/queue",)
    client = Client(worker.url)
    hanging = asyncio.create_task(client.get("/queue"))
    await client.get("/features")
    await worker.stop()
    await asyncio.wait([hanging])
    assert hanging.exception() is None or isinstance(hanging.exception(), aiohttp.ClientError)
    await client.close()


@pytest.mark.parametrize(
    ("kind", "status", "content_type"),
    [("html", 200, "text/html"), ("non_json", 200, "application/json"), ("500", 500, "text/plain")],
)
async def test_wrong_answers(
    kind: str, status: int, content_type: str, worker: EmbeddedWorker, client: Client
) -> None:
    """A path prefix answers a login page, nonsense or a status, also under /api."""
    worker.faults.answers = {"/history": kind}
    async with client.session.get("/api/history/some") as answer:
        assert (answer.status, answer.content_type) == (status, content_type)
        with pytest.raises(json.JSONDecodeError):
            json.loads(await answer.text())
    assert await client.get("/queue")


async def test_the_longest_prefix_decides(worker: EmbeddedWorker, client: Client) -> None:
    """A wrong answer for everything leaves room for another one below it."""
    worker.faults.answers = {"/": "503", "/queue": "html"}
    async with client.session.get("/queue") as answer:
        assert answer.content_type == "text/html"


async def test_an_endless_body(worker: EmbeddedWorker, client: Client) -> None:
    """An endless answer goes on until the client leaves."""
    worker.faults.answers = {"/queue": "endless"}
    async with client.session.get("/queue") as answer:
        assert await answer.content.readexactly(4096)
        answer.close()


async def test_trickle_and_cut(worker: EmbeddedWorker, client: Client) -> None:
    """A trickling answer is the true one; one that is cut breaks off short of its length."""
    await client.upload(b"x" * 300, "in.png")
    path = "/view?filename=in.png&type=input"
    worker.faults.answers = {"/view": "trickle"}
    async with client.session.get(path) as answer:
        assert (await answer.read(), answer.content_type) == (b"x" * 300, "image/png")
    worker.faults.answers = {"/view": "cut"}
    with pytest.raises(aiohttp.ClientPayloadError):
        async with client.session.get(path) as answer:
            await answer.read()


async def test_a_prompt_whose_answer_is_lost(worker: EmbeddedWorker, client: Client) -> None:
    """The connection of POST /prompt breaks, but the prompt was queued and runs."""
    worker.faults.break_prompts = 1
    with pytest.raises(aiohttp.ClientError):
        await client.submit(timed(0))
    await client.event("execution_success")
    assert len(worker.submitted) == 1
    await client.run(timed(0, salt=2))


async def test_a_full_disk(worker: EmbeddedWorker, client: Client) -> None:
    """Uploads answer 500 and saving fails with OSError; afterwards both work."""
    worker.faults.disk_full = True
    assert await client.upload(b"x", "in.png") == 500
    entry = await client.run(timed(0))
    assert entry["status"]["status_str"] == "error"
    error = entry["status"]["messages"][-1][1]
    assert (error["exception_type"], error["node_type"]) == ("OSError", "SaveImage")
    worker.faults.clear()
    assert await client.upload(b"x", "in.png") == 200


async def test_silent_sockets(worker: EmbeddedWorker, client: Client) -> None:
    """No frame leaves although the prompt runs; polling still works."""
    worker.faults.silent_sockets = True
    prompt_id = await client.submit(timed(0))
    listener = asyncio.create_task(client.socket.receive())
    async with asyncio.timeout(10):
        while not await client.get(f"/history/{prompt_id}"):
            pass
    assert not listener.done()
    listener.cancel()
    await asyncio.wait([listener])


async def test_refused_connections(worker: EmbeddedWorker, client: Client) -> None:
    """New connections are refused, the open socket goes on; then it listens again."""
    worker.refuse_connections()
    other = Client(worker.url)
    with pytest.raises(aiohttp.ClientConnectorError):
        await other.get("/queue")
    await client.socket.ping()
    await worker.accept_connections()
    assert await other.get("/queue")
    await other.close()


async def test_dropped_sockets(worker: EmbeddedWorker, client: Client) -> None:
    """Every socket is reset, the running prompt is not."""
    prompt_id = await client.submit(timed(0.2))
    await client.event("progress", value=1)
    worker.drop_sockets()
    with pytest.raises(ConnectionError, match="1006"):
        await client.event("executed")
    again = Client(worker.url)
    again.client_id = client.client_id
    await again.connect()
    await again.event("executing", node=None, prompt_id=prompt_id)
    await again.close()


async def test_death_in_mid_job(worker: EmbeddedWorker, client: Client) -> None:
    """The worker dies when a node of that class begins; a restart brings it back."""
    worker.faults.die_at_node = "SaveImage"
    await client.submit(timed(0))
    with pytest.raises(ConnectionError, match="1006"):
        await client.event("executed")
    worker.faults.die_at_node = ""
    await worker.restart()
    again = await Client(worker.url).connect()
    await again.run(timed(0))
    assert len(worker.executed) == 1
    await again.close()


async def test_slow_nodes_can_be_interrupted(worker: EmbeddedWorker, client: Client) -> None:
    """A node that is slow in silence sends no progress, and an interrupt ends it at once."""
    worker.faults.slow_node_s = 600.0
    await client.submit(timed(0))
    await client.event("executing", node="1")
    async with client.session.post("/interrupt"):
        await client.event("execution_interrupted", node_id="1")


async def test_delay(
    worker: EmbeddedWorker, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every answer is preceded by a sleep of that length."""
    slept: list[float] = []
    sleep = asyncio.sleep

    async def short_sleep(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", short_sleep)
    worker.faults.delay_s = 12.5
    await client.get("/queue")
    assert slept == [12.5]


@pytest.fixture
async def open_to_faults(tmp_path: Path) -> AsyncIterator[Client]:
    """A client of a worker that takes faults over HTTP."""
    async with EmbeddedWorker(base_directory=tmp_path / "open", allow_faults=True) as worker:
        client = Client(worker.url)
        yield await client.connect()
        await client.close()


async def test_faults_over_http(open_to_faults: Client) -> None:
    """POST /embedded/faults sets by name, `{}` clears, an unknown name is 400."""
    session = open_to_faults.session
    async with session.post("/embedded/faults", json={"answers": {"/": "500"}}) as answer:
        assert answer.status == 200
    async with session.get("/queue") as answer:
        assert answer.status == 500
    async with session.post("/embedded/faults", json={}), session.get("/queue") as answer:
        assert answer.status == 200
    async with session.post("/embedded/faults", json={"mistyped": 1}) as answer:
        assert answer.status == 400
    async with session.post("/embedded/faults", json={"drop_sockets": True}):
        with pytest.raises(ConnectionError, match="1006"):
            await open_to_faults.event("executed")


async def test_refusing_and_dying_over_http(open_to_faults: Client) -> None:
    """Over HTTP it refuses connections for a while, and dies at once."""
    session = open_to_faults.session
    async with session.post("/embedded/faults", json={"refuse_connections_s": 0.05}):
        other = Client(open_to_faults.url)
        with pytest.raises(aiohttp.ClientConnectorError):
            await other.get("/queue")
    async with asyncio.timeout(10):
        while not await _accepts(other):
            pass
    async with session.post("/embedded/faults", json={"die": True}):
        pass
    with pytest.raises(ConnectionError, match="1006"):
        await open_to_faults.event("executed")
    await other.close()


async def _accepts(client: Client) -> bool:
    try:
        await client.get("/queue")
    except aiohttp.ClientConnectorError:
        return False
    return True


async def test_faults_are_closed_by_default(client: Client) -> None:
    """Without being started for it a worker takes no faults from outside."""
    async with client.session.post("/embedded/faults", json={}) as answer:
        assert answer.status == 405


async def test_while_it_stands_still_nothing_begins(worker: EmbeddedWorker, client: Client) -> None:
    """All is answered, and prompts wait; switched off, they run. A restart switches it off."""
    worker.faults.stands_still = True
    prompt_id = await client.submit(timed(0))
    queue = await client.get("/queue")
    assert [row[1] for row in queue["queue_pending"]] == [prompt_id]
    assert queue["queue_running"] == []
    worker.faults.stands_still = False
    await client.event("executing", node=None, prompt_id=prompt_id)
    worker.faults.stands_still = True
    await worker.restart()
    assert not worker.faults.stands_still


async def test_a_thread_that_dies_takes_its_prompt_along(
    worker: EmbeddedWorker, client: Client
) -> None:
    """It is in no list, nothing tells so, and nothing runs until a restart."""
    worker.faults.thread_dies_at = "TimedPass"
    lost = await client.submit(timed(0))
    async with asyncio.timeout(10):
        while (await client.get("/queue"))["queue_pending"]:
            pass
    worker.faults.clear()
    behind = await client.submit(timed(0, salt=1))
    queue = await client.get("/queue")
    assert (queue["queue_running"], [row[1] for row in queue["queue_pending"]]) == ([], [behind])
    assert await client.get(f"/history/{lost}") == {}
    assert (worker.submitted, worker.started) == ([lost, behind], [])
    await worker.restart()
    again = await Client(worker.url).connect()
    await again.run(timed(0))
    await again.close()


def test_everything_is_off_by_default() -> None:
    """A fresh Faults spoils nothing."""
    faults = Faults()
    assert faults.answer_for("/queue") is None
    assert not faults.hangs("/queue")
    assert not faults.take_broken_prompt()
