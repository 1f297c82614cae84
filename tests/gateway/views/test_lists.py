"""Lists of model files and devices: all instances' as one, and one file by who has it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from views_harness import Answers, front, get

from comfy_proxy.gateway.views import latest_answers


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Answers, Answers]]:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(Answers())
        yield one, await stack.enter_async_context(Answers())


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is slow but where a test says so, whatever else this machine does."""
    monkeypatch.setattr(latest_answers, "PATIENCE_S", 60.0)


Pair = tuple[Answers, Answers]


@pytest.mark.parametrize("path", ["/models", "/models/loras", "/api/models/loras", "/embeddings"])
async def test_names_are_the_union(pair: Pair, path: str) -> None:
    """The first one's in its order, then what only the other has."""
    one, two = pair
    one.json[path], two.json[path] = ["b", "a"], ["a", "c", "b"]
    async with front(one.url, two.url) as (client, _):
        assert await get(client, path) == ["b", "a", "c"]


async def test_model_files_are_told_apart_by_name_and_path_index(pair: Pair) -> None:
    """One that both have stands there once, as the first one tells it."""
    one, two = pair
    path = "/api/experiment/models/loras"
    first, second = [{"name": "a", "pathIndex": index, "size": 3} for index in (0, 1)]
    one.json[path] = [first]
    two.json[path] = [{**first, "size": 9}, second, {"name": "b", "pathIndex": 0, "size": 4}]
    async with front(one.url, two.url) as (client, _):
        assert await get(client, path) == [first, second, {"name": "b", "pathIndex": 0, "size": 4}]
        folders = "/experiment/models"
        one.json[folders] = [{"name": "loras", "folders": ["/1"]}]
        two.json[folders] = [{"name": "loras", "folders": ["/2"]}, {"name": "x", "folders": []}]
        names = [entry["name"] for entry in await get(client, folders)]
        assert names == ["loras", "x"]


async def test_a_folder_that_one_instance_has_is_listed(pair: Pair) -> None:
    """404 from one is no list; 404 from all is the first one's own answer."""
    one, two = pair
    two.json["/models/background_removal"] = ["birefnet.safetensors"]
    async with front(one.url, two.url) as (client, _):
        assert await get(client, "/models/background_removal") == ["birefnet.safetensors"]
        async with client.get("/models/nowhere") as answer:
            assert (answer.status, await answer.text()) == (404, f"none at {one.url}")


async def test_equal_lists_come_out_byte_for_byte(pair: Pair) -> None:
    """A client cannot tell it from one instance."""
    names = ["ä", "b/c"]
    for server in pair:
        server.json["/models/loras"] = names
    async with front(*(server.url for server in pair)) as (client, _):
        async with client.get("/models/loras") as answer:
            assert await answer.read() == json.dumps(names).encode()
        async with client.head("/models/loras") as answer:
            assert (answer.status, await answer.read()) == (200, b"")


async def test_one_that_is_slow_is_known_by_what_it_said_last(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files stay in the list while it answers nothing; of one never heard there are none."""
    one, two = pair
    one.json["/models/loras"], two.json["/models/loras"] = ["a"], ["b"]
    one.json["/embeddings"], two.json["/embeddings"] = ["c"], ["d"]
    async with front(one.url, two.url) as (client, _):
        assert await get(client, "/models/loras") == ["a", "b"]
        monkeypatch.setattr(latest_answers, "PATIENCE_S", 0.0)
        two.let_go.clear()
        one.json["/models/loras"] = ["a", "new"]
        assert await get(client, "/models/loras") == ["a", "new", "b"]
        assert await get(client, "/embeddings") == ["c"]


@pytest.mark.parametrize(
    "path",
    [
        "/view_metadata/loras?filename=x.safetensors",
        "/api/experiment/models/preview/loras/0/x.safetensors",
    ],
)
async def test_a_model_file_is_shown_by_who_has_it(pair: Pair, path: str) -> None:
    """The primary first; where it has none the next one, and its own 404 if nobody has it."""
    one, two = pair
    bare = path.partition("?")[0]
    async with front(one.url, two.url) as (client, _):
        two.json[bare] = {"of": "two"}
        assert await get(client, path) == {"of": "two"}
        assert (one.asked, two.asked) == ([path], [path])
        one.json[bare] = {"of": "one"}
        assert await get(client, path) == {"of": "one"}
        assert two.asked == [path]
        del one.json[bare], two.json[bare]
        async with client.get(path) as answer:
            assert (answer.status, await answer.text()) == (404, f"none at {one.url}")


async def test_one_that_is_down_is_passed_over(pair: Pair) -> None:
    """The lists and the file come from the other one."""
    _, two = pair
    two.json = {"/models/loras": ["b"], "/view_metadata/loras": {"of": "two"}}
    async with front("http://127.0.0.1:1", two.url) as (client, _):
        assert await get(client, "/models/loras") == ["b"]
        assert await get(client, "/view_metadata/loras") == {"of": "two"}


def stats(name: str, *devices: str) -> Any:
    return {"system": {"os": name}, "devices": [{"name": device} for device in devices]}


async def test_devices_are_those_of_all_instances(pair: Pair) -> None:
    """The primary's first; what else it says of itself is its own alone."""
    one, two = pair
    one.json["/system_stats"] = stats("one", "cuda:0", "cuda:1") | {"more": 1}
    two.json["/system_stats"] = stats("two", "cuda:0")
    async with front(one.url, two.url) as (client, _):
        both = stats("one", "cuda:0", "cuda:1", "cuda:0") | {"more": 1}
        assert await get(client, "/system_stats") == both
        del two.json["/system_stats"]
        assert await get(client, "/system_stats") == one.json["/system_stats"]


async def test_the_primary_is_waited_for_before_it_is_left_out(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not a list of devices is the primary's, and no other's in between."""
    one, two = pair
    one.json["/system_stats"], two.json["/system_stats"] = stats("one", "a"), stats("two", "b")
    monkeypatch.setattr(latest_answers, "PATIENCE_S", 0.0)
    one.let_go.clear()
    async with front(one.url, two.url) as (client, _):
        asking = asyncio.create_task(get(client, "/system_stats"))
        await two.heard.wait()
        one.let_go.set()
        assert (await asking)["system"] == {"os": "one"}


async def test_the_answers_that_stand_in_are_bounded(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them, by its query, is one more; the latest are kept."""
    one, two = pair
    monkeypatch.setattr(latest_answers, "MAX_KNOWN_BYTES", 4 * len('["a"]'))
    one.json["/models/loras"], two.json["/models/loras"] = ["a"], ["b"]
    async with front(one.url, two.url) as (client, _):
        for number in range(3):
            assert await get(client, f"/models/loras?{number}") == ["a", "b"]
        monkeypatch.setattr(latest_answers, "PATIENCE_S", 0.0)
        two.let_go.clear()
        assert await get(client, "/models/loras?2") == ["a", "b"]
        assert await get(client, "/models/loras?0") == ["a"]
