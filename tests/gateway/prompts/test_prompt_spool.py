"""However many prompts wait, none of them is forgotten: their bodies go to files, and come back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from prompts_front import Workers, ended, get, graph, pile_up, post, show, until

from comfy_proxy.cluster.comfyui_frames import StatusFrame
from comfy_proxy.errors import PromptLostError
from comfy_proxy.gateway.prompts import spool as spool_module
from comfy_proxy.gateway.prompts.spool import PromptSpool
from comfy_proxy.keys import CLUSTER, GATEWAY
from comfy_proxy.ledger.prompt import ClientPost, PostHeaders, Prompt
from comfy_proxy.lenient_json import dumps


def prompt(number: int) -> Prompt:
    document = {"prompt": {"1": {"inputs": {"text": "x" * 100, "number": number}}}}
    post = ClientPost(
        path="/prompt",
        client_id=None,
        headers=PostHeaders({}),
        body=dumps(document),
        graph=document["prompt"],
    )
    return Prompt(prompt_id=str(number), post=post)


async def spooled(spool: PromptSpool) -> None:
    await asyncio.gather(*spool._storing.values())


def nothing_in(spool: PromptSpool) -> bool:
    return not (spool._bytes or spool._in_memory or spool._held or spool._stored)


async def test_the_oldest_go_to_files_and_come_back() -> None:
    """Byte for byte, with their graphs; those that ended meanwhile leave nothing."""
    spool, prompts = PromptSpool(limit=400), [prompt(number) for number in range(6)]
    whole = [(one.post.body, one.post.graph) for one in prompts]
    for one in prompts:
        spool._add(one)
    await spooled(spool)
    assert [bool(one.post.body) for one in prompts] == [False] * 4 + [True] * 2
    spool._forget(prompts[1])
    for number in (0, 2, 3):
        async with spool.holding(prompts[number]):
            assert (prompts[number].post.body, prompts[number].post.graph) == whole[number]
    await spooled(spool)
    await spool.close()
    assert nothing_in(spool)


async def test_a_prompt_that_is_at_work_stays_in_memory() -> None:
    """While it is moved or submitted again any number of others may come; its body is there."""
    spool, one = PromptSpool(limit=1), prompt(0)
    body = one.post.body
    spool._add(one)
    async with spool.holding(one), spool.holding(one):
        for number in (1, 2, 3):
            spool._add(prompt(number))
        await spooled(spool)
        assert one.post.body == body
    assert one.post.body == body
    spool._add(prompt(4))
    await spooled(spool)
    assert one.post.body == b""
    await spool.close()
    assert nothing_in(spool)


@pytest.mark.parametrize("in_file", [False, True])
async def test_a_prompt_that_ends_while_it_is_held_leaves_nothing(in_file: bool) -> None:
    """Its client deletes it while it is moved."""
    spool, one = PromptSpool(limit=1), prompt(0)
    spool._add(one)
    if in_file:
        spool._add(prompt(1))
        await spooled(spool)
    async with spool.holding(one):
        spool._forget(one)
    assert one not in {*spool._in_memory, *spool._held, *spool._stored}
    await spool.close()
    assert nothing_in(spool)


async def test_a_file_that_is_gone_is_told() -> None:
    """Somebody tidies the temporary directory: the prompt is lost, and says so."""
    spool, prompts = PromptSpool(limit=1), [prompt(1), prompt(2)]
    for one in prompts:
        spool._add(one)
    await spooled(spool)
    spool._stored[prompts[0]].close()
    with pytest.raises(PromptLostError):
        async with spool.holding(prompts[0]):
            pass
    await spool.close()


async def test_two_may_bring_the_same_prompt_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is considered for a move while it is rescued: whoever reads last finds it there."""
    spool, one = PromptSpool(limit=1), prompt(0)
    body, first_is_done = one.post.body, asyncio.Event()
    spool._add(one)
    spool._add(prompt(1))
    await spooled(spool)
    reading, restored = [], spool_module._restored

    async def the_second_waits(*of: Any) -> Any:
        reading.append(of)
        if len(reading) == 2:
            await first_is_done.wait()
        return await restored(*of)

    monkeypatch.setattr(spool_module, "_restored", the_second_waits)

    async def hold() -> bytes:
        async with spool.holding(one):
            first_is_done.set()
            return one.post.body

    assert await asyncio.gather(hold(), hold()) == [body, body]
    await spool.close()
    assert nothing_in(spool)


@pytest.mark.long
async def test_a_prompt_that_waits_for_its_rescue_is_not_crowded_out(
    proxy: TestClient, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its instance is down and newer prompts come, more than the memory may hold: it still runs."""
    spool = proxy.app[GATEWAY].spool
    monkeypatch.setattr(spool, "_limit", 1)
    blocker, *waiting = await pile_up(proxy, workers, 3, seconds=0.2)
    instance = proxy.app[CLUSTER].instances[0]
    await until(lambda: instance.prompts.queue_remaining == 3)
    await workers[0].kill()
    await show(proxy, workers[1])
    newer = [await post(proxy, graph(text)) for text in (0.0, 0.01, 0.02)]
    await ended(proxy, blocker, *waiting, *newer)
    assert {*workers[1].executed} == {blocker, *waiting, *newer}
    metrics: Any = await get(proxy, "/metrics")
    await until(lambda: not spool._in_memory and not spool._stored)
    assert metrics["prompts"]["cancelled"] == 0


@pytest.mark.long
async def test_a_status_from_before_a_prompt_outcomes_nothing(
    proxy: TestClient, workers: Workers
) -> None:
    """A ``status`` of 0 is read after the prompt was taken; its process dies: it runs elsewhere."""
    (prompt_id,) = await pile_up(proxy, workers, 1, seconds=0.3)
    instance = proxy.app[CLUSTER].instances[0]
    await until(lambda: instance.prompts.queue_remaining == 1)
    stale = StatusFrame(queue_remaining=0)
    instance.prompts.observed(stale.queue_remaining)
    await workers[0].kill()
    await show(proxy, workers[1])
    await ended(proxy, prompt_id)
    assert workers[1].executed == [prompt_id]
