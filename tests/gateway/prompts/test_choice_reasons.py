"""Why an instance was tried for a client's prompt, where seconds were not what decided."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from loguru import logger
from manual_clock import ManualClock
from prompts_front import (
    LONG_S,
    ended,
    graph,
    instance_of,
    interrupt,
    pile_up,
    post,
    show,
    until,
)
from yarl import URL

from comfy_proxy import Settings
from comfy_proxy.cluster.cluster import Cluster
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.cluster.planning.decision import Decision, decide
from comfy_proxy.dispatch.dispatcher import Unready
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.gateway.prompts.choice import Choice
from comfy_proxy.ledger.prompt import Prompt

Workers = tuple[EmbeddedWorker, EmbeddedWorker]


@pytest.fixture
def lines() -> list[Any]:
    """What is logged at debug from now on."""
    said: list[Any] = []
    logger.add(lambda line: said.append(line.record), level="DEBUG")
    return said


class FakeNeeds:
    """What each instance lacks; of costs nothing is known."""

    def __init__(self, cluster: Cluster) -> None:
        self._planner = cluster.planner
        self.lacking = dict.fromkeys(cluster.instances, 0.0)

    async def lacks_of(
        self, prompt: Prompt, instances: Sequence[Instance]
    ) -> dict[Instance, float]:
        return {one: self.lacking[one] for one in instances}

    def holding_most(self, prompt: Prompt, instances: Sequence[Instance]) -> list[Instance]:
        return list(instances)

    def finish_first(self, prompt: Prompt, instances: Sequence[Instance]) -> list[Instance]:
        return list(instances)

    def why(
        self, prompt: Prompt, chosen: Instance, instances: Sequence[Instance], *, only: str | None
    ) -> Decision:
        return decide(chosen, [], self._planner, only=only)


class Bench:
    def __init__(self, count: int) -> None:
        urls = tuple(URL(f"http://gpu{number}:1") for number in range(1, count + 1))
        self.cluster = Cluster(Settings(instances=urls), clock=ManualClock())
        self.needs = FakeNeeds(self.cluster)
        needs: Any = self.needs
        self.choice = Choice(Prompt(prompt_id="p"), self.cluster, needs)

    async def told(self) -> str:
        """The line about the next choice."""
        said: list[str] = []
        sink = logger.add(lambda line: said.append(line.record["message"]), level="DEBUG")
        await self.choice.next()
        logger.remove(sink)
        (line,) = said
        return line


async def test_of_several_the_one_with_the_fewest_prompts() -> None:
    assert await Bench(2).told() == (
        "prompt p goes to gpu1:1: fewest prompts (nothing is known of its cost)"
    )


async def test_the_only_one_that_can_run_it() -> None:
    """The others lack something, or there are no others."""
    bench = Bench(2)
    bench.needs.lacking[bench.cluster.instances[0]] = 1
    line = "prompt p goes to {}: the only instance that can run it"
    assert await bench.told() == line.format("gpu2:1")
    assert await Bench(1).told() == line.format("gpu1:1")


async def test_the_only_one_that_is_left() -> None:
    """Another one has not taken it."""
    bench = Bench(2)
    bench.choice.pass_over(bench.cluster.instances[0], Unready.OTHER_FILES)
    assert await bench.told() == "prompt p goes to gpu2:1: the only instance left that can run it"


async def test_the_only_one_at_which_its_client_can_be_heard() -> None:
    bench = Bench(2)
    bench.choice.pass_over(bench.cluster.instances[0], Unready.UNHEARD)
    assert await bench.told() == (
        "prompt p goes to gpu2:1: the only instance at which its client can be heard now"
    )


async def test_nobody_can_run_it() -> None:
    """ComfyUI's own refusal is the answer, of the one that lacks least."""
    bench = Bench(2)
    bench.needs.lacking.update(zip(bench.cluster.instances, (2, 1), strict=True))
    assert await bench.told() == (
        "prompt p goes to gpu2:1: no instance can run it, and this one lacks least"
    )


async def test_one_that_names_a_result_follows_it(proxy: TestClient, lines: list[Any]) -> None:
    """Where that is made while it is."""
    maker = await post(proxy, graph(LONG_S, prefix="made"), client_id="me")
    reader = graph()
    reader["1"] = {"class_type": "LoadImage", "inputs": {"image": "made_00001_.png [output]"}}
    async with proxy.post("/prompt", json={"prompt": reader, "client_id": "me"}) as answer:
        await answer.read()  # a refusal: the file is not there yet
    (line,) = [one for one in lines if "is made there" in one["message"]]
    (where,) = [
        one["extra"]["instance"] for one in lines if f"prompt {maker} goes to" in one["message"]
    ]
    assert line["extra"]["instance"] == where
    await interrupt(proxy, maker)
    await ended(proxy, maker)


# --- those that go elsewhere ---------------------------------------------------------------------


def about(lines: list[Any], prompt_id: str, instance: str, part: str) -> bool:
    return any(
        re.search(rf"prompt {prompt_id} .*{instance}: {part}", line["message"])
        and line["extra"]["instance"] == instance
        and line["extra"]["prompt_id"] == prompt_id
        for line in lines
    )


async def test_a_move_says_why(proxy: TestClient, workers: Workers, lines: list[Any]) -> None:
    """Each prompt that moves, before it has gone."""
    busy, idle = workers
    blocker, *waiting = await pile_up(proxy, workers)
    await show(proxy, idle)
    await ended(proxy, *waiting)
    for prompt_id in waiting:
        assert about(lines, prompt_id, idle.host, f"it was moved there: .*at {busy.host}")
    await interrupt(proxy, blocker)
    await ended(proxy, blocker)


async def test_a_lost_prompt_says_why(
    proxy: TestClient, workers: Workers, lines: list[Any]
) -> None:
    """What was lost with the process of its instance goes to the other one."""
    prompt_ids = await pile_up(proxy, workers, 3)
    remaining = instance_of(proxy, workers[0]).prompts
    await until(lambda: remaining.queue_remaining == len(prompt_ids))
    await workers[0].kill()
    await show(proxy, workers[1])
    host = workers[1].host
    for prompt_id in prompt_ids:
        await until(lambda one=prompt_id: about(lines, one, host, "its instance has lost it"))
    await until(lambda: prompt_ids[0] in workers[1].started)
    await interrupt(proxy, prompt_ids[0])
    await ended(proxy, *prompt_ids)
