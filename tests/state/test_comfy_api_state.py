"""The Comfy API's jobs, assets and keys, after a restart of the proxy."""

from __future__ import annotations

import pytest
from job_client import noise, until
from prompt_client import graph
from restarting import Restarting
from v2_client import V2

from comfy_proxy.keys import COMFY_API, STATE


async def written(proxy: Restarting) -> None:
    await proxy.http.app[STATE].durable()


async def test_jobs_and_assets_are_as_before(proxy: Restarting) -> None:
    """Their ids mean the same, their bytes are there, and a key gives the job that it gave."""
    await proxy.start()
    v2, data, workflow = V2(proxy.http), noise(), graph()
    asset = await v2.upload(data)
    job = await v2.ends((await v2.submit(workflow, key="k", metadata={"a": "b"}))["id"])
    content = await v2.content(job["outputs"][0]["id"])
    ran = await v2.get(f"jobs/{job['id']}/workflow")
    await proxy.restart()
    v2 = V2(proxy.http)
    for one in (job, *job["outputs"]):  # our address is another one
        one.pop("url", None)
    after = await v2.get(f"jobs/{job['id']}")
    for one in after["outputs"]:
        one.pop("url")
    assert after == job
    assert await v2.content(job["outputs"][0]["id"]) == content
    assert await v2.get(f"jobs/{job['id']}/workflow") == ran
    assert (await v2.submit(workflow, key="k", metadata={"a": "b"}))["id"] == job["id"]
    assert [one["id"] for one in (await v2.get("jobs"))["jobs"]] == [job["id"]]
    assert await v2.content(asset["id"]) == (200, data)
    assert (await v2.upload(data, expect=200))["id"] == asset["id"]


async def test_odd_texts_are_kept_too(proxy: Restarting) -> None:
    """Half a surrogate pair in labels is JSON: the job is the same after a restart, and its key
    gives it, so that it does not run twice."""
    await proxy.start()
    v2, workflow, labels = V2(proxy.http), graph(), {"a": "\ud800"}
    job = await v2.ends((await v2.submit(workflow, key="k", metadata=labels))["id"])
    await proxy.restart()
    v2 = V2(proxy.http)
    assert (await v2.get(f"jobs/{job['id']}"))["metadata"] == labels
    assert (await v2.submit(workflow, key="k", metadata=labels))["id"] == job["id"]


@pytest.mark.long
@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_jobs_that_run_and_wait_go_on(proxy: Restarting, how: str) -> None:
    """Each ends once under its id, with progress that is heard again."""
    await proxy.start()
    v2 = V2(proxy.http)
    jobs = [await v2.submit(graph(1.5), key=str(n)) for n in range(4)]
    api = proxy.http.app[COMFY_API]
    await until(lambda: sum(one.runs for one in api.jobs) == 2)
    await written(proxy)
    if how == "killed":
        proxy.killed_now()
    await proxy.restart()
    v2 = V2(proxy.http)
    for job in jobs:
        events = await v2.events(job["id"])
        assert (await v2.get(f"jobs/{job['id']}"))["status"] == "succeeded", events
    heard = [name for name, _ in events]
    assert "progress" in heard
    ran = [one for worker in proxy.workers for one in worker.executed]
    assert sorted(ran) == sorted(job["id"] for job in jobs)


async def test_one_that_ended_while_the_proxy_was_away(proxy: Restarting) -> None:
    await proxy.start()
    v2 = V2(proxy.http)
    job = await v2.submit(graph(0.3))
    await written(proxy)
    await proxy.stop()
    await until(lambda: any(job["id"] in one.executed for one in proxy.workers))
    await proxy.start()
    v2 = V2(proxy.http)
    ended = await v2.ends(job["id"])
    assert (ended["status"], len(ended["outputs"])) == ("succeeded", 1)
    assert (await v2.content(ended["outputs"][0]["id"]))[0] == 200


async def test_one_instance_alone(proxy: Restarting) -> None:
    """Its prompts are not on record after a restart: it is asked what became of them."""
    await proxy.start(proxy.workers[0])
    v2 = V2(proxy.http)
    jobs = [await v2.submit(graph(0.4)) for _ in range(2)]
    await written(proxy)
    await proxy.restart(proxy.workers[0])
    v2 = V2(proxy.http)
    told = [(await v2.get(f"jobs/{job['id']}"))["status"] for job in jobs]
    assert set(told) <= {"queued", "running", "succeeded"}
    await until(lambda: len(proxy.workers[0].executed) == 2)
    for job in jobs:
        assert (await v2.ends(job["id"]))["status"] == "succeeded"


async def test_a_job_that_nobody_has_any_more_is_expired(proxy: Restarting) -> None:
    """And its key is free."""
    await proxy.start()
    v2, workflow = V2(proxy.http), graph()
    job = await v2.ends((await v2.submit(workflow, key="k"))["id"])
    record = proxy.http.app[COMFY_API].jobs.find(job["id"])
    record.end = None  # as if the proxy had been killed before it knew
    proxy.http.app[COMFY_API].jobs.on_changed[-1](record)
    async with proxy.http.post("/history", json={"clear": True}) as answer:
        assert answer.status == 200
    await proxy.restart()
    v2 = V2(proxy.http)
    assert (await v2.get(f"jobs/{job['id']}"))["status"] == "expired"
    again = await v2.submit(workflow, key="k")
    assert again["id"] != job["id"]
