"""``config/clients``: the JavaScript client, run by Node against the proxy."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forwarder import forwarding
from job_client import PNG, JobClient, noise, open_picture, until, write_templates

CLIENTS = Path(__file__).parents[1] / "config" / "clients"
MODULE = CLIENTS / "comfy-proxy.mjs"
SECRET = "0123456789abcdef"
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="there is no node on this machine")


@pytest.fixture
async def front(workers: Any, start_proxy: Callable[..., Any], tmp_path: Path) -> Any:
    return await start_proxy(*workers, workflow_directory=write_templates(tmp_path))


async def node(*words: object) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        str(NODE), *map(str, words), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def script(folder: Path, url: object, text: str, *options: str, more: str = "") -> Any:
    """What the script gives to ``done``, as JSON; ``picture`` is a Blob, ``proxy`` the client."""
    (folder / "p.png").write_bytes(PNG)
    lines = f"""
        import {{ openAsBlob }} from "node:fs";
        import {{ ComfyProxy, ComfyProxyError }} from {json.dumps(MODULE.as_uri())};
        const proxy = new ComfyProxy({json.dumps(str(url))}, {{ {more} }});
        const picture = await openAsBlob({json.dumps(str(folder / "p.png"))});
        const done = (value) => console.log(JSON.stringify(value));
        {text}
    """
    (folder / "script.mjs").write_text(lines)
    code, out, err = await node("--no-warnings", *options, folder / "script.mjs")
    assert code == 0, err
    return json.loads(out)


def test_it_is_a_page_that_one_can_read() -> None:
    assert len(MODULE.read_text().splitlines()) < 150


@pytest.mark.long
@needs_node
async def test_the_example_makes_a_picture(front: Any, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(noise(20, 10))
    url, large = str(front.make_url("/")), tmp_path / "large.png"
    code, out, err = await node(CLIENTS / "upscale.mjs", url, tmp_path / "photo.png", large)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "completed 100 %"
    assert open_picture(large.read_bytes()).size == (40, 20)


@pytest.mark.long
@needs_node
@pytest.mark.parametrize("options", [(), ("--experimental-eventsource",)], ids=["fetch", "native"])
async def test_events_go_on_where_the_connection_broke(
    front: Any, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """By fetch as in Node, and by an EventSource as in a browser."""
    if options and (await node(*options, "--eval", "new EventSource('about:')"))[0] == 9:
        pytest.skip("this node has no EventSource")
    broken = []
    async with forwarding(str(front.make_url("/"))) as (line,):

        async def break_once() -> None:
            await until(lambda: any(b"/events" in sent for sent in line.sent))
            (job,) = JobClient(front).service.manager
            await JobClient(front).reaches(job.id, "processing")
            broken.extend(line._open)
            for writer in tuple(line._open):
                writer.transport.abort()

        breaking = asyncio.create_task(break_once())
        names = await script(
            tmp_path,
            line.url,
            """
            // Node's EventSource keeps no process alive while it waits to come back.
            const awake = setInterval(() => {}, 1000);
            const job = await proxy.submit("timed", { image: picture, seconds: 4 });
            const names = [];
            for await (const event of proxy.progress(job.job_id)) names.push(event.name);
            clearInterval(awake);
            done(names);
            """,
            *options,
        )
        await breaking
    assert broken
    assert names[0] == "status"
    assert names[-1] == "completed"
    assert names.count("completed") == 1
    assert any(b"last-event-id: " in sent.lower() for sent in line.sent)


@pytest.mark.long
@needs_node
async def test_mistakes_and_failures_are_errors_with_their_codes(
    front: Any, tmp_path: Path
) -> None:
    told = await script(
        tmp_path,
        front.make_url("/"),
        """
        const told = [];
        const caught = (error) => told.push([error.status, error.code, error.field ?? null]);
        await proxy.submit("upscale-image", { image: picture, scale: 99 }).catch(caught);
        const job = await proxy.submit("failing", { image: picture });
        await proxy.results(job.job_id).catch(caught);
        await proxy.cancel(job.job_id);
        await proxy.cancel(job.job_id).catch(caught);
        done(told);
        """,
    )
    assert told == [
        [400, "invalid_parameter", "scale"],
        [502, "workflow_error", None],
        [404, "job_not_found", None],
    ]


@pytest.mark.long
@needs_node
async def test_a_submission_whose_answer_was_lost_is_one_job(front: Any, tmp_path: Path) -> None:
    """It is sent again with the same key."""
    async with forwarding(str(front.make_url("/"))) as (line,):
        line.unanswered = True

        def mended(piece: bytes) -> bool:
            line.unanswered = line.dialled < 2
            return False

        line.doomed = mended
        job = await script(
            tmp_path,
            line.url,
            """done((await proxy.submit("upscale-image", { image: picture })).job_id);""",
        )
    assert [one.id for one in JobClient(front).service.manager] == [job]


@pytest.mark.long
@needs_node
async def test_a_key_is_sent(workers: Any, start_proxy: Callable[..., Any], tmp_path: Path) -> None:
    front = await start_proxy(*workers, api_keys=(SECRET,))
    text = """
        const job = await proxy.submit("upscale-image", { image: picture });
        for await (const event of proxy.progress(job.job_id)) ;
        const [made] = await proxy.results(job.job_id);
        done((await made.blob()).type);
        """
    made = await script(
        tmp_path,
        front.make_url("/"),
        text,
        "--experimental-eventsource",
        more=f"apiKey: '{SECRET}'",
    )
    assert made == "image/png"
