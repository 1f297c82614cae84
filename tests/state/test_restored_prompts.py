"""Clients' prompts after a restart: each ends, at its instance or elsewhere, and once."""

from __future__ import annotations

import pytest
from job_client import kill, until
from past_the_proxy import interrupt, keep_busy
from prompt_client import get, graph, post
from prompts_of_clients import (
    both_busy,
    ended,
    heard,
    listening,
    living,
    place_of,
    succeeded,
)
from restarting import Restarting

from comfy_proxy.cluster.planning.samples import ENOUGH_RUNS
from comfy_proxy.dispatch.dispatcher import Dispatcher
from comfy_proxy.keys import CLUSTER, GATEWAY, STATE
from comfy_proxy.ledger.prompt import Prompt


def executed(proxy: Restarting) -> list[str]:
    return [one for worker in proxy.workers for one in worker.executed]


def dispatcher_of(proxy: Restarting) -> Dispatcher:
    return proxy.http.app[GATEWAY].failover._dispatcher


async def test_a_client_that_comes_back(proxy: Restarting) -> None:
    """It opens its socket again with the same clientId, and hears how its prompt goes on."""
    await proxy.start()
    await both_busy(proxy.http, proxy.workers)
    async with listening(proxy.http, "me"):
        prompt_id = await post(proxy.http, client_id="me")
    await proxy.restart()
    async with listening(proxy.http, "me") as socket:
        await interrupt(*proxy.workers)
        assert await heard(socket, "execution_success", prompt_id)
    await until(lambda: not living(proxy.http))


@pytest.mark.long
async def test_an_address_that_is_spelt_otherwise_is_the_same_instance(proxy: Restarting) -> None:
    """What runs and waits there is not sent elsewhere, what ended there is known still."""
    await proxy.start()
    await succeeded(proxy.http, done := await post(proxy.http, graph()))
    await until(lambda: proxy.http.app[GATEWAY].views.kept.find(done) is not None)
    await both_busy(proxy.http, proxy.workers)
    waiting = [await post(proxy.http) for _ in range(4)]
    await proxy.stop()
    spelt = [f"localhost:{one.port}" for one in proxy.workers]
    proxy.http = await proxy._start_proxy(*spelt, **proxy.settings)
    assert proxy.http.app[GATEWAY].views.kept.find(done) is not None
    await interrupt(*proxy.workers)
    await succeeded(proxy.http, *waiting)
    assert sorted(one for one in executed(proxy) if one in waiting) == sorted(waiting)
    # One whose instance is the later of both to end may be moved, as at any time.
    moved = (await get(proxy.http, "/metrics"))["prompts"]["moved"]
    submitted = [one for worker in proxy.workers for one in worker.submitted]
    assert len(submitted) == len(set(submitted)) + moved


@pytest.mark.long
async def test_what_ended_meanwhile(proxy: Restarting) -> None:
    """Prompts that ended while the proxy was down are found to have ended, though others run and
    wait at their instance and no frame tells of them."""
    await proxy.start()
    await both_busy(proxy.http, proxy.workers)
    short = [await post(proxy.http, client_id="me") for _ in range(8)]
    long = [await post(proxy.http, graph(60.0)) for _ in range(4)]
    await proxy.stop()
    await interrupt(*proxy.workers)
    await until(lambda: {one for w in proxy.workers for one in w.started} & set(long))
    await until(lambda: len([w for w in proxy.workers if w.started[-1] in long]) == 2)
    await proxy.start()
    async with listening(proxy.http, "me"):
        await until(lambda: {one.prompt_id for one in living(proxy.http)} == set(long))
    await succeeded(proxy.http, *short)
    assert len(executed(proxy)) == len(set(executed(proxy)))


async def test_an_instance_that_died_meanwhile(proxy: Restarting) -> None:
    """What waited and ran there goes on at the other one, under its id."""
    await proxy.start()
    running = await both_busy(proxy.http, proxy.workers)
    waiting = [await post(proxy.http) for _ in range(4)]
    await proxy.stop()
    await kill(proxy.workers[0])
    await proxy.start()
    there = proxy.workers[1].url
    await until(lambda: {place_of(proxy.http, one) for one in running + waiting} == {there})
    await interrupt(proxy.workers[1])  # its own comes first
    await until(lambda: set(running) <= set(proxy.workers[1].started))
    await interrupt(proxy.workers[1])
    await succeeded(proxy.http, *waiting)


async def test_an_instance_that_is_not_configured_any_more(proxy: Restarting) -> None:
    """Its prompts go on at the instances that are configured."""
    third = proxy.workers[0]
    await proxy.start()
    await both_busy(proxy.http, proxy.workers)
    waiting = [await post(proxy.http) for _ in range(4)]
    moved = [one for one in waiting if place_of(proxy.http, one) == third.url]
    assert moved
    await proxy.restart(proxy.workers[1], "localhost:9")  # type: ignore[arg-type]
    there = proxy.workers[1].url
    await until(lambda: {place_of(proxy.http, one) for one in moved} == {there})


async def test_one_instance_alone(proxy: Restarting) -> None:
    """The proxy does not follow its prompts; those that were written when there were two are
    forgotten."""
    await proxy.start()
    running = await both_busy(proxy.http, proxy.workers)
    await proxy.restart(proxy.workers[0])
    assert living(proxy.http) == []
    await proxy.restart()
    assert living(proxy.http) == []
    assert set(running) == {worker.started[-1] for worker in proxy.workers}


@pytest.mark.long
async def test_the_order_of_the_instances_has_changed(proxy: Restarting) -> None:
    """``@2`` in a name leads to the instance that it led to before, and so does a name without a
    prefix; prompts are looked for where they are."""
    one, two = proxy.workers
    await proxy.start()
    async with listening(proxy.http, "me") as socket:
        made = {}
        for color in (1, 2, 3, 4):
            prompt_id = await post(proxy.http, graph(color=color), client_id="me")
            await heard(socket, "execution_success", prompt_id)
            made[prompt_id] = (await ended(proxy.http, prompt_id))["outputs"]["3"]["images"][0]
    pictures = {one: await view(proxy, file) for one, file in made.items()}
    assert len({file["subfolder"] for file in made.values()}) == 2
    bare = {"filename": made[prompt_id]["filename"], "subfolder": "", "type": "output"}
    newest = await view(proxy, bare)
    await keep_busy(one, two)
    waiting = [await post(proxy.http) for _ in range(4)]
    await proxy.restart(two, one)
    assert {one: await view(proxy, file) for one, file in made.items()} == pictures
    assert await view(proxy, bare) == newest
    assert {prompt.prompt_id for prompt in living(proxy.http)} == set(waiting)
    await interrupt(one, two)
    await succeeded(proxy.http, *waiting)
    assert len(executed(proxy)) == len(set(executed(proxy)))


async def test_an_instance_that_lost_its_disk_is_known_after_a_restart(proxy: Restarting) -> None:
    """A name from before leads nowhere, whichever instance makes a file of that name since."""
    one, two = proxy.workers
    await proxy.start()
    first, instance = proxy.http.app[CLUSTER].instances
    first.drained = True
    made = await post(proxy.http)
    [file] = (await ended(proxy.http, made))["outputs"]["3"]["images"]
    assert file["subfolder"] == "@2"
    await two.restart(keep_files=False)
    instance.socket_lost()
    assert await proxy.http.app[CLUSTER].health_checker.check(instance)
    await until(lambda: instance.mark != "2")
    await proxy.http.app[STATE].durable()
    proxy.killed_now()
    await proxy.restart(two, one)
    assert [one.mark for one in proxy.http.app[CLUSTER].instances] == ["2.1", "1"]
    async with proxy.http.get("/view", params=file) as answer:
        assert answer.status == 404


async def view(proxy: Restarting, file: dict[str, str]) -> bytes:
    async with proxy.http.get("/view", params=file) as answer:
        assert answer.status == 200, file
        return await answer.read()


async def test_killed_between_the_post_and_its_answer(proxy: Restarting) -> None:
    """A prompt that the instance has taken is followed to its end; one that it has not is
    forgotten: its client was told nothing."""
    await proxy.start()
    dispatcher = dispatcher_of(proxy)
    durable = dispatcher.durable

    async def killed(prompt: Prompt) -> None:
        await durable(prompt)
        proxy.killed_now()

    dispatcher.durable = killed
    prompt_id = await post(proxy.http)
    await succeeded(proxy.http, prompt_id)
    await proxy.restart()
    await until(lambda: not living(proxy.http))
    assert executed(proxy) == [prompt_id]


async def test_killed_before_the_post(proxy: Restarting) -> None:
    """The instance knows nothing of the prompt, so it is forgotten."""
    await proxy.start()
    dispatcher = dispatcher_of(proxy)
    durable = dispatcher.durable

    async def killed(prompt: Prompt) -> None:
        await durable(prompt)
        proxy.killed_now()

    dispatcher.durable = killed
    await succeeded(proxy.http, await post(proxy.http))
    await proxy.stop()
    for worker in proxy.workers:
        await worker.restart()
    before = executed(proxy)
    await proxy.start()
    await until(lambda: not living(proxy.http))
    assert executed(proxy) == before
    assert await get(proxy.http, "/history") == {}


async def test_a_prompt_that_was_given_up(proxy: Restarting) -> None:
    """Its entry of the history is there again, and can be deleted."""
    await proxy.start()
    for worker in proxy.workers:
        worker.faults.die_at_node = "TimedPass"
    prompt_id = await post(proxy.http)
    await until(lambda: not living(proxy.http))
    for worker in proxy.workers:
        worker.faults.clear()
        await worker.restart()
    await proxy.restart()
    before = await ended(proxy.http, prompt_id)
    assert before["status"]["status_str"] == "error"
    await proxy.restart()
    assert await ended(proxy.http, prompt_id) == before
    async with proxy.http.post("/history", json={"delete": [prompt_id]}) as answer:
        assert answer.status == 200
    await proxy.restart()
    assert await get(proxy.http, f"/history/{prompt_id}") == {}


async def test_what_was_learned(proxy: Restarting) -> None:
    """Costs are restored by the instances' URLs."""
    await proxy.start()
    for _ in range(4 * ENOUGH_RUNS):
        await succeeded(proxy.http, await post(proxy.http))
    ledger = proxy.http.app[GATEWAY].ledger
    await until(lambda: not ledger.live())  # what the last one took is learned with its end
    costs = proxy.http.app[GATEWAY].cluster.planner.costs
    before = costs.export(lambda one: str(one.url), now=0.0)["speeds"]
    assert before
    await proxy.restart(*reversed(proxy.workers))
    costs = proxy.http.app[GATEWAY].cluster.planner.costs
    assert costs.export(lambda one: str(one.url), now=0.0)["speeds"] == pytest.approx(before)


async def test_one_that_was_to_run_once_more(proxy: Restarting) -> None:
    """Its results were lost before anybody was told of them, and then the proxy was killed."""
    await proxy.start()
    prompt_id = await post(proxy.http)
    gateway = proxy.http.app[GATEWAY]
    await until(lambda: gateway.views.kept.find(prompt_id))
    await gateway.failover.close()
    maker = next(one for one in proxy.workers if prompt_id in one.executed)
    await maker.restart(keep_files=False)
    await until(lambda: gateway.ledger.find(prompt_id))
    await proxy.http.app[STATE].durable()
    proxy.killed_now()
    await proxy.stop()
    await proxy.start()
    cluster = proxy.http.app[CLUSTER]  # what moves goes on when an instance has passed a check
    assert await cluster.health_checker.check(cluster.instances[0])
    entry = await ended(proxy.http, prompt_id)
    assert entry["status"]["status_str"] == "success"
    assert [one for worker in proxy.workers for one in worker.executed] == [prompt_id] * 2
