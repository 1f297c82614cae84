"""gateway/files/disks.py: an instance whose disk was emptied, and the names it gives once more."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest
from membership_front import add, remove
from prompts_front import ended, get, graph, instance_of, post, recover, until

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import CLUSTER, GATEWAY

Workers = tuple[EmbeddedWorker, EmbeddedWorker]


async def made(proxy: Any, worker: EmbeddedWorker, *, color: int) -> dict[str, Any]:
    """What a client is told of the picture that it has ``worker`` make."""
    [other] = [one for one in proxy.app[CLUSTER].instances if one.host != worker.host]
    other.drained = True
    prompt_id = await post(proxy, graph(color=color))
    entry = (await ended(proxy, prompt_id))[prompt_id]
    other.drained = False
    [image] = entry["outputs"]["3"]["images"]
    return dict(image)


def _files(worker: EmbeddedWorker) -> list[bytes]:
    return [one.read_bytes() for one in worker.folders.base.rglob("*.png")]


async def seen(proxy: Any, image: dict[str, Any]) -> tuple[int, bytes]:
    async with proxy.get(f"/view?{urlencode(image)}") as answer:
        return answer.status, await answer.read()


async def restarted(proxy: Any, worker: EmbeddedWorker, *, keep_files: bool) -> None:
    """It was away, and has been checked since."""
    instance = instance_of(proxy, worker)
    await worker.restart(keep_files=keep_files)
    instance.socket_lost()
    await recover(proxy, worker)
    disks = proxy.app[GATEWAY].files.disks
    await until(lambda: instance not in disks._unsure and not disks._looks.busy)


async def test_a_name_from_before_an_empty_disk_is_not_anothers_picture(
    proxy: Any, workers: Workers
) -> None:
    """ComfyUI gives the name again. A client that was told it before gets ComfyUI's 404 for a file
    that is gone; one that is told it now gets its own picture."""
    before = await made(proxy, workers[1], color=0xFF0000)
    assert (await seen(proxy, before))[0] == 200
    await restarted(proxy, workers[1], keep_files=False)
    after = await made(proxy, workers[1], color=0x00FF00)
    assert after["filename"] == before["filename"]
    assert (before["subfolder"], after["subfolder"]) == ("@2", "@2.1")
    status, picture = await seen(proxy, after)
    assert status == 200
    assert picture in _files(workers[1])
    assert (await seen(proxy, before))[0] == 404


async def test_one_that_was_removed_may_come_back_with_an_empty_disk(
    proxy: Any, workers: Workers
) -> None:
    """As one that was away: an operator removes it to have its disk replaced."""
    before = await made(proxy, workers[1], color=0xFF0000)
    await remove(proxy, "2", force="true")
    await workers[1].restart(keep_files=False)
    await add(proxy, workers[1])
    await until(lambda: instance_of(proxy, workers[1]).mark == "2.1")
    after = await made(proxy, workers[1], color=0x00FF00)
    assert after["filename"] == before["filename"]
    assert after["subfolder"] == "@2.1"
    assert (await seen(proxy, before))[0] == 404


async def test_a_graph_that_names_a_result_of_before_is_refused(
    proxy: Any, workers: Workers
) -> None:
    """It is not run with another client's picture."""
    before = await made(proxy, workers[1], color=0xFF0000)
    await restarted(proxy, workers[1], keep_files=False)
    await made(proxy, workers[1], color=0x00FF00)
    name = f"{before['subfolder']}/{before['filename']} [output]"
    prompt = graph()
    prompt["1"] = {"class_type": "LoadImage", "inputs": {"image": name}}
    async with proxy.post("/prompt", json={"prompt": prompt}) as answer:
        assert answer.status == 400
        assert name in await answer.text()


async def test_it_counts_what_the_instance_made_though_others_made_the_names_since(
    proxy: Any, workers: Workers
) -> None:
    before = await made(proxy, workers[1], color=1)
    same = await made(proxy, workers[0], color=2)
    assert same["filename"] == before["filename"]
    await restarted(proxy, workers[1], keep_files=False)
    assert instance_of(proxy, workers[1]).mark == "2.1"


async def test_each_empty_disk_is_another_one(proxy: Any, workers: Workers) -> None:
    marks = []
    for _ in range(3):
        marks.append((await made(proxy, workers[0], color=1))["subfolder"])
        await restarted(proxy, workers[0], keep_files=False)
    assert marks == ["@1", "@1.1", "@1.2"]


async def test_a_disk_with_its_files_is_the_same_one(proxy: Any, workers: Workers) -> None:
    """Also if one of the files was deleted."""
    before = await made(proxy, workers[1], color=1)
    gone = await made(proxy, workers[1], color=2)
    for file in workers[1].folders.base.rglob(gone["filename"]):
        file.unlink()
    await restarted(proxy, workers[1], keep_files=True)
    assert instance_of(proxy, workers[1]).mark == "2"
    assert (await seen(proxy, before))[0] == 200
    assert (await seen(proxy, gone))[0] == 404


async def test_an_instance_that_has_made_nothing_has_lost_nothing(
    proxy: Any, workers: Workers
) -> None:
    await restarted(proxy, workers[1], keep_files=False)
    assert instance_of(proxy, workers[1]).mark == "2"


async def test_while_it_does_not_say_it_is_asked_again(proxy: Any, workers: Workers) -> None:
    """A look that fails proves nothing."""
    await made(proxy, workers[1], color=1)
    instance, disks = instance_of(proxy, workers[1]), proxy.app[GATEWAY].files.disks
    await workers[1].kill()
    instance.socket_lost()
    disks.heard(instance)
    await disks._looks.over(instance)
    assert instance.mark == "2"
    assert instance in disks._unsure
    await restarted(proxy, workers[1], keep_files=False)
    assert instance.mark == "2.1"


@pytest.mark.long
@pytest.mark.parametrize("mark", ["", "3", "02", "2.", "2.x", "x", "2.1.1", "-1", "2.1e9"])
async def test_what_is_no_mark_is_nobodys(proxy: Any, mark: str) -> None:
    """A client may have made a folder of that name."""
    assert mark not in proxy.app[GATEWAY].files.disks


async def test_a_later_mark_is_of_an_earlier_proxy(proxy: Any) -> None:
    """A proxy without a STATE_FILE has forgotten how often a disk was emptied."""
    disks = proxy.app[GATEWAY].files.disks
    assert disks.of("2.3") is proxy.app[CLUSTER].instances[1]
    assert (await get(proxy, "/queue"))["queue_running"] == []
