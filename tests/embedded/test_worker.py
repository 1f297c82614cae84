"""EmbeddedWorker: starting, stopping, dying, and what is left afterwards."""

import asyncio
import threading
from io import BytesIO
from pathlib import Path

import aiohttp
import pytest
from PIL import Image
from worker_client import Client, timed

from comfy_proxy.embedded.worker import EmbeddedWorker


async def test_says_what_it_is(client: Client) -> None:
    """Nobody can take the worker for a ComfyUI with a GPU."""
    stats = await client.get("/system_stats")
    assert stats["system"]["embedded_worker"] is True
    assert stats["system"]["comfyui_version"] == "0.3.75+embedded"
    assert "OpenCV GrabCut" in stats["devices"][0]["name"]
    async with client.session.get("/") as page:
        assert "This is not ComfyUI" in await page.text()


async def test_restart_forgets_what_a_process_forgets(
    worker: EmbeddedWorker, client: Client
) -> None:
    """After a restart: same port, no history, numbers from 0, no temp files, the others there."""
    await client.upload(b"picture", "in.png")
    await client.upload(b"picture", "passing.png", type="temp")
    await client.run(timed(0))
    port = worker.port

    await worker.restart()

    assert worker.port == port
    again = Client(worker.url)
    assert await again.get("/history") == {}
    async with again.session.post("/prompt", json={"prompt": timed(0)}) as answer:
        assert (await answer.json())["number"] == 0
    names = {
        folder: sorted(path.name for path in (worker.folders.base / folder).iterdir())
        for folder in ("input", "output", "temp")
    }
    assert names["input"] == ["in.png"]
    assert "timed_00001_.png" in names["output"]
    assert names["temp"] == []
    await again.close()


async def test_restart_without_files(worker: EmbeddedWorker, client: Client) -> None:
    """A restart with keep_files=False finds an empty disk."""
    await client.upload(b"picture", "in.png")
    await worker.restart(keep_files=False)
    assert list((worker.folders.base / "input").iterdir()) == []


async def test_output_names_go_on_from_the_disk(worker: EmbeddedWorker, client: Client) -> None:
    """The counter of a prefix survives a restart, because the files do."""
    await client.run(timed(0, salt=1))
    await worker.restart()
    again = await Client(worker.url).connect()
    entry = await again.run(timed(0, salt=2))
    assert entry["outputs"]["3"]["images"][0]["filename"] == "timed_00002_.png"
    await again.close()


async def test_kill_says_no_goodbye(worker: EmbeddedWorker, client: Client) -> None:
    """A killed worker resets its sockets in mid-run and refuses connections."""
    await client.submit(timed(60))
    await client.event("progress", value=1)
    await worker.kill()
    with pytest.raises(ConnectionError, match="1006"):
        await client.event("executed")
    with pytest.raises(aiohttp.ClientConnectorError):
        await client.get("/queue")
    assert worker.executed == []


async def test_stop_says_goodbye(worker: EmbeddedWorker, client: Client) -> None:
    """A stopped worker ends its running prompt and closes sockets with 1001."""
    await client.submit(timed(60))
    await client.event("progress", value=1)
    ended = asyncio.create_task(client.event("executed"))
    await worker.stop()
    with pytest.raises(ConnectionError, match="1001"):
        await ended


async def test_nothing_is_left_running(tmp_path: Path) -> None:
    """After stop there is no thread and no task of the worker."""
    threads, tasks = set(threading.enumerate()), asyncio.all_tasks()
    async with EmbeddedWorker(base_directory=tmp_path) as worker:
        assert any(worker.name in thread.name for thread in threading.enumerate())
    left = [thread for thread in set(threading.enumerate()) - threads if "executor " in thread.name]
    assert left == []
    assert asyncio.all_tasks() == tasks


async def test_several_in_one_process(tmp_path: Path) -> None:
    """Two workers share nothing: not the queue, not the files, not the numbers."""
    one = EmbeddedWorker(base_directory=tmp_path / "one", test_nodes=True)
    two = EmbeddedWorker(base_directory=tmp_path / "two")
    async with one, two:
        client = await Client(one.url).connect()
        await client.run(timed(0))
        assert (len(one.executed), two.executed) == (1, [])
        other = Client(two.url)
        assert await other.get("/history") == {}
        assert await other.get("/object_info/TimedPass") == {}
        await client.close()
        await other.close()


async def test_the_journal(worker: EmbeddedWorker, client: Client) -> None:
    """Tests can see what was accepted, begun, finished and uploaded."""
    await client.upload(b"picture", "in.png", subfolder="some")
    running = await client.submit(timed(60))
    waiting = await client.submit(timed(0))
    await client.event("progress", value=1)
    assert worker.submitted == [running, waiting]
    assert worker.started == [running]
    async with client.session.post("/interrupt", json={"prompt_id": running}):
        await client.event("executing", node=None, prompt_id=waiting)
    assert worker.executed == [waiting]
    assert worker.uploads == ["input/some/in.png"]
    assert worker.open_sockets == 1


async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    """Starting on a port in use is an OSError, and leaves nothing behind."""
    async with EmbeddedWorker(base_directory=tmp_path / "one") as one:
        two = EmbeddedWorker(base_directory=tmp_path / "two")
        with pytest.raises(OSError, match="in use"):
            await two.start(one.port)
        assert not two.running
        with pytest.raises(RuntimeError, match="runs already"):
            await one.start()


async def test_nodes_can_be_missing(tmp_path: Path) -> None:
    """`missing_nodes` takes classes out of /object_info and of what can run."""
    missing = ("SaveImageWebsocket", "RemoveBackground")
    async with EmbeddedWorker(base_directory=tmp_path, missing_nodes=missing) as worker:
        client = Client(worker.url)
        assert not set(missing) & set(await client.get("/object_info"))
        await client.close()


async def test_upscale_models(tmp_path: Path) -> None:
    """Configured models are listed, and each makes a picture four times as large."""
    async with EmbeddedWorker(base_directory=tmp_path, upscale_models=("x4.pth",)) as worker:
        client = await Client(worker.url).connect()
        assert await client.get("/models/upscale_models") == ["x4.pth"]
        loader = (await client.get("/object_info/UpscaleModelLoader"))["UpscaleModelLoader"]
        assert loader["input"]["required"]["model_name"][1]["options"] == ["x4.pth"]
        empty = {"width": 10, "height": 6, "batch_size": 1, "color": 255}
        entry = await client.run(
            {
                "1": {"class_type": "EmptyImage", "inputs": empty},
                "2": {"class_type": "UpscaleModelLoader", "inputs": {"model_name": "x4.pth"}},
                "3": {
                    "class_type": "ImageUpscaleWithModel",
                    "inputs": {"upscale_model": ["2", 0], "image": ["1", 0]},
                },
                "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
            }
        )
        content = await client.read(entry["outputs"]["4"]["images"][0])
        assert Image.open(BytesIO(content)).size == (40, 24)
        await client.close()


async def test_an_older_server(tmp_path: Path) -> None:
    """Without preview metadata there are no feature flags at all, and pictures come as type 1."""
    async with EmbeddedWorker(base_directory=tmp_path, preview_metadata=False) as worker:
        client = await Client(worker.url).connect()
        async with client.session.get("/features") as answer:
            assert answer.status == 404
        flags = {"supports_preview_metadata": True}
        await client.socket.send_json({"type": "feature_flags", "data": flags})
        empty = {"width": 4, "height": 4, "batch_size": 1, "color": 255}
        await client.submit(
            {
                "1": {"class_type": "EmptyImage", "inputs": empty},
                "2": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}},
            }
        )
        async with asyncio.timeout(10):
            while (message := await client.socket.receive()).type is not aiohttp.WSMsgType.BINARY:
                assert "feature_flags" not in message.data
        assert message.data[:8] == b"\0\0\0\1\0\0\0\2"
        await client.close()


async def test_an_output_that_names_a_missing_node_does_no_harm(client: Client) -> None:
    """A prompt that is valid in part runs in part (trap 25), and so does the next one."""
    graph = {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 1},
        },
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["missing", 0]}},
    }
    for _ in range(2):
        entry = await client.run(graph)
        assert set(entry["outputs"]) == {"2"}


async def test_an_interrupt_of_a_prompt_that_just_began_is_heard(
    worker: EmbeddedWorker, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the moment in which a prompt is the running one an interrupt ends it."""
    assert worker._life is not None
    queue, executor = worker._life.instance.queue, worker._life.instance.executor
    take = queue.get

    def take_and_interrupt() -> object:
        item = take()
        if item is not None:
            executor.interrupt()
        return item

    await client.run(timed(0))  # the executor's thread waits in the original `get` until now
    monkeypatch.setattr(queue, "get", take_and_interrupt)
    await client.run(timed(0))
    await client.submit(timed(600))
    await client.event("execution_interrupted")
