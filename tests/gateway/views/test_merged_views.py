"""What the merged reads promise: one ComfyUI's shapes, nothing missing, nothing twice."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from gateway_harness import unused_url
from ledger_front import taken
from views_harness import (
    BLUE,
    FakeInstance,
    Workers,
    entry,
    finished,
    front,
    get,
    moving,
    run,
    two_fakes,
)

from comfy_proxy.embedded.prompt_queue import PromptQueue
from comfy_proxy.gateway.exchange import native
from comfy_proxy.gateway.views.history import page
from comfy_proxy.ledger.events import Deleted


def ids(queue: dict[str, Any]) -> tuple[list[str], list[str]]:
    running, pending = queue["queue_running"], queue["queue_pending"]
    return [row[1] for row in running], [row[1] for row in pending]


# --- /queue and /prompt -----------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_the_queue_is_all_queues_in_the_order_of_their_turns(prefix: str) -> None:
    """All run, and what waits is sorted by number, then by age."""
    async with two_fakes() as (one, two), front(one, two) as (client, _):
        one.running, two.running = [entry("a")], [entry("b")]
        one.pending = [entry("e", 3, 30), entry("c", -1, 40)]
        two.pending = [entry("f", 3.0, 31), entry("d", 2, 9)]
        assert ids(await get(client, f"{prefix}/queue")) == (["a", "b"], ["c", "d", "e", "f"])
        length = await get(client, f"{prefix}/prompt")
        assert length == {"exec_info": {"queue_remaining": 6}}


async def test_the_bytes_are_those_of_one_comfyui() -> None:
    """Spacing, NaN, integers of any size, lone surrogates and headers come out as they came in."""
    async with two_fakes() as (one, two), front(one, two) as (client, _):
        row = entry("ä\ud800")
        row[2] = {"1": {"inputs": {"seed": 2**70, "cfg": float("nan"), "text": "a/ß"}}}
        one.running = [row]
        async with aiohttp.ClientSession() as direct, direct.get(f"{one.url}/queue") as expected:
            async with client.get("/queue") as answer:
                assert await answer.read() == await expected.read()
                for name in ("Content-Type", "Content-Length", "Server"):
                    assert answer.headers[name] == expected.headers[name]
            async with client.head("/queue") as answer:
                assert answer.headers["Content-Length"] == expected.headers["Content-Length"]
                assert await answer.read() == b""


async def test_a_moving_prompt_waits() -> None:
    """What is on its way is pending and counted, unless its client has deleted it."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        one.running = [entry("a")]
        moving(gateway, "b", 5)
        moving(gateway, "c", 4)
        assert ids(await get(client, "/queue")) == (["a"], ["c", "b"])
        assert await get(client, "/prompt") == {"exec_info": {"queue_remaining": 3}}
        gateway.ledger.apply(Deleted(prompt_ids=["b"]))
        assert ids(await get(client, "/queue")) == (["a"], ["c"])
        assert await get(client, "/prompt") == {"exec_info": {"queue_remaining": 2}}


@pytest.mark.parametrize("arrives", [True, False])
async def test_a_whole_move_between_two_answers_hides_nothing(arrives: bool) -> None:
    """Trap 24: the new place was looked at before the move, the old one after it."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        one.pending = [entry("a")]
        two_has_looked = asyncio.Event()

        async def made() -> None:
            two_has_looked.set()

        async def move() -> None:
            await two_has_looked.wait()
            one.before.clear()
            moving(gateway, "a")
            one.pending = []
            if arrives:
                two.pending = [entry("a")]
                taken(gateway, "a")

        two.after["/queue"] = made
        one.before["/queue"] = move
        assert ids(await get(client, "/queue")) == ([], ["a"])


async def test_the_count_does_not_dip_while_a_prompt_moves() -> None:
    """The sum of /prompt is exact even when the move is in neither instance's number."""
    async with two_fakes() as (one, two), front(one, two) as (client, gateway):
        one.pending = [entry("a"), entry("b")]

        async def leave() -> None:
            moving(gateway, "a")
            one.pending = [entry("b")]

        one.before["/prompt"] = leave
        assert await get(client, "/prompt") == {"exec_info": {"queue_remaining": 2}}

        async def arrive() -> None:
            two.pending = [entry("a")]
            taken(gateway, "a")

        one.before["/prompt"] = arrive
        assert await get(client, "/prompt") == {"exec_info": {"queue_remaining": 2}}


async def test_an_id_at_two_instances_is_one_prompt_and_has_got_furthest() -> None:
    """It moved between their answers; where it runs counts more than where it waited."""
    async with two_fakes() as (one, two), front(one, two) as (client, _):
        one.pending, two.running = [entry("a")], [entry("a")]
        assert ids(await get(client, "/queue")) == (["a"], [])
        one.pending, two.running, two.pending = [entry("a")], [], [entry("a")]
        assert ids(await get(client, "/queue")) == ([], ["a"])


async def test_an_id_twice_at_one_instance_are_two_prompts() -> None:
    """Trap 9: ComfyUI accepts duplicates, and shows both."""
    async with two_fakes() as (one, two), front(one, two) as (client, _):
        two.running, two.pending = [entry("a")], [entry("a"), entry("a")]
        assert ids(await get(client, "/queue")) == (["a"], ["a", "a"])


async def test_a_failing_instance_is_left_out(workers: Workers) -> None:
    """Its answer of another shape or none at all does not spoil the others'."""
    async with FakeInstance() as fake, front(workers[0], fake, await unused_url_text()) as (c, _):
        fake.running = [entry("a")]
        workers[0].faults.answers["/queue"] = "html"
        assert ids(await get(c, "/queue")) == (["a"], [])
        workers[0].faults.answers["/queue"] = "500"
        assert ids(await get(c, "/queue")) == (["a"], [])


async def unused_url_text() -> str:
    return str(await unused_url())


@pytest.mark.parametrize("path", ["/queue", "/prompt", "/history", "/internal/files/output"])
async def test_nobody_left_is_503(path: str) -> None:
    """With Retry-After, in our JSON."""
    nobody = front(await unused_url_text(), await unused_url_text())
    async with nobody as (client, _), client.get(path) as answer:
        assert answer.status == 503
        assert "Retry-After" in answer.headers


@pytest.mark.parametrize("path", ["/queue", "/prompt", "/history"])
async def test_an_error_of_all_is_the_first_ones(path: str) -> None:
    """ComfyUI's own 500 reaches the client as it is."""
    async with two_fakes() as (one, two), front(one, two) as (client, _):
        one.status = two.status = 500
        async with client.get(path) as answer:
            assert (answer.status, await answer.text()) == (500, "broken")


# --- /history ---------------------------------------------------------------------------


async def test_the_history_is_in_the_order_of_the_ends(workers: Workers) -> None:
    """Two real histories are one dict, oldest first, its outputs marked with their instance."""
    one, two = workers
    for worker, prompt_id in ((one, "a"), (two, "b"), (one, "c"), (two, "d")):
        await run(worker, prompt_id)
    async with front(one, two) as (client, _):
        history = await get(client, "/history")
        assert list(history) == ["a", "b", "c", "d"]
        folders = [entry["outputs"]["2"]["images"][0]["subfolder"] for entry in history.values()]
        assert folders == ["@1", "@2", "@1", "@2"]
        assert list(await get(client, "/history?max_items=3")) == ["b", "c", "d"]
        assert list(await get(client, "/history?max_items=2&offset=1")) == ["b", "c"]
        assert list(await get(client, "/history?offset=3")) == ["d"]
    async with front(one, two, shared_storage=frozenset({"output"})) as (client, _):
        history = await get(client, "/history")
        assert history["d"]["outputs"]["2"]["images"][0]["subfolder"] == ""


async def test_what_ends_later_comes_later() -> None:
    """A long prompt that started first and ended last is the newest: pages do not shift."""
    async with two_fakes() as (one, two), front(one, two) as (client, _):
        one.history = {"long": finished("long", 10, 90)}
        two.history = {"short": finished("short", 20, 30), "odd": {"status": None}}
        assert list(await get(client, "/history")) == ["short", "odd", "long"]


@pytest.mark.long
@pytest.mark.parametrize("max_items", [None, -2, 0, 1, 3, 4, 9])
@pytest.mark.parametrize("offset", [-7, -1, 0, 1, 3, 4, 9])
async def test_pages_are_comfyuis(max_items: int | None, offset: int) -> None:
    """Every combination gives of two halves what one server gives of the whole."""
    reference = PromptQueue(lambda remaining: None)
    whole = {name: finished(name, time, time) for time, name in enumerate("abcd")}
    reference._history = dict(whole)
    expected = reference.history(max_items=max_items, offset=offset)
    assert page(whole, max_items, offset) == expected
    async with two_fakes() as (one, two), front(one, two) as (client, _):
        one.history = {name: whole[name] for name in "acd"}
        two.history = {"b": whole["b"]}
        query = f"?offset={offset}" + ("" if max_items is None else f"&max_items={max_items}")
        assert list(await get(client, f"/history{query}")) == list(expected)


async def test_a_page_that_begins_behind_all_numbers() -> None:
    """One entry more than the largest number that Python reads, it cannot write."""
    async with two_fakes() as (one, two), front(one, two) as (client, _):
        one.history = {"a": finished("a", 1, 2)}
        assert await get(client, f"/history?max_items=1&offset={'9' * 4_300}") == {}


async def test_an_instance_is_asked_for_no_more_than_the_page_needs() -> None:
    """The last entries by number, or all up to the end of the page."""
    async with two_fakes() as (one, two), front(one, two) as (client, _):
        await get(client, "/history?max_items=64")
        await get(client, "/api/history?max_items=5&offset=10")
        paths = ["/history?max_items=64", "/history?max_items=15&offset=0"]
        assert [path for _, path, _ in one.requests] == paths
        assert [path for _, path, _ in two.requests] == paths


async def test_a_bad_number_gives_comfyuis_own_error(workers: Workers) -> None:
    """500 in plain text, as directly."""
    async with front(*workers) as (client, _), client.get("/history?max_items=x") as answer:
        assert (answer.status, answer.content_type) == (500, "text/plain")


# --- /internal/files --------------------------------------------------------------------


async def test_files_are_the_union(workers: Workers) -> None:
    """Each instance's order kept, no name twice; a directory that is none is ComfyUI's 400."""
    one, two = workers
    for name in ("a", "b"):
        graph = {
            **BLUE,
            "2": {**BLUE["2"], "inputs": {"images": ["1", 0], "filename_prefix": name}},
        }
        await run(one, name, graph)
    await run(one, "c")
    await run(two, "d")
    async with front(one, two) as (client, _):
        names = await get(client, "/internal/files/output")
        assert sorted(names) == sorted(set(names))
        assert {"a_00001_.png", "b_00001_.png", "blue_00001_.png"} <= set(names)
        async with client.get("/internal/files/models") as answer:
            assert answer.status == 400
            assert await answer.text() == '{"error": "Invalid directory type"}'


async def test_a_long_history_is_put_together_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte for byte the same, and the event loop goes on meanwhile."""
    async with two_fakes() as (one, two), front(one, two) as (client, _):
        one.history["a"], two.history["b"] = finished("a", 1, 2), finished("b", 3, 4)
        async with client.get("/history") as answer:
            expected = await answer.read()
        monkeypatch.setattr(native, "LONG_BYTES", 10)
        async with client.get("/history") as answer:
            assert await answer.read() == expected
        assert json.dumps(json.loads(expected)).encode() == expected


async def test_a_user_who_is_said_to_end_at_this_hop_goes_no_further() -> None:
    """``Connection`` names the header: nobody is told of a user."""
    headers = {"comfy-user": "anne", "Connection": "keep-alive, comfy-user"}
    async with (
        two_fakes() as (one, two),
        front(one, two) as (client, _),
        client.get("/pack/x", headers=headers) as answer,
    ):
        assert answer.status == 404
