"""What a view shows of an instance that cannot be asked: all that came through us, none twice."""

from __future__ import annotations

import json
import os
from typing import Any

import aiohttp
import pytest
from gateway_harness import unused_url
from ledger_front import accepted, take
from views_harness import (
    FakeInstance,
    Json,
    Workers,
    entry,
    finished,
    front,
    get,
    moving,
    run,
    two_fakes,
)

from comfy_proxy.gateway.gateway import Gateway
from comfy_proxy.gateway.prompts.spool import PromptSpool
from comfy_proxy.gateway.views import history_keeper, kept_entries
from comfy_proxy.gateway.views.kept_entries import KeptEntries
from comfy_proxy.ledger import events
from comfy_proxy.ledger.prompt import ClientPost, End, JobRef, PostHeaders, Prompt
from comfy_proxy.ledger.states import Ending

GRAPH = {"1": {"class_type": "EmptyImage", "inputs": {"width": 8}}}


def posted(gateway: Gateway, prompt_id: str, number: int = 0, **more: Any) -> Prompt:
    """A prompt with a body, taken by the second instance."""
    body = json.dumps({"prompt": GRAPH, "client_id": "c", **more}).encode()
    post = ClientPost(
        path="/prompt", client_id="c", headers=PostHeaders({}), body=body, graph=GRAPH
    )
    prompt = Prompt(prompt_id=prompt_id, post=post)
    gateway.ledger.apply(events.Received(prompt=prompt))
    second = gateway.cluster.instances[1]
    gateway.ledger.apply(events.Sent(prompt=prompt, instance=second))
    gateway.ledger.apply(events.Accepted(prompt=prompt, prompt_id=prompt_id, number=number))
    return prompt


def ends(gateway: Gateway, prompt: Prompt, ending: Ending = Ending.SUCCESS) -> None:
    gateway.ledger.apply(events.Finished(prompt=prompt, end=End(ending=ending)))


async def kept(gateway: Gateway, second: FakeInstance, *names: str) -> None:
    """Prompts of these ids end at the second instance, and what it says of them is read."""
    prompts = [posted(gateway, name) for name in names]
    second.history = {name: finished(name, 1, 20) for name in names}
    for prompt in prompts:
        ends(gateway, prompt)
    await read(gateway)


async def read(gateway: Gateway) -> None:
    for instance in gateway.cluster.instances:
        await gateway.views.keeper._readers.over(instance)


async def answer_of(client: Any, path: str) -> tuple[Any, str | None]:
    """The JSON, and who could not be asked."""
    async with client.get(path) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json(), answer.headers.get("X-Comfy-Proxy-Missing")


# --- what waits and runs ----------------------------------------------------------------


async def test_its_prompts_stay_in_the_queue() -> None:
    """With their graphs, without secrets, the running one among the running."""
    async with FakeInstance() as one, front(one, str(await unused_url())) as (client, gateway):
        one.pending = [entry("x", 4)]
        secret = {"api_key_comfy_org": "s", "auth_token_comfy_org": "t", "workflow": [1]}
        posted(gateway, "a", 3, extra_data=secret)
        posted(gateway, "b", 5)
        queue, missing = await answer_of(client, "/queue")
        assert missing == "2"
        [[number, name, graph, extra, outputs]] = queue["queue_running"]
        assert (number, name, graph, outputs) == (3, "a", GRAPH, [])
        created = extra.pop("create_time")
        assert isinstance(created, int)
        assert extra == {"workflow": [1], "client_id": "c"}
        assert [row[1] for row in queue["queue_pending"]] == ["x", "b"]
        length, missing = await answer_of(client, "/prompt")
        assert (length, missing) == ({"exec_info": {"queue_remaining": 3}}, "2")


async def test_nobody_is_named_while_all_answer() -> None:
    """And the ledger adds nothing to what they say."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        posted(gateway, "a")
        for path in ("/queue", "/prompt", "/history", "/api/jobs"):
            told, missing = await answer_of(client, path)
            assert missing is None
            assert "a" not in json.dumps(list(told.values())[:1]) or path == "/prompt"


async def test_a_prompt_is_shown_once() -> None:
    """One in transit, one that another instance shows, one that was deleted."""
    async with FakeInstance() as one, front(one, str(await unused_url())) as (client, gateway):
        one.running = [entry("a", 1)]
        posted(gateway, "a", 1)
        moving(gateway, "m", 2)
        deleted = posted(gateway, "d", 3)
        gateway.ledger.apply(events.Deleted(prompt_ids=["d"]))
        assert deleted.deleted
        queue = await get(client, "/queue")
        assert [row[1] for row in queue["queue_running"]] == ["a"]
        assert [row[1] for row in queue["queue_pending"]] == ["m"]


async def test_a_job_of_ours_counts() -> None:
    """Its prompt is in that instance's queue too; its graph is not here."""
    async with FakeInstance() as one, front(one, str(await unused_url())) as (client, gateway):
        prompt = Prompt(prompt_id="j", job=JobRef(job_id="1", job_type="upscale-image"))
        gateway.ledger.apply(events.Received(prompt=prompt))
        second = gateway.cluster.instances[1]
        gateway.ledger.apply(events.Sent(prompt=prompt, instance=second))
        gateway.ledger.apply(events.Accepted(prompt=prompt, prompt_id="j", number=7))
        queue = await get(client, "/queue")
        assert [row[:3] for row in queue["queue_running"]] == [[7, "j", {}]]


async def test_a_graph_on_the_disk_is_shown() -> None:
    """And stays there."""
    async with FakeInstance() as one, front(one, str(await unused_url())) as (client, gateway):
        spool = PromptSpool(limit=1)
        gateway.ledger.observers.append(spool.observe)
        gateway.views._known._bodies = spool
        first, second = posted(gateway, "a", 1), posted(gateway, "b", 2)
        for task in tuple(spool._storing.values()):
            await task
        assert first.post is not None
        assert first.post.body == b""
        queue = await get(client, "/queue")
        assert [row[2] for row in (*queue["queue_running"], *queue["queue_pending"])] == [GRAPH] * 2
        assert first.post.body == b""
        assert second.post is not None
        await spool.close()


async def test_its_prompts_stay_among_the_jobs() -> None:
    """In the list, and alone."""
    async with FakeInstance() as one, front(one, str(await unused_url())) as (client, gateway):
        workflow = {"extra_pnginfo": {"workflow": {"id": "w"}}}
        posted(gateway, "a", 3, extra_data=workflow)
        posted(gateway, "b", 5)
        page, missing = await answer_of(client, "/api/jobs")
        assert missing == "2"
        assert {job["id"]: job["status"] for job in page["jobs"]} == {
            "a": "in_progress",
            "b": "pending",
        }
        assert page["pagination"]["total"] == 2
        page = await get(client, "/api/jobs?status=pending")
        assert [job["id"] for job in page["jobs"]] == ["b"]
        job, missing = await answer_of(client, "/api/jobs/a")
        assert (job["status"], job["workflow_id"], missing) == ("in_progress", "w", "2")


async def test_one_that_runs_has_no_history_yet() -> None:
    """``{}`` is right while it waits or runs, whoever is away; 503 once its end was told."""
    async with FakeInstance() as one, front(one, str(await unused_url())) as (client, gateway):
        prompt = posted(gateway, "a")
        assert await get(client, "/history/a") == {}
        ends(gateway, prompt)
        for path in ("/history/a", "/api/jobs/a"):
            async with client.get(path) as answer:
                assert answer.status == 503
                assert answer.headers["Retry-After"] == "5"
                assert (await answer.json())["code"] == "unavailable"


@pytest.mark.parametrize("path", ["/history", "/history/a"])
async def test_an_end_that_a_client_reads_is_booked(workers: Workers, path: str) -> None:
    """Nobody else has heard of it: whoever listens hears of it then."""
    async with front(*workers) as (client, gateway):
        prompt = posted(gateway, "a")
        await run(workers[1], "a")
        while not prompt.ended:
            assert list(await get(client, path)) == ["a"]
        assert prompt.end is not None
        assert prompt.end.ending is Ending.SUCCESS


async def test_an_owner_that_has_returned_is_asked_at_once(workers: Workers) -> None:
    """Its circuit is open and cools down still: it is checked before anybody is told 503."""
    async with front(*workers) as (client, gateway):
        owner = gateway.cluster.instances[1]
        await run(workers[1], "a")
        gateway.ledger.apply(events.Found(prompt_id="a", instance=owner))
        while owner.healthy:
            owner.fault("said by the test")
        assert list(await get(client, "/history/a")) == ["a"]
        assert owner.healthy


async def test_an_end_that_no_history_tells_yet_is_in_the_queue() -> None:
    """Its instance told the end and cannot be asked: in neither it would be taken for lost."""
    async with FakeInstance() as one, front(one, str(await unused_url())) as (client, gateway):
        ends(gateway, posted(gateway, "a", 3))
        queue = await get(client, "/queue")
        assert [row[1:3] for row in queue["queue_running"]] == [["a", GRAPH]]
        length = await get(client, "/prompt")
        assert length == {"exec_info": {"queue_remaining": 1}}
        page = await get(client, "/api/jobs")
        assert [job["status"] for job in page["jobs"]] == ["in_progress"]


async def test_an_end_where_a_prompt_was_given_up_is_not_shown() -> None:
    """It goes on elsewhere: what the instance that hung says of it counts for nobody."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        prompt = posted(gateway, "a")
        gateway.ledger.apply(events.GivenUp(prompt=prompt, ran=True))
        take(gateway.ledger, prompt, gateway.cluster.instances[0])
        one.running = [entry("a", 1)]
        two.history = {"a": finished("a", 1, 20)}
        assert await get(client, "/history") == {}
        assert await get(client, "/history/a") == {}
        page = await get(client, "/api/jobs")
        assert [job["status"] for job in page["jobs"]] == ["in_progress"]
        assert page["pagination"]["total"] == 1


async def test_an_end_where_a_prompt_was_given_up_and_came_back_to_is_shown() -> None:
    """Given up there once, it was sent there again and has ended: that one counts."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        prompt = posted(gateway, "a")
        gateway.ledger.apply(events.GivenUp(prompt=prompt, ran=True))
        take(gateway.ledger, prompt, gateway.cluster.instances[1])
        two.history = {"a": finished("a", 1, 20)}
        assert list(await get(client, "/history")) == ["a"]
        assert list(await get(client, "/history/a")) == ["a"]


async def test_an_end_that_a_client_has_read_is_known_from_then_on() -> None:
    """Its instance is away before anything else has told of it: it was kept as it was shown."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        await gateway.reconciler.close()  # nobody else asks for it
        await gateway.views.keeper.close()
        prompt = posted(gateway, "a")
        two.history = {"a": finished("a", 1, 20)}
        assert list(await get(client, "/history/a")) == ["a"]
        assert prompt.ended
        await two.stop()
        assert list(await get(client, "/history/a")) == ["a"]


# --- what has ended ---------------------------------------------------------------------


def picture(client_entry: Json) -> str:
    return str(client_entry["outputs"]["9"]["images"][0]["subfolder"])


async def test_an_end_stays_known_when_its_instance_dies() -> None:
    """In all views, as they showed it before: the same number, the same files."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        one.history = {"x": finished("x", 10, 15)}
        await kept(gateway, two, "a")
        paths = ("/history", "/history/a", "/history?max_items=1", "/api/jobs")
        before = {path: await get(client, path) for path in paths}
        assert picture(before["/history/a"]["a"]) == "@2"
        await two.stop()
        after = {path: await answer_of(client, path) for path in paths}
        assert {path: missing for path, (_, missing) in after.items()} == dict.fromkeys(paths, "2")
        for path in paths[:3]:
            assert after[path][0] == before[path]
        [job] = [job for job in after["/api/jobs"][0]["jobs"] if job["id"] == "a"]
        told = {"nodeId": "9", "mediaType": "images", "filename": "a.png", "type": "output"}
        assert job["preview_output"] == {**told, "subfolder": "@2"}
        assert (job["status"], job["outputs_count"]) == ("completed", 1)
        whole = await get(client, "/api/jobs/a")
        assert whole["workflow"]["prompt"] == two.history["a"]["prompt"][2]
        assert whole["outputs"] == before["/history/a"]["a"]["outputs"]


async def test_an_end_stays_known_when_all_instances_die() -> None:
    """From the first question on, when no check has told yet that nobody is there."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        await kept(gateway, two, "a")
        before = await get(client, "/history/a")
        await one.stop()
        await two.stop()
        assert await answer_of(client, "/history/a") == (before, "1, 2")


async def test_an_end_stays_known_when_its_instance_starts_again(workers: Workers) -> None:
    """It was in trouble since: what it does not have any more is shown from here, in lists as soon
    as its files were found to be its own."""
    async with front(*workers) as (client, gateway):
        prompt = posted(gateway, "a")
        await run(workers[1], "a")
        if not prompt.ended:  # the history may have told it already
            ends(gateway, prompt)
        await read(gateway)
        before = await get(client, "/history/a")
        await workers[1].restart()
        gateway.cluster.instances[1].socket_lost()
        assert await get(client, "/history") == {}
        assert (await get(client, "/history/a"))["a"]["outputs"] == before["a"]["outputs"]
        assert list(await get(client, "/history")) == ["a"]


async def test_an_end_whose_files_are_anothers_by_now_is_told_no_more(workers: Workers) -> None:
    """An instance with an empty disk gives the names anew: its picture would be somebody else's."""
    async with front(*workers) as (client, gateway):
        prompt = posted(gateway, "a")
        await run(workers[1], "a")
        if not prompt.ended:
            ends(gateway, prompt)
        await read(gateway)
        [output] = (await get(client, "/history/a"))["a"]["outputs"].values()
        name = output["images"][0]["filename"]
        [file] = workers[1].folders.base.rglob(name)
        await workers[1].restart()
        gateway.cluster.instances[1].socket_lost()
        later = file.stat().st_mtime + 60
        os.utime(file, (later, later))
        for path in ("/history/a", "/history"):
            assert await get(client, path) == {}


async def test_what_was_deleted_at_an_instance_is_not_brought_back(workers: Workers) -> None:
    """Nothing was wrong with it since: somebody deleted the entry there."""
    async with front(*workers) as (client, gateway), aiohttp.ClientSession() as direct:
        prompt = posted(gateway, "a")
        await run(workers[1], "a")
        if not prompt.ended:  # the history may have told it already
            ends(gateway, prompt)
        await read(gateway)
        assert list(await get(client, "/history")) == ["a"]
        await direct.post(f"{workers[1].url}/history", json={"clear": True})
        assert await get(client, "/history") == {}
        assert await get(client, "/history/a") == {}


@pytest.mark.parametrize("order", [{"clear": True}, {"delete": ["a"]}])
async def test_clients_delete_what_is_kept(order: Json) -> None:
    """Also while its instance is away."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        await kept(gateway, two, "a")
        await two.stop()
        assert list(await get(client, "/history")) == ["a"]
        async with client.post("/history", json=order):
            pass  # its instance cannot be told
        assert await get(client, "/history") == {}


async def test_a_new_prompt_of_an_id_takes_the_place_of_the_old_one() -> None:
    """What was kept under the id is of another prompt."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        await kept(gateway, two, "a")
        await two.stop()
        accepted(gateway.ledger, "a", gateway.cluster.instances[0])
        assert await get(client, "/history/a") == {}


async def test_an_entry_that_comes_late_is_kept() -> None:
    """ComfyUI writes it after it has told the end: the next change of the queue brings it."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        two.running = [entry("a")]
        ends(gateway, posted(gateway, "a"))
        await read(gateway)
        two.running, two.history = [], {"a": finished("a", 1, 20)}
        gateway.views.keeper.look(gateway.cluster.instances[1])
        await read(gateway)
        await two.stop()
        assert list(await get(client, "/history/a")) == ["a"]


async def test_an_id_that_was_in_use_before_is_not_kept() -> None:
    """The entry that is read may be the earlier prompt's."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        gateway.ledger.apply(events.Found(prompt_id="a", instance=gateway.cluster.instances[1]))
        await kept(gateway, two, "a")
        await two.stop()
        async with client.get("/history/a") as answer:
            assert answer.status == 503


async def test_what_no_path_can_hold_is_kept() -> None:
    """An id may be any text: the newest entries are read."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        await kept(gateway, two, "a{b}")
        assert ("GET", "/history?max_items=16", "") in two.requests
        await two.stop()
        assert list(await get(client, "/history")) == ["a{b}"]


async def test_a_giant_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its instance would do nothing else for seconds."""
    monkeypatch.setattr(history_keeper, "MAX_ENTRY_BYTES", 10)
    async with two_fakes() as (one, two), front(one, two) as (_, gateway):
        await kept(gateway, two, "a")
        assert gateway.views.kept.find("a") is None


def giant(name: str, *, output: str = "") -> Json:
    """Its graph alone is longer than what is kept of an entry."""
    entry = finished(name, 1, 20)
    entry["prompt"][2] = {"1": {"inputs": {"image": "x" * (kept_entries.MAX_ENTRY_BYTES + 1)}}}
    entry["outputs"]["10"] = {"text": [output]}
    return entry


async def test_of_a_giant_all_but_its_graph_is_kept() -> None:
    """As soon as a client has been shown it; then it stays known too."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        two.history = {"a": giant("a")}
        before = (await get(client, "/history/a"))["a"]
        assert before["prompt"][2] == two.history["a"]["prompt"][2]
        assert (await get(client, "/history/a"))["a"] == before
        await two.stop()
        after = (await get(client, "/history/a"))["a"]
        assert {**after, "prompt": None} == {**before, "prompt": None}
        assert picture(after) == "@2"
        number, prompt_id, _, _, nodes = before["prompt"]
        assert after["prompt"] == [number, prompt_id, {}, {}, nodes]
        found = gateway.views.kept.find("a")
        assert found is not None
        assert found.size < 1000


@pytest.mark.long
async def test_a_giant_that_is_one_without_its_graph_too_is_not_kept() -> None:
    """Its outputs alone are longer than what is kept of an entry."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        two.history = {"a": giant("a", output="x" * kept_entries.MAX_ENTRY_BYTES)}
        assert list(await get(client, "/history/a")) == ["a"]
        assert gateway.views.kept.find("a") is None


async def test_what_is_kept_is_bounded() -> None:
    """The oldest go, by number and by bytes; the newest stays."""
    async with two_fakes() as (one, two), front(one, two) as (_, gateway):
        store = gateway.views.keeper.entries = KeptEntries(max_entries=2)
        await kept(gateway, two, *"abc")
        assert list(store._entries) == ["b", "c"]
        store = gateway.views.keeper.entries = KeptEntries(max_bytes=1)
        await kept(gateway, two, *"def")
        assert list(store._entries) == ["f"]
        store.clear()
        assert store._bytes == 0
