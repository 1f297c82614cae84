"""An instance that was away and has returned is used by the first request that needs it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from forwarder import forwarding
from prompts_front import graph, instance_of, png, post, until, upload

from comfy_proxy.cluster.comfyui_client import ComfyUIClient
from comfy_proxy.cluster.instance import Instance
from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import CLUSTER, GATEWAY

Workers = tuple[EmbeddedWorker, EmbeddedWorker]
MANY = 8


@pytest.fixture
def dials(monkeypatch: pytest.MonkeyPatch) -> Counter[Instance]:
    """Checks that really ask an instance."""
    begun: Counter[Instance] = Counter()
    check = ComfyUIClient.check

    async def counted(self: ComfyUIClient, timeout_s: float) -> None:
        begun[self.instance] += 1
        await check(self, timeout_s)

    monkeypatch.setattr(ComfyUIClient, "check", counted)
    return begun


async def given_up(front: Any, worker: EmbeddedWorker) -> Instance:
    """Its circuit is open, and the next trial may begin."""
    instance: Instance = instance_of(front, worker)
    await until(lambda: instance.check_ok is not None)
    await until(lambda: not front.app[CLUSTER].object_info._tasks)
    await worker.kill()
    while instance.healthy:
        await front.app[CLUSTER].health_checker.check(instance)
    instance.breaker.sign_of_life()  # the time that must go by between two trials
    return instance


async def comes_back(worker: EmbeddedWorker, instance: Instance) -> None:
    """A trial that somebody made while it started is as if it had not been."""
    await worker.restart()
    instance.breaker.sign_of_life()


async def _get(front: Any, path: str) -> int:
    async with front.get(path) as answer:
        await answer.read()
        return int(answer.status)


async def _upload(front: Any) -> int:
    return 200 if await upload(front, png("red"), "a.png") else 0


async def _prompt(front: Any) -> int:
    return 200 if await post(front, graph()) else 0


async def _not_a_prompt(front: Any) -> int:
    async with front.post("/prompt", data=b"no JSON") as answer:
        return 200 if answer.status in (400, 500) else int(answer.status)


async def _posted(front: Any, path: str, body: Any) -> int:
    async with front.post(path, json=body) as answer:
        return int(answer.status)


async def _socket(front: Any) -> int:
    async with front.ws_connect("/ws") as ws:
        return 200 if (await ws.receive_json())["type"] == "status" else 0


REQUESTS: dict[str, Callable[[Any], Awaitable[int]]] = {
    **{
        path: lambda front, path=path: _get(front, path)
        for path in (
            *("/", "/system_stats", "/object_info", "/object_info/LoadImage", "/queue", "/prompt"),
            *("/history", "/history/nobody", "/settings", "/users", "/internal/files/input"),
            *("/view?filename=a.png&type=input", "/userdata?dir=workflows"),
        )
    },
    "upload": _upload,
    "prompt": _prompt,
    "no prompt": _not_a_prompt,
    "free": lambda front: _posted(front, "/free", {}),
    "delete": lambda front: _posted(front, "/queue", {"delete": ["nobody"]}),
    "clear": lambda front: _posted(front, "/queue", {"clear": True}),
    "history": lambda front: _posted(front, "/history", {"delete": ["nobody"]}),
    "interrupt": lambda front: _posted(front, "/interrupt", {}),
    "setting": lambda front: _posted(front, "/settings/a", 1),
    "socket": _socket,
}


@pytest.mark.long
@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("first_is_out", [False, True], ids=["dies just now", "is out already"])
async def test_every_route_finds_the_one_that_has_returned(
    proxy: Any,
    workers: Workers,
    name: str,
    first_is_out: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second was given up and is back; the first one dies: nobody is told 503.

    No check that began before it was back is under way, which the request would share.
    """
    monkeypatch.setattr("comfy_proxy.cluster.health_checker.DEMAND_INTERVAL_S", 60.0)
    await upload(proxy, png("blue"), "a.png")
    second = await given_up(proxy, workers[1])
    await comes_back(workers[1], second)
    if first_is_out:
        await given_up(proxy, workers[0])
    else:
        await workers[0].kill()
    assert not second.healthy
    assert await REQUESTS[name](proxy) in (200, 404 if "userdata" in name else 200)
    # What the first one can run is known; nobody need be asked while it is not given up.
    assert second.healthy or (name.startswith("/object_info") and not first_is_out)


async def test_a_result_of_an_owner_that_has_returned(proxy: Any, workers: Workers) -> None:
    """Its file is asked for at its own instance alone: that one is looked for, too."""
    second = await given_up(proxy, workers[1])
    (workers[1].folders.base / "output" / "x.png").write_bytes(png("green"))
    await comes_back(workers[1], second)
    async with proxy.get("/view?filename=x.png&subfolder=@2&type=output") as answer:
        assert (answer.status, await answer.read()) == (200, png("green"))
    assert second.healthy


async def test_who_waits_shares_one_check(
    proxy: Any, workers: Workers, dials: Counter[Instance]
) -> None:
    """However many requests find nobody, each dead instance is dialled once, and not again within
    the next second.
    """
    both = [await given_up(proxy, worker) for worker in workers]
    dials.clear()
    for _ in range(2):
        answers = await asyncio.gather(*(_get(proxy, "/queue") for _ in range(MANY)))
        assert answers == [503] * MANY
    assert dials == Counter(both)


async def test_an_open_page_does_not_dial_the_dead(
    proxy: Any, workers: Workers, dials: Counter[Instance]
) -> None:
    """The sockets of all clients wait for one check, which is made while any of them waits: those
    of their own, and the one for all."""
    second = await given_up(proxy, workers[1])
    sockets: list[str] = []
    second.observers.append(lambda attempt: sockets.append(attempt.kind))
    dials.clear()
    clients = [await proxy.ws_connect(f"/ws?clientId={number}") for number in range(MANY)]
    for number in range(MANY):
        await proxy.app[GATEWAY].clients.attend(f"{number}", [second])
    await until(lambda: dials[second] >= 2)
    assert "ws" not in sockets
    await workers[1].restart()
    await until(lambda: sockets.count("ws") > MANY)
    for client in clients:
        await client.close()


async def test_a_request_that_others_can_answer_does_not_wait_for_the_dead(
    proxy: Any, workers: Workers, dials: Counter[Instance]
) -> None:
    """A check is for who finds nobody."""
    second = await given_up(proxy, workers[1])
    dials.clear()
    for path in ("/queue", "/system_stats", "/object_info"):
        assert await _get(proxy, path) == 200
    assert dials[second] == 0


async def test_an_answer_of_one_that_was_given_up_has_it_checked(
    workers: Workers, start_proxy: Callable[..., Any]
) -> None:
    """A request that was under way when its circuit opened proves that it lives."""
    async with forwarding(workers[0].url) as (network,):
        proxy = await start_proxy(network.url, workers[1])
        (first, _) = proxy.app[CLUSTER].instances
        await until(lambda: first.check_ok and not proxy.app[CLUSTER].object_info._tasks)
        workers[0].faults.hang = ("/models",)
        asking = asyncio.create_task(_get(proxy, "/models"))
        await until(lambda: workers[0].faults._waiters)
        for _ in range(3):
            first.fault("slow")
        assert not first.healthy
        workers[0].faults.clear()
        assert await asking == 200
        await until(lambda: first.healthy)
