"""Jobs by way of the Python client, against the proxy in front of two workers."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from both_clients import client_of
from forwarder import forwarding
from job_client import PNG, JobClient, noise, open_picture, until

from comfy_proxy.client import ApiError, ClientError, JobFailedError, UnreachableError
from comfy_proxy.client.asynchronous import AsyncClient

SECRET = "0123456789abcdef"


@pytest.mark.long
@pytest.mark.parametrize("made", ["path", "text", "bytes", "file"])
async def test_a_file_may_be_given_in_each_way(client: Any, tmp_path: Path, made: str) -> None:
    """A path, a path as text, the bytes, or a file that is open; the result is the picture."""
    path = tmp_path / "photo.png"
    path.write_bytes(noise(20, 10))
    given = {"path": path, "text": str(path), "bytes": path.read_bytes()}.get(made)
    with path.open("rb") as file:
        job = await client.submit("upscale-image", given or file, scale=2)
        result = await job.result()
        assert not file.closed
    assert result.media_type == "image/png"
    assert open_picture(await result.bytes()).size == (40, 20)


@pytest.mark.long
async def test_a_file_has_the_name_of_its_parameter_as_a_keyword(client: Any) -> None:
    """With what is no file as parameters, of their own types; None is not sent."""
    job = await client.submit("remove-background", image=PNG, crop=False, quality=None)
    assert job.accepted.raw["crop"] is False
    assert (await job.wait()).status == "completed"


@pytest.mark.long
async def test_progress_tells_each_step_and_ends_with_the_end(client: Any) -> None:
    """The status of each event is the job's; afterwards nothing comes."""
    job = await client.submit("timed", PNG, seconds=0.2)
    names = [(event.name, event.status.status) async for event in job.progress()]
    assert names[-1] == ("completed", "completed")
    assert ("status", "processing") in names
    again = [event.name async for event in job.progress()]
    assert again == ["completed"]


@pytest.mark.long
async def test_progress_goes_on_where_its_connection_broke(
    kind: str, front: Any, jobs: JobClient
) -> None:
    """``Last-Event-ID`` is sent: nothing is told twice, and the end is told."""
    async with forwarding(str(front.make_url("/"))) as (line,):
        async with client_of(kind, line.url) as client:
            job = await client.submit("timed", PNG, seconds=0.6)
            names, broken = [], False
            async for event in job.progress():
                names.append((event.name, event.status.status))
                if names[-1] == ("status", "processing") and not broken:
                    broken = True
                    for writer in tuple(line._open):
                        writer.transport.abort()
        assert names[-1] == ("completed", "completed")
        assert names.count(("completed", "completed")) == 1
        assert any(b"last-event-id: " in sent.lower() for sent in line.sent)


@pytest.mark.long
async def test_a_result_is_saved_under_its_name_or_another(client: Any, tmp_path: Path) -> None:
    """In a directory under its own; nothing else is left there, and its mode is a usual one."""
    job = await client.submit("upscale-image", PNG)
    result = await job.result()
    named = await result.save(tmp_path / "large.png")
    (tmp_path / "folder").mkdir()
    placed = await result.save(tmp_path / "folder")
    assert placed == tmp_path / "folder" / result.name
    assert named.read_bytes() == placed.read_bytes() == await result.bytes()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == [result.name]
    (tmp_path / "usual").touch()
    assert placed.stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.long
async def test_a_failed_job_is_an_error_with_its_reason(client: Any) -> None:
    job = await client.submit("failing", PNG, salt=5)
    assert (await job.wait()).status == "failed"
    for ending in (job.result, job.results):
        with pytest.raises(JobFailedError, match="FailNode") as failed:
            await ending()
        assert failed.value.code == "workflow_error"
        assert failed.value.job_id == job.id
    with pytest.raises(JobFailedError):
        await client.run("failing", PNG, salt=6)


async def test_run_is_done_when_it_returns(client: Any) -> None:
    job = await client.run("upscale-image", PNG)
    assert (await job.status()).finished


async def test_a_cancelled_job_is_gone(client: Any, jobs: JobClient) -> None:
    """At the proxy as well; a second time there is nothing to cancel."""
    job = await client.submit("timed", PNG, seconds=20)
    await jobs.reaches(job.id, "processing")
    assert await job.cancel() is True
    assert await job.cancel() is False
    with pytest.raises(ApiError) as unknown:
        await job.status()
    assert unknown.value.status == 404


async def test_an_interrupted_run_cancels_its_job(front: Any, jobs: JobClient) -> None:
    """Whoever started it does not want it any more."""
    async with AsyncClient(str(front.make_url("/"))) as client:
        running = asyncio.create_task(client.run("timed", PNG, seconds=20))
        await until(lambda: list(jobs.service.manager))
        (job,) = jobs.service.manager
        await jobs.reaches(job.id, "processing")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert not list(jobs.service.manager)


@pytest.mark.long
async def test_files_go_to_their_parameters_in_order_or_by_name(
    client: Any, tmp_path: Path
) -> None:
    """A workflow of two files; too many are told with what it takes."""
    (tmp_path / "m.png").write_bytes(noise())
    for job in (
        await client.submit("masked", PNG, tmp_path / "m.png"),
        await client.submit("masked", mask=tmp_path / "m.png", photo=PNG),
        await client.submit("masked", PNG, mask=tmp_path / "m.png"),
    ):
        assert open_picture(await (await job.result()).bytes()).mode == "RGBA"
    with pytest.raises(ClientError, match="photo, mask"):
        await client.submit("masked", PNG, PNG, PNG)


@pytest.mark.long
async def test_a_workflow_without_a_file_may_have_several_results(
    client: Any, tmp_path: Path
) -> None:
    """Each with its name, kind and size."""
    job = await client.submit("drawn", color=255, pictures=3)
    results = await job.results()
    assert [one.type for one in results] == ["image"] * 3
    assert len({one.name for one in results}) == 3
    assert [(one.info.width, one.info.height) for one in results] == [(8, 6)] * 3
    for one in results:
        assert (await one.save(tmp_path)).stat().st_size == one.info.size_bytes


async def test_workflows_are_told_with_their_parameters(client: Any) -> None:
    known = {one.name: one for one in await client.workflows()}
    assert known["masked"].file_parameters == ("photo", "mask")
    assert known["drawn"].required == ("color",)
    assert (await client.workflow("drawn")).title == "Drawn"
    with pytest.raises(ApiError) as unknown:
        await client.workflow("none")
    assert unknown.value.status == 404


@pytest.mark.long
async def test_jobs_are_listed_by_status_and_workflow(client: Any) -> None:
    done = await client.run("upscale-image", PNG)
    running = await client.submit("timed", PNG, seconds=20)
    assert {one.job_id for one in await client.jobs()} == {done.id, running.id}
    (only,) = await client.jobs(status="completed")
    assert only.job_id == done.id
    (only,) = await client.jobs(workflow="timed")
    assert only.job_id == running.id
    assert (await client.job(running.id).status()).type == "timed"


async def test_a_mistake_names_field_code_and_request(client: Any) -> None:
    with pytest.raises(ApiError) as mistake:
        await client.submit("upscale-image", PNG, scale=900)
    assert mistake.value.field == "scale"
    assert mistake.value.code == "invalid_parameter"
    assert mistake.value.status == 400
    assert mistake.value.request_id
    assert "scale" in str(mistake.value)


async def test_the_key_is_sent(kind: str, workers: Any, start_proxy: Callable[..., Any]) -> None:
    front = await start_proxy(*workers, api_keys=(SECRET,))
    async with client_of(kind, front.make_url("/"), SECRET) as client:
        assert await client.jobs() == []
        assert SECRET not in repr(client._real if kind == "sync" else client)
    async with client_of(kind, front.make_url("/"), "wrong") as client:
        with pytest.raises(ApiError) as refused:
            await client.jobs()
    assert refused.value.status == 401


@pytest.mark.long
@pytest.mark.parametrize("root", [None, "/comfy"])
async def test_the_address_may_have_a_path(
    kind: str, root: str | None, workers: Any, start_proxy: Callable[..., Any]
) -> None:
    """Of another server that shows the proxy there, whether or not the proxy knows of it."""
    front = await start_proxy(*workers, root_path=root)

    async def passed(request: web.Request) -> web.Response:
        path = request.rel_url.raw_path.removeprefix("/comfy")
        url = front.make_url("/").with_path(path, encoded=True)
        async with front.session.request(
            request.method,
            url.with_query(request.rel_url.query_string),
            data=await request.read(),
            headers=request.headers,
        ) as answer:
            kept = {"Content-Type": answer.headers["Content-Type"]}
            return web.Response(body=await answer.read(), status=answer.status, headers=kept)

    outer = web.Application()
    outer.router.add_route("*", "/comfy/{rest:.*}", passed)
    async with TestServer(outer) as server, client_of(kind, server.make_url("/comfy/")) as client:
        job = await client.submit("upscale-image", PNG)
        assert [event.name async for event in job.progress()][-1] == "completed"
        assert open_picture(await (await job.result()).bytes()).width == 32


async def test_a_submission_whose_answer_was_lost_is_one_job(
    kind: str, front: Any, jobs: JobClient
) -> None:
    """It is sent again with the same ``Idempotency-Key``, the file from its beginning."""
    async with forwarding(str(front.make_url("/"))) as (line,):
        line.unanswered = True

        def mended(piece: bytes) -> bool:
            line.unanswered = line.dialled < 2
            return False

        line.doomed = mended
        async with client_of(kind, line.url) as client:
            job = await client.submit("upscale-image", io.BytesIO(PNG))
            await job.wait()
        assert line.dialled >= 2
    assert [one.id for one in jobs.service.manager] == [job.id]


async def test_a_stream_that_cannot_be_read_again_is_sent_once(kind: str, front: Any) -> None:
    """Half of it may be gone: the broken connection is told."""

    class Stream(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            piece = source.read(len(buffer))
            buffer[: len(piece)] = piece
            return len(piece)

    async with forwarding(str(front.make_url("/"))) as (line,), client_of(kind, line.url) as client:
        source = io.BytesIO(PNG)
        job = await client.submit("upscale-image", Stream())
        assert (await job.wait()).status == "completed"
        source = io.BytesIO(PNG)
        line.doomed = lambda piece: True
        with pytest.raises(UnreachableError):
            await client.submit("upscale-image", Stream())
        assert line.broken == 1


async def test_a_file_that_is_none_is_told_before_anything_is_sent(
    client: Any, jobs: JobClient, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        await client.submit("upscale-image", tmp_path / "missing.png")
    with pytest.raises(ClientError, match="open for bytes"):
        await client.submit("upscale-image", io.StringIO("text"))
    assert not list(jobs.service.manager)
