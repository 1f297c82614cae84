"""How clients' prompts end is known, whoever listens: counted once, with what it cost, and why."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from ledger_front import accepted, take
from prompts_front import (
    Http,
    Workers,
    ended,
    graph,
    instance_of,
    interrupt,
    listening,
    pile_up,
    post,
    show,
    until,
)

from comfy_proxy.cluster.prompt_outcomes import told_by
from comfy_proxy.keys import CLUSTER, GATEWAY, METRICS
from comfy_proxy.ledger import events
from comfy_proxy.ledger.states import State
from comfy_proxy.metrics.prompt_figures import PromptFigures
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


@pytest.mark.long
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
    assert not proxy.app[GATEWAY].ledger.live()


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


async def test_a_moved_prompt_outcomes_where_it_ran(
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
    gateway, instance = proxy.app[GATEWAY], proxy.app[CLUSTER].instances[0]
    accepted(gateway.ledger, "gone", instance)
    gateway.reconciler.load_changed(instance)
    await until(lambda: not gateway.ledger.live())
    assert ends == []


@pytest.mark.long
@pytest.mark.parametrize("odd", ["a/b", "..", ".", "../object_info", "ä%2F", "x?y#z"])
async def test_no_id_makes_others_uncounted(
    proxy: TestClient, workers: Workers, ends: list[PromptEnd], odd: str
) -> None:
    """Old servers take any text for an id: it leads nowhere, costs no strike and stops nobody."""
    ids = [await post(proxy, graph(), prompt_id=odd)]
    ids += [await post(proxy, graph()) for _ in range(6)]
    await until(lambda: len(ends) == 7)
    assert sorted(end.prompt_id for end in ends) == sorted(ids)
    assert [one.breaker.consecutive_failures for one in proxy.app[CLUSTER].instances] == [0, 0]


async def test_what_waits_long_hides_no_ends(
    proxy: TestClient, workers: Workers, ends: list[PromptEnd]
) -> None:
    """Prompts that came first and run last: the others are counted when they end."""
    blockers = [await post(proxy, graph(60)) for _ in workers]
    last = [await post(proxy, graph(), number=1000) for _ in range(10)]
    quick = [await post(proxy, graph()) for _ in range(6)]
    await interrupt(proxy, blockers[0])
    await until(lambda: len(ends) >= 8)
    assert set(quick) & {end.prompt_id for end in ends}
    await interrupt(proxy, blockers[1])
    await until(lambda: len(ends) == 18)
    assert {end.prompt_id for end in ends} == {*blockers, *last, *quick}


async def test_a_missed_end_is_found_with_its_own_times(
    proxy: TestClient, workers: Workers, ends: list[PromptEnd]
) -> None:
    """A listening client's socket missed the frames: the history has what they would have told."""
    gateway = proxy.app[GATEWAY]
    async with listening(proxy) as listener:
        blocker, *_ = await pile_up(proxy, workers, 1, client_id=listener.client_id)
        instance = instance_of(proxy, workers[0])
        unheard = gateway.ledger.find(blocker)
        await until(lambda: unheard.state is State.RUNNING)
        unheard.attempts[-1].began_at = None  # as if its beginning had not been heard
        await interrupt(proxy, blocker)
        await until(lambda: ends)
    (end,) = ends
    assert (end.outcome, end.instance) == (Outcome.CANCELLED, instance.host)
    assert end.waiting_s is not None
    assert end.processing_s is not None


async def test_the_next_one_shows_that_one_has_ended(
    proxy: TestClient, workers: Workers, ends: list[PromptEnd]
) -> None:
    """Its end was not heard and its instance is busy on: it is looked for all the same."""
    ledger, instance = proxy.app[GATEWAY].ledger, proxy.app[CLUSTER].instances[0]
    async with listening(proxy) as listener:
        first = accepted(ledger, "first", instance, listener.client_id)
        accepted(ledger, "second", instance, listener.client_id)
        ledger.apply(events.Began(prompt_id="first", instance=instance))
        ledger.apply(events.Began(prompt_id="second", instance=instance))
        assert first.attempts[-1].presumed_over
        await until(lambda: not ledger.live())  # neither is known there


async def test_a_rescued_prompt_can_be_deleted(proxy: TestClient, ends: list[PromptEnd]) -> None:
    """That it ran somewhere before does not count any more."""
    ledger, (one, two) = proxy.app[GATEWAY].ledger, proxy.app[CLUSTER].instances
    prompt = accepted(ledger, "p", one)
    ledger.apply(events.Began(prompt_id="p", instance=one))
    ledger.apply(events.Lost(prompt=prompt, ran=True))
    take(ledger, prompt, two)
    ledger.apply(events.Deleted(prompt_ids=["p"]))
    await until(lambda: ends)
    assert (ends[0].outcome, ends[0].instance) == (Outcome.CANCELLED, two.host)


async def test_nobody_looks_after_the_end(proxy: TestClient) -> None:
    """A frame that comes late begins nothing."""
    gateway, instance = proxy.app[GATEWAY], proxy.app[CLUSTER].instances[0]
    accepted(gateway.ledger, "p", instance)
    await gateway.reconciler.close()
    gateway.ledger.apply(events.Deleted(prompt_ids=["p"]))
    assert not gateway.reconciler._lookers.busy


async def test_a_cached_prompt_teaches_no_estimate(
    proxy: TestClient, ends: list[PromptEnd]
) -> None:
    """The same graph again takes no time, which says nothing of another one."""
    prompt = graph(0.02)
    for _ in range(2):
        await post(proxy, prompt)
    await until(lambda: len(ends) == 2)
    async with listening(proxy) as listener:
        for _ in range(4):
            await post(proxy, prompt, client_id=listener.client_id)
        await until(lambda: len(ends) == 6)
    measured = sum(end.worked for end in ends)
    assert 1 <= measured <= 2  # once on each instance at the most
    learned = proxy.app[CLUSTER].planner.costs.export(lambda instance: instance.host, now=0.0)
    assert sum(map(len, learned["warm"]["recent"].values())) == measured


def test_with_one_instance_nobody_knows(clock: Any) -> None:
    """Its prompts pass unread: null, which is not nought."""
    figures = PromptFigures(["gpu:8188"])
    assert figures.in_all() == {
        "forwarded": 0, "moved": 0, "passed_over": 0,
        "completed": None, "failed": None, "cancelled": None,
    }  # fmt: skip
    assert not figures.ends


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
    told = told_by(entry)
    assert (told and told.outcome) is outcome


async def test_one_that_is_over_before_its_answer_is_known(
    proxy: TestClient, workers: Workers
) -> None:
    """The answer is lost; by the time that it is asked for no frame of its end is to come."""
    await ended(proxy, await post(proxy), await post(proxy))
    gateway = proxy.app[GATEWAY]
    await until(lambda: not gateway.ledger.live())
    before = sum(len(worker.executed) for worker in workers)
    for worker in workers:
        worker.faults.break_prompts = 1
        worker.faults.hang = ("/queue",)
    posting = asyncio.create_task(post(proxy))
    await until(lambda: sum(len(worker.executed) for worker in workers) > before)
    await until(lambda: not any(worker.queue_remaining for worker in workers))
    await until(lambda: not any(one.prompts.queue_remaining for one in gateway.cluster.instances))
    await until(lambda: not gateway.reconciler._lookers.busy)
    for worker in workers:
        worker.faults.clear()
    await posting
    await until(lambda: not gateway.ledger.live())
