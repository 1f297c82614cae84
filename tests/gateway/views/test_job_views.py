"""What ``GET /api/jobs`` promises over several instances: one list, sorted and paged once."""

from __future__ import annotations

import itertools
from typing import Any

import aiohttp
import pytest
from views_harness import FakeInstance, entry, finished, front, get, moving, two_fakes

from comfy_proxy.cluster.prompt_jobs import pending_job
from comfy_proxy.ledger.events import Deleted

MOST = "9" * 4_300
"""The largest number that Python reads; one more than it, it cannot write."""


def fill(*instances: FakeInstance) -> None:
    """Jobs of every status, dealt out in turn."""
    turns = itertools.cycle(instances)
    next(turns).running = [entry("r", created=70)]
    next(turns).pending = [entry("p", created=80), entry("q", created=75)]
    for start in range(10, 60, 10):
        name = f"h{start}"
        next(turns).history[name] = finished(name, start, start + (start * 7) % 11)


@pytest.mark.long
@pytest.mark.parametrize("prefix", ["sort_by=created_at&", "sort_by=execution_duration&", ""])
@pytest.mark.parametrize("order", ["sort_order=asc&", "sort_order=desc&", ""])
@pytest.mark.parametrize(
    "page",
    [
        *("", "limit=3", "limit=2&offset=1", "offset=6", "limit=5&offset=9", "offset=-4"),
        f"limit=2&offset={MOST}",
        f"limit={MOST}&offset=1",
    ],
)
@pytest.mark.parametrize("status", ["", "status=completed,pending&"])
async def test_a_page_is_that_of_one_server(
    prefix: str, order: str, page: str, status: str
) -> None:
    """Order, page and total of two instances are those of one that has it all."""
    query = f"?{status}{prefix}{order}{page}"
    async with FakeInstance() as whole, two_fakes() as (one, two):
        fill(whole)
        fill(one, two)
        async with aiohttp.ClientSession() as session, front(one, two) as (client, _):
            async with session.get(f"{whole.url}/api/jobs{query}") as answer:
                expected = await answer.json()
            found = await get(client, f"/api/jobs{query}")
    assert found["pagination"] == expected["pagination"]
    if "duration" not in query:  # else those that have not ended tie, in any order
        assert names(found) == names(expected)
    assert [duration(job) for job in found["jobs"]] == [duration(job) for job in expected["jobs"]]


def names(body: dict[str, Any]) -> list[str]:
    return [job["id"] for job in body["jobs"]]


def duration(job: dict[str, Any]) -> int:
    return int(job.get("execution_end_time", 0) - job.get("execution_start_time", 0))


async def test_outputs_bear_the_mark_of_their_instance() -> None:
    """So that ``/view`` finds them; not with shared directories."""
    async with two_fakes() as (one, two), front(one, two) as (client, _):
        two.history = {"a": finished("a", 1, 2)}
        [job] = (await get(client, "/api/jobs"))["jobs"]
        assert job["preview_output"]["subfolder"] == "@2"
    async with (
        two_fakes() as (one, two),
        front(one, two, shared_storage=frozenset({"output"})) as (client, _),
    ):
        two.history = {"a": finished("a", 1, 2)}
        [job] = (await get(client, "/api/jobs"))["jobs"]
        assert job["preview_output"]["subfolder"] == ""


async def test_each_is_asked_for_what_the_page_may_need() -> None:
    """The beginning of its list, with the client's own filters."""
    async with two_fakes() as (one, two), front(one, two) as (client, _):
        await get(client, "/api/jobs?status=pending&limit=2&offset=3&workflow_id=a%26b")
        expected = "/api/jobs?status=pending&limit=5&workflow_id=a%26b"
        assert [path for _, path, _ in one.requests] == [expected]
        assert [path for _, path, _ in two.requests] == [expected]


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "sort_by=x"])
async def test_a_bad_value_gets_comfyuis_own_answer(query: str) -> None:
    """400, from the primary."""
    async with (
        two_fakes() as (one, two),
        front(one, two) as (client, _),
        client.get(f"/api/jobs?{query}") as answer,
    ):
        assert answer.status == 400
        assert set(await answer.json()) == {"error"}


async def test_servers_without_the_route_say_so_themselves() -> None:
    """404 if none has it; one that has it answers for itself."""
    async with two_fakes(with_jobs=False) as (one, two), FakeInstance() as new:
        async with front(one, two) as (client, _), client.get("/api/jobs") as answer:
            assert (answer.status, await answer.text()) == (404, "404: Not Found")
        new.running = [entry("a")]
        async with front(one, new) as (client, _):
            assert names(await get(client, "/api/jobs")) == ["a"]


async def test_a_job_that_moves_is_pending() -> None:
    """It is in the list and in the total once, if the filters let it pass and it is not deleted."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        one.running = [entry("a", created=1)]
        moving(gateway, "b", created=2)
        body = await get(client, "/api/jobs")
        assert names(body) == ["b", "a"]
        assert body["jobs"][0]["status"] == "pending"
        assert body["pagination"]["total"] == 2
        assert names(await get(client, "/api/jobs?status=in_progress")) == ["a"]
        assert names(await get(client, "/api/jobs?ids=a,c")) == ["a"]
        assert names(await get(client, "/api/jobs?workflow_id=x")) == ["a"]  # the fake has none
        two.pending = [entry("b", created=2)]
        assert (await get(client, "/api/jobs"))["pagination"]["total"] == 2
        two.pending = []
        gateway.ledger.apply(Deleted(prompt_ids=["b"]))
        assert names(await get(client, "/api/jobs")) == ["a"]


async def test_priorities_tell_whose_turn_comes_first() -> None:
    """Over instances whose counts differ, and one on its way; in front stays in front.

    What a client chose stays, and so does what runs or has ended.
    """
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        one.running = [entry("r", 90, created=1)]
        one.pending = [entry("a", 91, created=20), entry("f", -92, created=70)]
        two.pending = [entry("b", 3, created=30), entry("d", 4, created=50)]
        moving(gateway, "c", 7, created=40)
        two.pending.append(entry("chosen", 2.5, created=60))
        jobs = {job["id"]: job["priority"] for job in (await get(client, "/api/jobs"))["jobs"]}
    assert sorted(set(jobs) - {"r"}, key=jobs.__getitem__) == ["f", "chosen", *"abcd"]
    assert (jobs["r"], jobs["f"], jobs["chosen"]) == (90, -92, 2.5)


async def test_a_job_at_two_instances_is_one() -> None:
    """It has got as far as the one says that saw it last."""
    async with two_fakes() as (one, two), front(one, two) as (client, _):
        one.pending, two.running = [entry("a")], [entry("a")]
        body = await get(client, "/api/jobs")
        assert [(job["id"], job["status"]) for job in body["jobs"]] == [("a", "in_progress")]
        assert body["pagination"] == {"offset": 0, "limit": None, "total": 1, "has_more": False}


def test_a_waiting_job_has_the_keys_of_comfyuis() -> None:
    """The workflow's id comes from the extra data; what is not known is left out."""
    row = entry("a", 4, 5)
    row[3]["extra_pnginfo"] = {"workflow": {"id": "w"}}
    assert pending_job(row) == {
        "id": "a",
        "status": "pending",
        "priority": 4,
        "create_time": 5,
        "outputs_count": 0,
        "previewable_outputs_count": 0,
        "workflow_id": "w",
    }
    assert "workflow_id" not in pending_job([0, "a", {}, None, []])
