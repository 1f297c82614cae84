"""An instance that an operator has drained stays so, however often the proxy is restarted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from job_client import kill, until
from loguru import logger
from membership_front import add, remove
from past_the_proxy import interrupt, keep_busy
from prompt_client import get, graph, post
from prompts_of_clients import succeeded
from restarting import Restarting

from comfy_proxy.keys import CLUSTER


@pytest.fixture
def warned() -> Iterator[list[str]]:
    """What is logged as a warning."""
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line)), level="WARNING", format="{message}")
    yield lines
    logger.remove(sink)


async def change(proxy: Restarting, action: str, name: str) -> dict[str, Any]:
    async with proxy.http.post(f"/api/instances/{name}/{action}") as answer:
        assert answer.status == 200
        return dict(await answer.json())


async def drained(proxy: Restarting) -> dict[str, bool]:
    """By the address of each."""
    listed = (await get(proxy.http, "/api/instances"))["instances"]
    return {one["host"]: one["draining"] for one in listed}


async def test_a_drain_outlives_restarts(proxy: Restarting, warned: list[str]) -> None:
    """By the instance's URL, and after a kill too: until it is resumed it gets nothing new, and the
    log of each start says so."""
    one, two = proxy.workers
    await proxy.start()
    await change(proxy, "drain", "1")
    proxy.killed_now()
    await proxy.restart(two, one)
    assert await drained(proxy) == {two.host: False, one.host: True}
    [line] = [line for line in warned if "is drained still" in line]
    assert line.startswith(f"instance {one.host} (number 1) is drained still")
    await succeeded(proxy.http, *[await post(proxy.http) for _ in range(4)])
    assert one.submitted == []
    await proxy.restart(one, two)
    await change(proxy, "resume", "1")
    proxy.killed_now()
    await proxy.restart()
    assert set((await drained(proxy)).values()) == {False}


async def test_its_queue_is_known_after_a_restart(proxy: Restarting) -> None:
    """Prompts that others gave it count, so it does not seem to be empty."""
    await proxy.start()
    await change(proxy, "drain", "1")
    await proxy.stop()
    await keep_busy(proxy.workers[0])
    await proxy.start()
    [instance] = [i for i in proxy.http.app[CLUSTER].instances if i.drained]
    await until(lambda: instance.load)
    assert not (await get(proxy.http, "/api/instances/1"))["empty"]
    emptying = asyncio.create_task(get_waiting(proxy))
    await interrupt(proxy.workers[0])
    assert (await emptying)["empty"]


async def get_waiting(proxy: Restarting) -> dict[str, Any]:
    async with proxy.http.post("/api/instances/1/drain?wait=20") as answer:
        return dict(await answer.json())


async def test_the_start_waits_for_no_drained_instance(proxy: Restarting) -> None:
    """Its operator may have taken it apart."""
    await proxy.start()
    await change(proxy, "drain", "2")
    await proxy.stop()
    await kill(proxy.workers[1])
    await proxy.start()
    assert (await drained(proxy))[proxy.workers[1].host]
    await succeeded(proxy.http, await post(proxy.http, graph()))


async def test_one_that_is_not_configured_any_more(proxy: Restarting) -> None:
    """Its drain is forgotten: an operator who puts it back into the configuration wants it to
    work."""
    one, two = proxy.workers
    await proxy.start()
    await change(proxy, "drain", "1")
    await proxy.restart(two)
    await proxy.restart(one, two)
    assert set((await drained(proxy)).values()) == {False}


@pytest.mark.parametrize("added", [True, False])
async def test_one_that_was_removed_is_not_drained_when_it_is_back(
    proxy: Restarting, added: bool
) -> None:
    """Whether it was added again or stands in the configuration still: its removal drained it for
    no longer than it took."""
    await proxy.start()
    await remove(proxy.http, "2", force="true")
    if added:
        await add(proxy.http, proxy.workers[1])
        assert set((await drained(proxy)).values()) == {False}
    await proxy.restart()
    assert set((await drained(proxy)).values()) == {False}


async def test_without_a_state_file_a_restart_forgets_it(proxy: Restarting) -> None:
    """After a restart it gets work again."""
    await proxy.start(state_file=None)
    await change(proxy, "drain", "1")
    await proxy.restart()
    assert set((await drained(proxy)).values()) == {False}
