"""WorkerProcess: a worker that can really be killed, frozen and orphaned."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from worker_client import Client, timed

from comfy_proxy.embedded import process as process_module
from comfy_proxy.embedded.process import WorkerProcess, WorkerProcessError

pytestmark = pytest.mark.long


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[WorkerProcess]:
    """A running process with test nodes and faults."""
    async with WorkerProcess(
        base_directory=tmp_path, test_nodes=True, allow_faults=True, upscale_models=("x4.pth",)
    ) as running:
        yield running


async def test_kill_and_restart_on_the_same_port(process: WorkerProcess) -> None:
    """SIGKILL in mid-run resets sockets; a restart answers on the same port, with the files."""
    client = await Client(process.url).connect()
    await client.upload(b"x", "in.png")
    await client.submit(timed(60))
    await client.event("progress", value=1)
    url = process.url
    await process.kill()
    with pytest.raises(ConnectionError):
        await client.event("executed")
    assert not process.running
    await process.restart()
    assert process.url == url
    assert await client.get("/queue") == {"queue_running": [], "queue_pending": []}
    assert await client.get("/models/upscale_models") == ["x4.pth"]
    assert await client.read({"filename": "in.png", "type": "input"}) == b"x"
    await client.close()


async def test_a_process_of_2026(tmp_path: Path) -> None:
    """It tells of assets, and has them and job views."""
    async with (
        WorkerProcess(base_directory=tmp_path, of_2026=True) as newer,
        aiohttp.ClientSession(newer.url) as session,
    ):
        async with session.get("/features") as answer:
            assert (await answer.json())["assets"] is True
        for path, key in (("/api/assets", "assets"), ("/api/jobs", "jobs")):
            async with session.get(path) as answer:
                assert (await answer.json())[key] == []


async def test_a_frozen_process(process: WorkerProcess) -> None:
    """While frozen it answers nothing; thawed it answers what was asked meanwhile."""
    client = await Client(process.url).connect()
    process.freeze()
    asked = asyncio.create_task(client.get("/queue"))
    done, _ = await asyncio.wait([asked], timeout=0.1)
    assert not done
    process.thaw()
    assert await asked
    await client.close()


async def test_death_at_a_node(process: WorkerProcess) -> None:
    """The fault die_at_node ends the whole process."""
    client = await Client(process.url).connect()
    async with client.session.post("/embedded/faults", json={"die_at_node": "TimedPass"}):
        pass
    with pytest.raises((ConnectionError, aiohttp.ClientError)):
        await client.run(timed(0))  # it may die even before it has answered the POST
    assert await process.wait() == 137
    await client.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_orderly_end(number: signal.Signals, process: WorkerProcess) -> None:
    """SIGTERM and SIGINT end it with exit code 0, its sockets closed with 1001."""
    client = await Client(process.url).connect()
    process.signal(number)
    with pytest.raises(ConnectionError, match="1001"):
        await client.event("executed")
    assert await process.wait() == 0
    await client.close()


async def test_an_orphan_ends_by_itself(tmp_path: Path) -> None:
    """When the other end of its standard input goes away the process ends."""
    orphan = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "comfy_proxy.embedded", "--base-directory", str(tmp_path)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert b'"url": "http://127.0.0.1:' in await orphan.stdout.readline()
    orphan.stdin.close()
    async with asyncio.timeout(20):
        assert await orphan.wait() == 0


async def test_a_port_that_is_taken(process: WorkerProcess, tmp_path: Path) -> None:
    """A process that cannot listen is an error at the start, not a hang."""
    second = WorkerProcess(base_directory=tmp_path / "second", port=process.port)
    with pytest.raises(WorkerProcessError, match="ended before"):
        await second.start()
    assert not second.running
    with pytest.raises(WorkerProcessError, match="not running"):
        second.freeze()


async def test_a_worker_that_says_nothing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that ends before it is ready: with a reason, and no process is left."""
    monkeypatch.setattr(process_module, "START_TIMEOUT_S", 0.0)
    worker = WorkerProcess(base_directory=tmp_path)
    with pytest.raises(WorkerProcessError, match="said nothing"):
        await worker.start()
    assert not worker.running
