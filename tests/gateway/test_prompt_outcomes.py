"""How clients' prompts end is known, whoever listens: counted once, with what it cost, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from prompts_front import (
    Http,
    Workers,
    ended,
    get,
    graph,
    interrupt,
    listening,
    pile_up,
    post,
    show,
    until,
)

from comfy_proxy.gateway.prompts.outcomes import WatchedPrompt, told_by
from comfy_proxy.keys import CLUSTER, GATEWAY, METRICS
from comfy_proxy.metrics.records import Outcome, PromptEnd

FAILING = {
    "1": graph()["1"],
    "2": {"class_type": "FailNode", "inputs": {"image": ["1", 0], "salt": 1}},
    "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
}  # fmt: skip


@pytest.fixture
def ends(proxy: TestClient) -> list[PromptEnd]:
    """What the observers are told."""
    told: list[PromptEnd] = []
    proxy.app[CLUSTER].on_prompt_end.append(told.append)
    return told


async def submit(http: Http, heard: bool, prompt: Any, then: Callable[[], object]) -> str:
    """Post ``prompt``, by a client that listens or by one that does not, until ``then`` holds."""
    if not heard:
        prompt_id = await post(http, prompt)
        await until(then)
        return prompt_id
    async with listening(http) as listener:
        prompt_id = await post(http, prompt, client_id=listener.client_id)
        await until(then)
        return prompt_id


@pytest.mark.parametrize("heard", [True, False], ids=["listening", "only asking"])
async def test_a_completed_prompt(
    proxy: TestClient, workers: Workers, ends: list[PromptEnd], heard: bool
) -> None:
    """Once, with where it ran and how long it waited and ran."""
    prompt_id = await submit(proxy, heard, graph(0.05), lambda: ends)
    (end,) = ends
    assert (end.prompt_id, end.outcome, end.code) == (prompt_id, Outcome.COMPLETED, None)
    assert [end.instance] == [one.host for one in workers if prompt_id in one.started]
    assert end.processing_s is not None
    assert end.processing_s > 0
    assert end.waiting_s is not None
    stats = proxy.app[METRICS].get_stats()["prompts"]
    assert (stats["forwarded"], stats["completed"], stats["failed"]) == (1, 1, 0)
    assert stats["processing_time"]["count"] == 1


@pytest.mark.parametrize("heard", [True, False], ids=["listening", "only asking"])
async def test_a_failed_prompt_says_why(
    proxy: TestClient, ends: list[PromptEnd], heard: bool
) -> None:
    """Which node raised what, in ComfyUI's own words."""
    await submit(proxy, heard, FAILING, lambda: ends)
    (end,) = ends
    assert (end.outcome, end.code) == (Outcome.FAILED, "workflow_error")
    assert end.message == "FailNode (node 2): CUDA out of memory (simulated)"
    assert proxy.app[METRICS].get_stats()["last_hour"]["prompts_failed"] == 1


async def test_many_at_once_are_each_told_once(
    proxy: TestClient, workers: Workers, ends: list[PromptEnd]
) -> None:
    """Listened to, asked for and left alone; none is missed and none is counted twice."""
    async with listening(proxy) as listener:
        ids = [
            await post(proxy, graph(), **({"client_id": listener.client_id} if n % 2 else {}))
            for n in range(20)
        ]
        await until(lambda: len(ends) == 20)
    assert sorted(end.prompt_id for end in ends) == sorted(ids)
    assert {end.outcome for end in ends} == {Outcome.COMPLETED}
    assert not proxy.app[GATEWAY].outcomes._watched


async def test_an_interrupted_and_a_deleted_prompt_are_cancelled(
    proxy: TestClient, workers: Workers, ends: list[PromptEnd]
) -> None:
    """One while it ran, one while it waited; what runs is not deleted by asking for it."""
    running, waiting, *_ = await pile_up(proxy, workers, 2)
    async with proxy.post("/queue", json={"delete": [running, waiting]}) as answer:
        assert answer.status == 200
    await until(lambda: ends)
    assert (ends[0].prompt_id, ends[0].outcome) == (waiting, Outcome.CANCELLED)
    await interrupt(proxy, running)
    await until(lambda: len(ends) == 2)
    assert (ends[1].prompt_id, ends[1].outcome) == (running, Outcome.CANCELLED)
    stats = proxy.app[METRICS].get_stats()["prompts"]
    assert (stats["cancelled"], stats["completed"], stats["failed"]) == (2, 0, 0)


async def test_a_moved_prompt_ends_where_it_ran(
    proxy: TestClient, workers: Workers, ends: list[PromptEnd]
) -> None:
    """Its waiting is counted from its acceptance, wherever that was."""
    blocker, *waiting = await pile_up(proxy, workers, 3)
    await show(proxy, workers[1])
    await until(lambda: {end.prompt_id for end in ends} == set(waiting))
    assert {end.instance for end in ends} == {workers[1].host}
    await interrupt(proxy, blocker)
    await until(lambda: len(ends) == 3)


async def test_one_that_left_no_history_is_not_watched_for_ever(
    proxy: TestClient, ends: list[PromptEnd]
) -> None:
    """A client deleted it before anybody looked: how it ended nobody knows; it is let go."""
    gateway = proxy.app[GATEWAY]
    instance = gateway.cluster.instances[0]
    gateway.ownership.prompts.record("gone", instance)
    gateway.outcomes._watched["gone"] = WatchedPrompt(
        prompt_id="gone", client_id=None, trace=None, accepted_at=0.0
    )
    gateway.outcomes.load_changed(instance)
    await until(lambda: not gateway.outcomes._watched)
    assert ends == []


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ({"status_str": "success", "completed": True, "messages": []}, Outcome.COMPLETED),
        ({"status_str": "error", "completed": False}, Outcome.FAILED),
        ({"messages": [["execution_success", {}]]}, Outcome.COMPLETED),
        ({"messages": [["execution_interrupted", {"timestamp": 5}], 7]}, Outcome.CANCELLED),
        (None, Outcome.COMPLETED),
        ("nonsense", None),
        ({"messages": 5}, None),
    ],
)
def test_histories_of_all_kinds(status: Any, outcome: Outcome | None) -> None:
    """Of old servers, which tell less; what is none of ComfyUI's is told apart."""
    entry = {"status": status}
    if outcome is None:
        with pytest.raises((AttributeError, TypeError, ValueError)):
            told_by(entry)
    else:
        assert told_by(entry)[:2] == (outcome, None)


async def test_the_watch_is_bounded(proxy: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest are known."""
    monkeypatch.setattr("comfy_proxy.gateway.prompts.outcomes.MAX_WATCHED", 2)
    ids = [await post(proxy, graph(0.2)) for _ in range(5)]
    assert len(proxy.app[GATEWAY].outcomes._watched) <= 2
    await ended(proxy, *ids)
    assert set(await get(proxy, "/history")) == set(ids)
