"""Who made a file last, whoever tells it: a path in a result has no mark to tell it by."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient
from ledger_front import accepted
from path_nodes import install, mesh
from prompts_front import Workers, ended, get, listening, png, post, until
from views_harness import FakeInstance, finished, front, two_fakes

from comfy_proxy.gateway.files.file_name import FileName
from comfy_proxy.gateway.gateway import Gateway
from comfy_proxy.keys import CLUSTER
from comfy_proxy.ledger.events import Finished
from comfy_proxy.ledger.prompt import End
from comfy_proxy.ledger.states import Ending

POLLER = "has no socket"
"""Of a prompt without client_id ComfyUI leaves what came from the cache out of the history."""
GLB = FileName(filename="x.glb", subfolder="3d")


@pytest.fixture(autouse=True)
def _nodes(workers: Workers) -> None:
    install(*workers)


async def view(http: TestClient, name: str = "mesh.glb", subfolder: str = "3d") -> str:
    """What a client gets that was told ``3d/mesh.glb``."""
    params = {"filename": name, "subfolder": subfolder, "type": "output"}
    async with http.get("/view", params=params) as answer:
        assert answer.status == 200
        return await answer.text()


def at_each(workers: Workers, count: int) -> None:
    """Both have run some of the ``count``: else a test would show nothing."""
    ran = [len(worker.executed) for worker in workers]
    assert sum(ran) == count
    assert all(ran)


async def by_history_of(http: TestClient, graph: Any) -> None:
    await ended(http, await post(http, graph, client_id=POLLER))


async def by_whole_history(http: TestClient, graph: Any) -> None:
    told: list[Any] = []
    http.app[CLUSTER].on_prompt_end.append(told.append)
    prompt_id = await post(http, graph, client_id=POLLER)
    while not told:
        if prompt_id in await get(http, "/history?max_items=8"):
            return


async def by_nothing(http: TestClient, graph: Any) -> None:
    told: list[Any] = []
    http.app[CLUSTER].on_prompt_end.append(told.append)
    await post(http, graph, client_id=POLLER)
    await until(lambda: told)


async def by_socket(http: TestClient, graph: Any) -> None:
    async with listening(http) as listener:
        prompt_id = await post(http, graph, client_id=listener.client_id)
        await until(lambda: "executed" in listener.kinds(prompt_id))


ASKERS = [by_history_of, by_whole_history, by_nothing, by_socket]


@pytest.mark.long
@pytest.mark.parametrize("run", ASKERS, ids=lambda run: run.__name__)
async def test_the_file_of_a_told_path_is_the_one_made_last(
    proxy: TestClient, workers: Workers, run: Callable[..., Any]
) -> None:
    """Four times under one name, at one instance after the other, however the client asks."""
    for number in range(4):
        await run(proxy, mesh(f"RUN{number}"))
        assert await view(proxy) == f"RUN{number}"
    await until(lambda: sum(len(worker.executed) for worker in workers) == 4)
    at_each(workers, 4)


@pytest.mark.long
@pytest.mark.parametrize("run", ASKERS, ids=lambda run: run.__name__)
async def test_a_repeat_from_the_cache_tells_its_own_file_again(
    proxy: TestClient, workers: Workers, run: Callable[..., Any]
) -> None:
    """Its instance has not written it again: what the client means is what that prompt made."""
    for text in ("FIRST", "SECOND", "FIRST"):
        await run(proxy, mesh(text))
        assert await view(proxy) == text
    await until(lambda: sum(len(worker.executed) for worker in workers) == 3)
    assert sorted(len(worker.executed) for worker in workers) == [1, 2]


@pytest.mark.parametrize("path", ["/history/{}", "/history"])
async def test_an_entry_that_is_read_late_claims_nothing(
    proxy: TestClient, workers: Workers, path: str
) -> None:
    """Another has made a file of that name since."""
    prompt_ids = []
    async with listening(proxy) as listener:
        for text in ("FIRST", "SECOND"):
            prompt_ids.append(await post(proxy, mesh(text), client_id=listener.client_id))
            await until(lambda: listener.over(prompt_ids[-1]))
    at_each(workers, 2)
    for _ in range(2):
        assert prompt_ids[0] in await get(proxy, path.format(prompt_ids[0]))
        assert await view(proxy) == "SECOND"


async def test_a_path_told_with_windows_separators(proxy: TestClient, workers: Workers) -> None:
    """The client splits it by either; the record is the same."""
    for number in range(4):
        await by_history_of(proxy, mesh(f"RUN{number}", "3d\\mesh.glb"))
        assert await view(proxy) == f"RUN{number}"


async def test_an_absolute_path_is_found_by_its_end(proxy: TestClient, workers: Workers) -> None:
    """Wherever the instance has its directories."""
    for number in range(4):
        await by_history_of(proxy, mesh(f"RUN{number}", "/srv/art/3d/mesh.glb"))
        assert await view(proxy) == f"RUN{number}"


async def test_a_text_of_one_who_has_no_such_file(proxy: TestClient, workers: Workers) -> None:
    """A name in a text is a hint: the one who has the file answers."""
    (workers[0].folders.base / "output/only.txt").write_text("here")
    for _ in range(2):
        shows = {"1": {"class_type": "Preview3D", "inputs": {"model_file": "only.txt"}}}
        await by_history_of(proxy, shows)
        assert await view(proxy, "only.txt", "") == "here"


async def test_a_node_that_overwrites_an_upload(proxy: TestClient, workers: Workers) -> None:
    """What it wrote is the newest of that name, though it is told as a path."""
    form = aiohttp.FormData()
    form.add_field("image", b"UPLOADED", filename="mesh.glb")
    form.add_field("type", "output")
    form.add_field("subfolder", "3d")
    async with proxy.post("/upload/image", data=form) as answer:
        assert answer.status == 200
    assert await view(proxy) == "UPLOADED"
    for number in range(2):
        await by_history_of(proxy, mesh(f"MADE{number}"))
        assert await view(proxy) == f"MADE{number}"
    at_each(workers, 2)


async def test_what_our_own_jobs_make_counts(
    workers: Workers, start_proxy: Callable[..., Any], tmp_path: Path
) -> None:
    """A job is no client's prompt, and overwrites files like any."""
    picture = {"class_type": "LoadImage", "inputs": {"image": "x.png"}}
    save = {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "j"}}
    for number in range(4):
        graph = {**mesh(f"RUN{number}"), "8": picture, "9": save}
        (tmp_path / f"mesh{number}.json").write_text(json.dumps(graph))
    http = await start_proxy(*workers, workflow_directory=tmp_path)
    for number in range(4):
        form = aiohttp.FormData()
        form.add_field("imageFile", png("red"), filename="x.png", content_type="image/png")
        url = f"/api/workflows/mesh{number}?mode=sync"
        async with http.post(url, data=form, headers={"Accept": "image/*"}) as answer:
            assert answer.status == 200, await answer.text()
        assert await view(http) == f"RUN{number}"
    at_each(workers, 4)


# --- what the instances tell of times ----------------------------------------------------


def told(prompt_id: str, ended_ms: int) -> dict[str, Any]:
    """An entry whose prompt has shown a path."""
    outputs = {"2": {"result": ["3d/x.glb", None]}}
    return {**finished(prompt_id, ended_ms - 5, ended_ms), "outputs": outputs}


def maker(gateway: Gateway) -> str | None:
    found = gateway.files.makers.of(GLB)
    return None if found is None else found.id


async def test_after_a_restart_the_history_tells_who_was_last() -> None:
    """By the ends of the prompts, whichever instance is asked first; and for good."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        one.history = {"a": told("a", 1000), "c": told("c", 3000)}
        two.history = {"b": told("b", 2000)}
        for path in ("/history/a", "/history/b", "/history/a", "/history"):
            async with client.get(path) as answer:
                assert answer.status == 200
        assert maker(gateway) == "1"
        two.history["d"] = told("d", 4000)
        async with client.get("/history") as answer:
            assert answer.status == 200
        assert maker(gateway) == "2"


async def test_the_jobs_of_2026_tell_it_too() -> None:
    """``/api/jobs/{id}`` with all outputs, the list with one of each."""

    class Instance(FakeInstance):
        def _all_jobs(self) -> list[dict[str, Any]]:
            jobs = super()._all_jobs()
            for job in jobs:
                job["preview_output"] = {"filename": "3d/x.glb", "type": "output", "subfolder": ""}
                job["outputs"] = self.history[job["id"]]["outputs"]
            return jobs

    async with Instance() as one, Instance() as two:
        one.history, two.history = {"a": told("a", 1000)}, {"b": told("b", 2000)}
        for path in ("/api/jobs/b", "/api/jobs"):
            async with front(one, two) as (client, gateway):
                async with client.get(path) as answer:
                    assert answer.status == 200
                assert maker(gateway) == "2"
                async with client.get("/api/jobs/a") as answer:
                    assert answer.status == 200
                assert maker(gateway) == "2"


async def test_a_job_that_has_lost_its_socket_is_settled_by_its_history() -> None:
    """Whoever of us reads an entry, it counts."""
    async with two_fakes() as (one, two), front(one, two) as (_, gateway):
        await gateway.start()
        one.history, two.history = {"a": told("a", 1000)}, {"b": told("b", 2000)}
        for instance, prompt_id in reversed(
            list(zip(gateway.cluster.instances, "ab", strict=True))
        ):
            assert await gateway.cluster.clients[instance].history(prompt_id) is not None
        assert await gateway.cluster.clients[instance].history("c") is None
        assert maker(gateway) == "2"
        await gateway.close()


@pytest.mark.parametrize("ended_ms", [1000, 10**15], ids=["slow", "fast"])
async def test_a_clock_that_goes_wrong(ended_ms: int, workers: Workers) -> None:
    """An end that is news counts from now, one of the future from when it is first heard of."""
    async with two_fakes() as (one, two), front(one, two) as (_, gateway):
        first, second = gateway.cluster.instances
        entries = {"a": told("a", ended_ms)}
        gateway.made_files.heard({"result": ["3d/x.glb"]}, second)
        prompt = accepted(gateway.ledger, "a", first)
        gateway.made_files.entries_read(entries, first)
        gateway.ledger.apply(Finished(prompt=prompt, end=End(ending=Ending.SUCCESS)))
        assert maker(gateway) == "1"
        gateway.made_files.heard({"result": ["3d/x.glb"]}, second)
        gateway.made_files.entries_read(entries, first)
        assert maker(gateway) == "2"


async def test_an_old_server_tells_no_times() -> None:
    """An entry without times counts when it is first read."""
    async with two_fakes() as (one, two), front(one, two) as (_client, gateway):
        entry = {**told("a", 1000), "status": {}}
        gateway.made_files.entries_read({"a": entry}, gateway.cluster.instances[0])
        gateway.made_files.entries_read({"b": entry}, gateway.cluster.instances[1])
        gateway.made_files.entries_read({"a": entry}, gateway.cluster.instances[0])
        assert maker(gateway) == "2"


@pytest.mark.parametrize("entry", [None, 5, [], {}, {"outputs": None}, {"outputs": 5}])
async def test_entries_that_are_none(entry: Any) -> None:
    """Whatever an instance has in its history, reading it breaks nothing."""
    async with two_fakes() as (one, two), front(one, two) as (_, gateway):
        gateway.made_files.entries_read({"a": entry}, gateway.cluster.instances[0])
        assert maker(gateway) is None
