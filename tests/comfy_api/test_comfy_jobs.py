"""``/api/v2/jobs``: what is taken, what is refused and how, and what a job tells of itself."""

from __future__ import annotations

import asyncio
import io
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import pytest
from job_client import until
from prompt_client import Http, get, graph, post
from v2_client import V2, code, statuses

from comfy_proxy.comfy_api.submission import MAX_BODY_BYTES
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import COMFY_API, GATEWAY

Workers = tuple[EmbeddedWorker, EmbeddedWorker]


async def test_a_job_from_its_submission_to_its_end(v2: V2) -> None:
    job = await v2.submit(graph(0.1), metadata="mine", priority=0)
    assert job["status"] in ("queued", "running")
    assert (job["metadata"], job["priority"]) == ("mine", 0)
    assert (job["outputs"], job["error"], job["completed_at"]) == ([], None, None)
    assert job["urls"]["self"] == f"/api/v2/jobs/{job['id']}"
    ended = await v2.ends(job["id"])
    assert (ended["status"], ended["error"]) == ("succeeded", None)
    assert ended["created_at"] <= ended["started_at"] <= ended["completed_at"]
    assert ended["completed_at"] < ended["expires_at"]
    times = [datetime.fromisoformat(ended[f"{name}_at"]) for name in ("created", "completed")]
    told_ms = ended["metrics"]["queue_ms"] + ended["metrics"]["execution_ms"]
    assert told_ms == pytest.approx((times[1] - times[0]) / timedelta(milliseconds=1), abs=2)
    assert ended["progress"]["value"] == 1.0
    (output,) = ended["outputs"]
    assert (output["node_id"], output["type"]) == ("3", "image")
    status, content = await v2.content(output["id"])
    assert (status, len(content)) == (200, output["size_bytes"])
    asset = await v2.get(f"assets/{output['id']}")
    assert (asset["job_id"], asset["size_bytes"]) == (job["id"], len(content))


async def test_its_id_is_its_prompts(v2: V2, proxy: Http) -> None:
    """So the queue, the history and the web frontend show it as any other prompt."""
    job = await v2.submit()
    await v2.ends(job["id"])
    assert list(await get(proxy, f"/history/{job['id']}")) == [job["id"]]


@pytest.mark.long
@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        (b"{", 400, "invalid_request"),
        (b"[]", 400, "invalid_request"),
        (b"{}", 422, "invalid_workflow"),
        (b'{"workflow": {"1": null}}', 422, "invalid_workflow"),
        (b'{"workflow": {"1": {"inputs": {}}}}', 422, "invalid_workflow"),
        (b'{"workflow": {"1": {"class_type": ["a"], "inputs": {}}}}', 422, "invalid_workflow"),
        (b'{"workflow": {"nodes": [], "links": []}}', 422, "workflow_format_ui"),
        (b'{"workflow": {}, "webhook_url": "x"}', 422, "invalid_workflow"),
        (b'{"workflow": {}, "priority": "high"}', 422, "invalid_request"),
        (b'{"workflow": {}, "priority": 1000001}', 422, "invalid_request"),
        (b'{"workflow": {}, "metadata": {"a": 1}}', 422, "metadata_invalid"),
        (b'{"workflow": {}, "metadata": {"a b": "1"}}', 422, "metadata_invalid"),
        (b'{"workflow": {}, "metadata": {"a": "\\u202e"}}', 422, "metadata_invalid"),
        (b'{"workflow": {}, "metadata": {"a": "%s"}}' % (b"x" * 257), 422, "metadata_invalid"),
        (b'{"workflow": {}, "metadata": "%s"}' % (b"x" * 1025), 422, "metadata_invalid"),
        (b'{"workflow": {}, "extra_data": {"other": "x"}}', 400, "invalid_request"),
        (b'{"workflow": {}}', 422, "invalid_workflow"),
        (b'{"workflow": {"1": {"class_type": "Absent", "inputs": {}}}}', 422, "invalid_workflow"),
        (b'{"workflow": {"1": {"__type": "core/ASSET", "info": 1}}}', 422, "missing_asset"),
        (b'{"workflow": {"1": {"__type": "core/ASSET", "info": {"id": "x"}}}}', 422,
         "missing_asset"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_named(proxy: Http, body: bytes, status: int, expected: str) -> None:
    """In the contract's form, and no job is left behind."""
    async with proxy.post("/api/v2/jobs", data=body) as answer:
        told = await answer.json()
        assert (answer.status, code(told)) == (status, expected), told
        assert answer.headers["X-Comfy-Request-Id"] == answer.headers["X-Request-ID"]
    assert len(proxy.app[COMFY_API].jobs) == 0


async def test_each_node_that_is_wrong_is_named_with_its_field(v2: V2) -> None:
    workflow = graph()
    del workflow["3"]["inputs"]["images"]
    told = await v2.post("jobs", workflow, expect=422)
    (complaint,) = told["error"]["details"]["node_errors"]["3"]
    assert (complaint["field"], complaint["reason"]) == ("images", "required_input_missing")


async def test_a_workflow_that_is_too_long_is_refused(proxy: Http) -> None:
    async with proxy.post("/api/v2/jobs", data=io.BytesIO(b" " * (MAX_BODY_BYTES + 1))) as answer:
        assert (answer.status, code(await answer.json())) == (413, "payload_too_large")


async def test_without_an_instance_it_is_to_come_again(v2: V2, workers: Workers) -> None:
    for worker in workers:
        await worker.kill()
    told = await v2.post("jobs", graph(), expect=503)
    assert code(told) == "upstream_unreachable"


async def test_what_nobody_knows_is_not_found(v2: V2) -> None:
    for path in (f"jobs/{uuid.uuid4()}", "jobs/..%2F", f"assets/{uuid.uuid4()}"):
        assert code(await v2.get(path, expect=404)) == "not_found"


async def test_errors_before_a_handler_have_the_contracts_form_too(
    workers: Workers, start_proxy: Callable[..., Any]
) -> None:
    """A missing key is found before anybody knows whose job it is about."""
    proxy = await start_proxy(*workers, api_keys=("a-key-of-sixteen-characters",))
    assert code(await V2(proxy).get("jobs", expect=401)) == "unauthorized"
    assert await V2(proxy).get("health") == {"status": "healthy"}
    async with proxy.get("/api/v2/userdata") as answer:
        assert (answer.status, (await answer.json())["code"]) == (401, "unauthorized")


async def test_links_have_the_path_under_which_clients_see_us(
    workers: Workers, start_proxy: Callable[..., Any]
) -> None:
    """Behind a server that is believed those of contents have its scheme and host too."""
    v2 = V2(await start_proxy(*workers, root_path="/comfy"))
    v2.headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "gpu.example"}
    job = await v2.submit()
    assert job["urls"]["events"] == f"/comfy/api/v2/jobs/{job['id']}/events"
    (output,) = (await v2.ends(job["id"]))["outputs"]
    assert output["url"] == f"https://gpu.example/comfy/api/v2/assets/{output['id']}/content"


async def test_a_page_of_an_allowed_origin_may_use_it(
    workers: Workers, start_proxy: Callable[..., Any]
) -> None:
    """The preflight names what such a page sends; a HEAD route has one too."""
    proxy = await start_proxy(*workers, cors_origins=("https://app.example",))
    for method, path in (("POST", "/api/v2/jobs"), ("HEAD", "/api/v2/assets/by-hash/x")):
        headers = {
            "Origin": "https://app.example",
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
        }
        async with proxy.options(path, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example"


@pytest.mark.long
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v2/userdata"),
        ("GET", "/api/v2/manager/queue/status"),
        ("PUT", "/api/v2/jobs"),
        ("DELETE", "/api/v2/jobs/x"),
        ("HEAD", "/api/v2/jobs"),
        ("POST", "/api/v2/assets/from-path"),
        ("GET", "/api/v2/jobs/x/y/z"),
    ],
)
async def test_all_else_below_api_v2_is_comfyuis(proxy: Http, method: str, path: str) -> None:
    """Other methods too: the answer is that of an instance, which has no such route."""
    async with proxy.request(method, path) as answer:
        assert answer.status in (200, 404, 405)
        assert answer.content_type != "application/json" or answer.status == 200


# --- Idempotency-Key -----------------------------------------------------------------------------


async def test_a_repeated_request_gets_the_same_job(v2: V2, workers: Workers) -> None:
    """Once it has ended too, and whatever its key for partner nodes is."""
    workflow = graph()
    first = await v2.submit(workflow, key="k")
    ended = await v2.ends(first["id"])
    again = await v2.submit(workflow, key="k", extra_data={"api_key_comfy_org": "secret"})
    assert again == ended
    assert sum(len(one.executed) for one in workers) == 1


async def test_another_request_with_its_key_is_refused(v2: V2) -> None:
    await v2.submit(graph(), key="k")
    assert code(await v2.post("jobs", graph(), key="k", expect=422)) == "idempotency_key_reuse"
    for key in ("", "x" * 256):
        assert code(await v2.post("jobs", graph(), key=key, expect=400)) == "invalid_request"


async def test_two_at_once_make_one_job(v2: V2, workers: Workers) -> None:
    workflow = graph()
    jobs = await asyncio.gather(*(v2.submit(workflow, key="k") for _ in range(5)))
    assert len({job["id"] for job in jobs}) == 1
    await v2.ends(jobs[0]["id"])
    assert sum(len(one.executed) for one in workers) == 1


async def test_a_key_whose_job_nobody_took_is_free(v2: V2) -> None:
    """Those that waited for it at the same time try for themselves."""
    wrong = {"1": {"class_type": "Absent", "inputs": {}}}
    refused = await asyncio.gather(*(v2.post("jobs", wrong, key="k", expect=422) for _ in range(3)))
    assert {code(one) for one in refused} == {"invalid_workflow"}
    await v2.submit(graph(), key="k")


async def test_a_post_that_was_taken_and_not_answered_runs_once(v2: V2, workers: Workers) -> None:
    """The connection to the instance breaks: it is asked whether it has the prompt."""
    for worker in workers:
        worker.faults.break_prompts = 1
    job = await v2.submit(graph(), key="k")
    assert (await v2.ends(job["id"]))["status"] == "succeeded"
    assert sum(len(one.executed) for one in workers) == 1


# --- priority ------------------------------------------------------------------------------------


async def test_priority_decides_who_is_next(
    workers: Workers, start_proxy: Callable[..., Any]
) -> None:
    """Higher ones first, equal ones in their order, negative ones last; other prompts are 0."""
    proxy = await start_proxy(workers[0])
    v2 = V2(proxy)
    running = await v2.submit(graph(0.6))
    await until(lambda: proxy.app[COMFY_API].jobs.find(running["id"]).runs)
    wanted = {-1: "last", 0: "a", 5: "second", 9: "first"}
    ids = {(p, n): (await v2.submit(priority=p))["id"] for n in range(2) for p in wanted}
    async with proxy.post("/prompt", json={"prompt": graph()}) as answer:
        own = (await answer.json())["prompt_id"]
    for job_id in ids.values():
        await v2.ends(job_id)
    await until(lambda: own in workers[0].executed)
    order = [workers[0].executed.index(job_id) for job_id in ids.values()]
    by_turn = [key for _, key in sorted(zip(order, ids, strict=True))]
    assert by_turn == [(9, 0), (9, 1), (5, 0), (5, 1), (0, 0), (0, 1), (-1, 0), (-1, 1)]
    last_of_all = workers[0].executed.index(ids[-1, 0])
    assert workers[0].executed.index(own) < last_of_all


# --- cancel and queue ----------------------------------------------------------------------------


async def test_places_in_the_queue_are_told(v2: V2, proxy: Http) -> None:
    jobs = [await v2.submit(graph(20.0)) for _ in range(6)]
    await until(lambda: sum(job.runs for job in proxy.app[COMFY_API].jobs) == 2)
    told = [await v2.get(f"jobs/{job['id']}") for job in jobs]
    assert sorted(one["queue_position"] or 0 for one in told) == [0, 0, 1, 1, 2, 2]
    waiting = next(one for one in told if one["queue_position"] == 1)
    assert (await v2.cancel(waiting["id"]))["status"] == "canceled"
    for one in told:
        await v2.cancel(one["id"])


async def test_to_cancel_what_has_ended_changes_nothing(v2: V2) -> None:
    job = await v2.submit()
    ended = await v2.ends(job["id"])
    assert await v2.cancel(job["id"]) == ended


async def test_the_others_run_on(v2: V2, proxy: Http) -> None:
    """What runs at another instance, and what waits behind the job, is not interrupted."""
    jobs = [await v2.submit(graph(0.4)) for _ in range(4)]
    await until(lambda: sum(job.runs for job in proxy.app[COMFY_API].jobs) == 2)
    first, *others = jobs
    await v2.cancel(first["id"])
    assert (await v2.ends(first["id"]))["status"] == "canceled"
    ended = [await v2.ends(one["id"]) for one in others]
    assert {one["status"] for one in ended} == {"succeeded"}


async def test_one_that_a_client_of_comfyui_deletes_is_cancelled(v2: V2, proxy: Http) -> None:
    jobs = [await v2.submit(graph(5.0)) for _ in range(3)]
    async with proxy.post("/queue", json={"delete": [jobs[2]["id"]]}) as answer:
        assert answer.status == 200
    assert statuses(await v2.events(jobs[2]["id"]))[-1] == "canceled"
    for job in jobs:
        await v2.cancel(job["id"])


async def test_one_that_its_instance_has_no_more_has_failed_with_a_reason(
    v2: V2, workers: Workers
) -> None:
    """Deleted past the proxy, say: none of our clients has cancelled it."""
    jobs = [await v2.submit(graph(0.6)) for _ in range(4)]
    waiting = jobs[3]["id"]
    for worker in workers:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{worker.url}/queue", json={"delete": [waiting]}) as answer,
        ):
            assert answer.status == 200
    end = await v2.ends(waiting)
    assert (end["status"], end["error"]["code"]) == ("failed", "prompt_lost")
    assert "neither in its queue nor in its history" in end["error"]["message"]
    assert end["outputs"] == []
    for job in jobs:
        await v2.cancel(job["id"])


# --- instances that fail -------------------------------------------------------------------------


async def test_a_job_goes_on_when_its_instance_dies(v2: V2, workers: Workers, proxy: Http) -> None:
    """Under the same id; its client hears of both runs as one."""
    jobs = [await v2.submit(graph(0.5)) for _ in range(4)]
    await until(lambda: sum(job.runs for job in proxy.app[COMFY_API].jobs) == 2)
    listening = [asyncio.create_task(v2.events(job["id"])) for job in jobs]
    await workers[0].kill()
    for events in await asyncio.gather(*listening):
        assert statuses(events)[-1] == "succeeded"
        values = [data["value"] for name, data in events if name == "progress"]
        assert values == sorted(values), "progress never goes back"
    assert {job["id"] for job in jobs} <= set(workers[0].executed) | set(workers[1].executed)


@pytest.mark.long
@pytest.mark.parametrize("restarts", [False, True])
async def test_outputs_are_those_of_one_run(
    v2: V2, workers: Workers, proxy: Http, *, restarts: bool
) -> None:
    """Of the last: what a node made where the job was lost half way is no output of it."""
    workflow = graph(1.0)
    workflow["0"] = {
        "class_type": "SaveImage",
        "inputs": {"images": ["1", 0], "filename_prefix": "early"},
    }
    job = await v2.submit(workflow)
    record = proxy.app[COMFY_API].jobs.find(job["id"])
    await until(lambda: record.outputs)
    (early,) = record.outputs
    maker = next(one for one in workers if one.started)
    await (maker.restart(keep_files=False) if restarts else maker.kill())
    end = await v2.ends(job["id"])
    assert end["status"] == "succeeded"
    assert sorted(one["node_id"] for one in end["outputs"]) == ["0", "3"]
    assert [(await v2.content(one["id"]))[0] for one in end["outputs"]] == [200, 200]
    await v2.get(f"assets/{early}", expect=200 if early in record.outputs else 404)


@pytest.mark.long
@pytest.mark.parametrize("fault", ["killed", "hangs", "bare"])
async def test_the_second_output_is_gone_when_the_first_was_fetched(
    workers: Workers, start_proxy: Callable[..., Any], fault: str
) -> None:
    """The job has ended; who asks for what nobody has is told so, and soon."""
    v2 = V2(await start_proxy(*workers, comfyui_timeout_s=0.5))
    workflow = graph()
    workflow["1"]["inputs"]["batch_size"] = 2
    job = await v2.ends((await v2.submit(workflow))["id"])
    first, second = (one["id"] for one in job["outputs"])
    assert (await v2.content(first))[0] == 200
    maker = next(one for one in workers if job["id"] in one.executed)
    if fault == "killed":
        await maker.kill()
    elif fault == "hangs":
        maker.faults.hang = ("/",)
    else:
        await maker.restart(keep_files=False)
    status, body = await v2.content(second)
    assert (status, b"error" in body) in ((404, True), (502, True), (503, True), (504, True))
    assert (await v2.get(f"jobs/{job['id']}"))["outputs"] == job["outputs"]


async def test_the_end_is_known_when_the_instance_died_after_it(v2: V2, workers: Workers) -> None:
    """Its outputs are still named; their bytes are with the instance, and so 503."""
    job = await v2.ends((await v2.submit())["id"])
    maker = next(one for one in workers if job["id"] in one.executed)
    await maker.kill()
    assert await v2.get(f"jobs/{job['id']}") == job
    status, _ = await v2.content(job["outputs"][0]["id"])
    assert status == 503


@pytest.mark.parametrize(("keep_files", "status"), [(True, "succeeded"), (False, "failed")])
async def test_an_instance_that_starts_again_before_the_end_was_read(
    v2: V2, workers: Workers, proxy: Http, *, keep_files: bool, status: str
) -> None:
    """The job has what frames told, if that can be fetched; else it fails with the reason."""
    for worker in workers:
        worker.faults.hang = ("/history",)
    job = await v2.submit()
    wanted = proxy.app[GATEWAY].views.keeper.wanted
    await until(lambda: wanted.instance_of(job["id"]))
    maker = next(one for one in workers if job["id"] in one.executed)
    maker.refuse_connections()
    maker.drop_connections()
    for worker in workers:
        worker.faults.clear()
    await maker.restart(keep_files=keep_files)
    end = await v2.ends(job["id"])
    assert end["status"] == status
    assert [(await v2.content(one["id"]))[0] for one in end["outputs"]] == [200] * keep_files
    if not keep_files:
        assert "started again before its results were read" in end["error"]["message"]


async def test_an_end_is_heard_though_the_sockets_are_silent(v2: V2, workers: Workers) -> None:
    """ComfyUI tells nothing any more: queue and history are looked at."""
    for worker in workers:
        worker.faults.silent_sockets = True
    job = await v2.submit()
    assert (await v2.ends(job["id"]))["status"] == "succeeded"


async def test_outputs_that_are_gone_are_told_to_be_gone(v2: V2, workers: Workers) -> None:
    job = await v2.ends((await v2.submit())["id"])
    for worker in workers:
        for file in worker.folders.base.glob("output/**/*.png"):
            file.unlink()
    status, body = await v2.content(job["outputs"][0]["id"])
    assert (status, b"output_unavailable" in body) == (404, True)


# --- one instance alone --------------------------------------------------------------------------


async def test_one_instance_alone(workers: Workers, start_proxy: Callable[..., Any]) -> None:
    """Its other clients' prompts pass unread as before."""
    proxy = await start_proxy(workers[0])
    v2 = V2(proxy)
    asset = await v2.upload(b"not a picture", file_path="n.txt", content_type="text/plain")
    assert await v2.content(asset["id"]) == (200, b"not a picture")
    first = await v2.ends((await v2.submit(graph(0.1)))["id"])
    assert first["status"] == "succeeded"
    reference = {"__type": "core/ASSET", "info": {"id": first["outputs"][0]["id"]}}
    workflow = graph()
    workflow["1"] = {"class_type": "LoadImage", "inputs": {"image": reference}}
    second = await v2.ends((await v2.submit(workflow))["id"])
    assert (second["status"], len(second["outputs"])) == ("succeeded", 1)
    assert (await v2.content(second["outputs"][0]["id"]))[0] == 200
    assert list(await get(proxy, f"/history/{first['id']}")) == [first["id"]]


async def test_one_instance_alone_that_was_restarted_runs_the_job_again(
    workers: Workers, start_proxy: Callable[..., Any]
) -> None:
    proxy = await start_proxy(workers[0])
    v2 = V2(proxy)
    job = await v2.submit(graph(0.5))
    await until(lambda: proxy.app[COMFY_API].jobs.find(job["id"]).runs)
    await workers[0].kill()
    await workers[0].restart()
    assert (await v2.ends(job["id"]))["status"] == "succeeded"


async def test_the_clientid_inside_is_nobody_elses(v2: V2, proxy: Http) -> None:
    """Whoever reads it in the queue and opens a socket under it hears nothing of others' jobs."""
    job = await v2.submit(graph(0.4))
    client_id = proxy.app[COMFY_API].submissions.client_id
    async with proxy.ws_connect("/ws", params={"clientId": client_id}) as spy:
        greeting = await spy.receive_json()
        assert greeting["data"]["sid"] != client_id
        events = await v2.events(job["id"])
        assert statuses(events)[-1] == "succeeded"
        assert any(name == "progress" for name, _ in events)
    assert proxy.app[GATEWAY].clients.listens(client_id)


async def test_nothing_is_looked_for_once_it_is_closed(v2: V2, proxy: Http) -> None:
    """Prompts still end while the rooms below are closed; a look would find closed sessions."""
    api = proxy.app[COMFY_API]
    job = await v2.submit(graph(0.2))
    prompt = proxy.app[GATEWAY].ledger.find(job["id"])
    await api.follower.close()
    await until(lambda: prompt.ended)
    assert not api.follower._tasks
    assert api.jobs.find(job["id"]).end is None


async def test_keys_divide_its_own_lists_alone(
    workers: Workers, start_proxy: Callable[..., Any]
) -> None:
    """With any key all prompts are seen in the queue and in the history, as at ComfyUI."""
    keys = ("first-key-of-27-characters", "other-key-of-27-characters")
    proxy = await start_proxy(*workers, api_keys=keys)
    first, other = (V2(proxy, Authorization=f"Bearer {key}") for key in keys)
    job = await first.submit()
    await first.ends(job["id"])
    assert (await other.get("jobs"))["jobs"] == []
    await other.get(f"jobs/{job['id']}", expect=404)
    for path in (f"/history/{job['id']}", "/history"):
        async with proxy.get(path, headers=other.headers) as answer:
            assert job["id"] in await answer.json()


async def test_nobody_takes_the_place_of_a_job_by_its_id(v2: V2, proxy: Http) -> None:
    """Ids are seen in /queue; once it has ended its id is as free as any."""
    job = await v2.submit(graph(0.3))
    async with proxy.post("/prompt", json={"prompt": graph(), "prompt_id": job["id"]}) as answer:
        assert (answer.status, (await answer.json())["code"]) == (400, "prompt_id_in_use")
    assert (await v2.ends(job["id"]))["status"] == "succeeded"
    assert await post(proxy, prompt_id=job["id"]) == job["id"]
