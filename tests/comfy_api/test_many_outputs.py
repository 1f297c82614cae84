"""Jobs with thousands of outputs: what is told of them is made a few at a time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from loop_turns import loop_turns
from prompt_client import Http
from v2_client import V2

from comfy_proxy.comfy_api import events, follower, views
from comfy_proxy.comfy_api.jobs import Job, JobStatus
from comfy_proxy.comfy_api.outputs import FOUND_AT_ONCE, Output, outputs_in_turns, outputs_of
from comfy_proxy.counted_response import LARGE, CountedResponse
from comfy_proxy.keys import COMFY_API

COUNT = 2_000


@pytest.fixture
def ended(proxy: Http) -> list[Job]:
    """Three jobs, newest first, with COUNT outputs each."""
    api = proxy.app[COMFY_API]
    now = datetime.now(UTC)
    jobs = []
    for name in ("a", "b", "c"):
        files = [{"filename": f"{number}.png"} for number in range(COUNT)]
        outputs = {one.id: one for one in outputs_of(name, {"9": {"images": files}}, b"s")}
        end = JobStatus.SUCCEEDED
        job = Job(id=name, owner="", created=now, completed=now, end=end, accepted=True)
        job.outputs = outputs
        api.restore(job)
        jobs.insert(0, job)
    return jobs


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Bytes of each write of an answer, and outputs that were made for it."""
    done: list[tuple[int, int]] = []
    made = 0
    write, output_json = CountedResponse.write, views.output_json

    def counting(job: Job, output: Output, links: views.Links) -> Any:
        nonlocal made
        made += 1
        return output_json(job, output, links)

    async def noting(self: CountedResponse, data: bytes) -> None:
        nonlocal made
        done.append((len(data), made))
        made = 0
        await write(self, data)

    for module in (views, events):
        monkeypatch.setattr(module, "output_json", counting)
    monkeypatch.setattr(CountedResponse, "write", noting)
    return done


async def test_a_page_of_them_is_never_in_memory(
    v2: V2, ended: list[Job], writes: list[tuple[int, int]]
) -> None:
    """A hundred jobs with 1,000 outputs each are 50 MB of JSON, and took three times that."""
    told = await v2.get("jobs", limit="100")
    assert [one["id"] for one in told["jobs"]] == [job.id for job in ended]
    assert [one["id"] for job in told["jobs"] for one in job["outputs"]] == [
        output_id for job in ended for output_id in job.outputs
    ]
    assert told["truncated"] is False
    assert len(writes) > 10
    assert max(size for size, _ in writes) < 2 * LARGE
    assert max(made for _, made in writes) < LARGE / 200


async def test_a_page_has_its_cursor_last(v2: V2, ended: list[Job]) -> None:
    """Also of a long one."""
    first = await v2.get("jobs", limit="2")
    rest = await v2.get("jobs", limit="2", cursor=first["next_cursor"])
    assert [len(one["jobs"]) for one in (first, rest)] == [2, 1]
    assert "next_cursor" not in rest


async def test_one_job_is_told_in_pieces_too(
    v2: V2, ended: list[Job], writes: list[tuple[int, int]]
) -> None:
    """As what it is when the answer begins."""
    told = await v2.get(f"jobs/{ended[0].id}")
    assert [one["id"] for one in told["outputs"]] == list(ended[0].outputs)
    assert max(size for size, _ in writes) < 2 * LARGE


@pytest.mark.long
async def test_its_events_are_made_one_at_a_time(
    v2: V2, ended: list[Job], writes: list[tuple[int, int]]
) -> None:
    """A client that comes late is told all outputs at once: 10,000 took 60 ms."""
    told = await v2.events(ended[0].id)
    assert [data["id"] for name, data in told if name == "output"] == list(ended[0].outputs)
    assert max(made for _, made in writes) == 1


async def test_sizes_are_asked_for_by_a_few_tasks(
    proxy: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by one for each output: 10,000 are begun in one turn of the loop."""
    files = [{"filename": f"{number}.png"} for number in range(COUNT)]
    outputs = list(outputs_of("a", {"9": {"images": files}}, b"s"))
    most = 0

    async def find(file: Any) -> None:
        nonlocal most
        tasks = [one for one in asyncio.all_tasks() if "_sized" in repr(one.get_coro())]
        most = max(most, len(tasks))
        await asyncio.sleep(0)

    api = proxy.app[COMFY_API]
    monkeypatch.setattr(api.doors.file_view, "find", find)
    assert await api.follower._sized(outputs) == outputs
    assert 0 < most <= follower.SIZES_AT_ONCE


async def test_they_are_found_a_few_at_a_time() -> None:
    """The ids of 10,000 took 170 ms in one turn; each is a hash."""
    files = {"images": [{"filename": f"{number}.png"} for number in range(COUNT)]}
    with loop_turns() as turns:
        found = await outputs_in_turns(outputs_of("a", {"9": files}, b"s"))
    assert [one.name for one in found] == [one["filename"] for one in files["images"]]
    assert turns.count >= COUNT // FOUND_AT_ONCE
