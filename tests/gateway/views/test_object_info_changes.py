"""/object_info after files were copied to an instance by hand: seen by its lists of files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from rooms_harness import Client
from views_harness import Answers, front

from comfy_proxy.cluster.object_info import cache as cache_module
from comfy_proxy.cluster.object_info import graph_support, questions
from comfy_proxy.gateway.gateway import Gateway
from comfy_proxy.gateway.views import object_info


class Disk(Answers):
    """An instance whose files a test changes behind everybody's back."""

    def __init__(self) -> None:
        super().__init__()
        self.show(loras=["a"], pictures=["p.png"], folders=["3d"])

    def show(self, **files: list[str]) -> None:
        self.files = {**getattr(self, "files", {}), **files}
        classes: dict[str, Any] = {
            "LoraLoader": ["COMBO", {"options": self.files["loras"]}],
            "LoadImage": [self.files["pictures"], {"image_upload": True}],
            "Folder": ["COMBO", {"options": self.files["folders"]}],
        }
        infos = {name: {"input": {"required": {"x": spec}}} for name, spec in classes.items()}
        self.json = {
            "/models": ["loras", "custom_nodes"],
            "/models/loras": self.files["loras"],
            "/models/custom_nodes": ["never asked"],
            "/internal/files/input": self.files["pictures"],
            "/object_info": infos,
            **{f"/object_info/{name}": {name: info} for name, info in infos.items()},
        }

    def taken(self) -> list[str]:
        """What it was asked since the last call, lists of files apart."""
        asked = [path for path in self.asked if path.startswith("/object_info")]
        self.asked.clear()
        return sorted(asked)


class Room:
    def __init__(self, disks: list[Disk], client: Client, gateway: Gateway) -> None:
        self.disks = disks
        self.client = client
        self.gateway = gateway

    async def choices(self) -> dict[str, list[str]]:
        """Class → what it lets choose from, of both instances."""
        plain = {"Accept-Encoding": "identity"}
        async with self.client.get("/object_info", headers=plain) as answer:
            infos = await answer.json()
        specs = {name: info["input"]["required"]["x"] for name, info in infos.items()}
        return {
            name: spec[0] if isinstance(spec[0], list) else spec[1]["options"]
            for name, spec in specs.items()
        }

    def taken(self) -> list[list[str]]:
        return [disk.taken() for disk in self.disks]


@pytest.fixture
async def room(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Room]:
    """Two instances that are looked at for each request, however busy this machine is."""
    monkeypatch.setattr(cache_module, "LOOK_S", -1.0)
    monkeypatch.setattr(cache_module, "UPLOADS_STALE_S", 1e9)
    monkeypatch.setattr(object_info, "HURRY_S", 60.0)
    monkeypatch.setattr(questions, "LISTS_PATIENCE_S", 60.0)
    monkeypatch.setattr(graph_support, "LOOK_TIMEOUT_S", 60.0)
    monkeypatch.setattr(graph_support, "LOOK_AGAIN_S", 60.0)
    async with AsyncExitStack() as stack:
        disks = [await stack.enter_async_context(Disk()) for _ in range(2)]
        client, gateway = await stack.enter_async_context(front(*(disk.url for disk in disks)))
        stack.push_async_callback(gateway.cluster.object_info.close)
        yield Room(disks, client, gateway)


BOTH = ["/object_info"]


async def test_what_has_not_changed_is_not_asked_again(room: Room) -> None:
    """All classes once, then only the lists; custom nodes' own files are no list of models."""
    await room.choices()
    assert room.taken() == [BOTH, BOTH]
    await room.choices()
    assert sorted(room.disks[0].asked) == ["/internal/files/input", "/models/loras"]
    assert room.taken() == [[], []]


async def test_a_copied_model_is_in_the_next_answer(room: Room) -> None:
    """All classes of that instance are asked again, and of no other."""
    await room.choices()
    room.taken()
    room.disks[1].show(loras=["a", "new"])
    assert (await room.choices())["LoraLoader"] == ["a", "new"]
    assert room.taken() == [[], BOTH]
    room.disks[1].show(loras=["a"])
    assert (await room.choices())["LoraLoader"] == ["a"]
    assert room.taken() == [[], BOTH]


async def test_a_copied_picture_is_in_the_next_answer(room: Room) -> None:
    """One small class is asked again, of that instance alone."""
    await room.choices()
    room.taken()
    room.disks[1].show(pictures=["p.png", "new.png"])
    assert (await room.choices())["LoadImage"] == ["p.png", "new.png"]
    assert room.taken() == [[], ["/object_info/LoadImage"]]


async def test_a_class_lists_folders_if_it_lists_one_that_was_uploaded_to(room: Room) -> None:
    """For the first such folder all classes are asked, then that class alone; nobody has to know
    its name. Folders that are copied by hand are seen from then on."""
    await room.choices()
    room.taken()
    for disk in room.disks:
        disk.show(folders=["3d", "set1", "set1/inner"])
    await room.gateway.object_info.uploads_changed("set1/inner")
    assert (await room.choices())["Folder"] == ["3d", "set1", "set1/inner"]
    assert [asked.count("/object_info") for asked in room.taken()] == [1, 1]
    for disk in room.disks:
        disk.show(folders=["3d", "set1", "set2"])
    await room.gateway.object_info.uploads_changed("set2")
    assert (await room.choices())["Folder"] == ["3d", "set1", "set2"]
    assert [asked.count("/object_info") for asked in room.taken()] == [0, 0]
    room.disks[0].show(folders=["3d", "set1", "set2", "by_hand"])
    assert "by_hand" in (await room.choices())["Folder"]
    assert [asked.count("/object_info") for asked in room.taken()] == [0, 0]


async def test_a_file_copied_before_the_first_look_is_seen(room: Room) -> None:
    """The lists could not be had with the classes: nobody knows since when they are as they are."""
    lists = {path: listed for path, listed in room.disks[0].json.items() if "object" not in path}
    for path in lists:
        del room.disks[0].json[path]
    cluster = room.gateway.cluster
    await cluster.object_info.of(cluster.instances[0])
    cluster.object_info.documents.changes.forget(cluster.instances[0])
    room.disks[0].show(loras=["a", "new"])
    assert (await room.choices())["LoraLoader"] == ["a", "new"]


async def test_one_that_is_slow_to_look_does_not_hold_up_the_answer(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known of it stays; its change is in a later answer."""
    await room.choices()
    monkeypatch.setattr(object_info, "HURRY_S", 0.0)
    room.disks[1].let_go.clear()
    room.disks[1].show(loras=["a", "new"])
    assert (await room.choices())["LoraLoader"] == ["a"]
    monkeypatch.setattr(object_info, "HURRY_S", 60.0)
    room.disks[1].let_go.set()
    assert (await room.choices())["LoraLoader"] == ["a", "new"]


async def test_a_crowd_looks_once(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests at the same time share the look, and so do those of the next half second."""
    await room.choices()
    room.disks[0].asked.clear()
    monkeypatch.setattr(cache_module, "LOOK_S", 60.0)
    await asyncio.gather(*(room.choices() for _ in range(10)))
    assert room.disks[0].asked == []
    monkeypatch.setattr(cache_module, "LOOK_S", -1.0)
    room.disks[0].let_go.clear()
    asking = [asyncio.create_task(room.choices()) for _ in range(10)]
    room.disks[0].heard.clear()
    await room.disks[0].heard.wait()
    room.disks[0].let_go.set()
    await asyncio.gather(*asking)
    assert room.disks[0].asked.count("/object_info") == 0


async def test_a_prompt_that_names_a_copied_model_goes_to_who_has_it(room: Room) -> None:
    """What an instance seems to lack is looked for before the prompt is sent elsewhere."""
    await room.choices()
    room.disks[1].show(loras=["a", "new"])
    graph = {"1": {"class_type": "LoraLoader", "inputs": {"x": "new"}}}
    cluster = room.gateway.cluster
    lacks = [await cluster.graph_support.lacks(graph, one) for one in cluster.instances]
    assert lacks == [1, 0]


async def test_what_a_look_did_not_find_is_not_looked_for_at_once_again(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some classes take what they never list; a class that is missing is in no list of files."""
    await room.choices()
    room.taken()
    support, one = room.gateway.cluster.graph_support, room.gateway.cluster.instances[0]
    unlisted = {"1": {"class_type": "LoraLoader", "inputs": {"x": "anything"}}}
    assert await support.lacks({"1": {"class_type": "Unknown", "inputs": {}}}, one) == 1
    assert room.disks[0].asked == []
    for _ in range(3):
        assert await support.lacks(unlisted, one) == 1
    assert room.disks[0].asked.count("/models/loras") == 1
    monkeypatch.setattr(graph_support, "LOOK_AGAIN_S", 0.0)
    room.disks[0].show(loras=["a", "anything"])
    assert await support.lacks(unlisted, one) == 0
