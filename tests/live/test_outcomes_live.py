"""How prompts of ComfyUI's own clients end at two real servers: counted to the one, with reason."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from served_proxy import served

Json = dict[str, Any]
PATIENCE_S = 60.0
_salts = itertools.count(1)


def graph(node: str, **inputs: object) -> Json:
    """A picture through one test node; never cached."""
    salt = next(_salts)
    picture = {"width": 8, "height": 8, "batch_size": 1, "color": salt}
    return {
        "1": {"class_type": "EmptyImage", "inputs": picture},
        "2": {"class_type": node, "inputs": {"image": ["1", 0], "salt": salt, **inputs}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }


async def run(http: aiohttp.ClientSession, prompt_ids: list[str]) -> None:
    """Return when they run, and nothing else."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with http.get("/queue") as answer:
                entries = (await answer.json())["queue_running"]
            if {entry[1] for entry in entries} == {*prompt_ids}:
                return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("heard", [True, False], ids=["listening", "only asking"])
async def test_ends_at_real_servers(
    live_urls: tuple[str, str], live_test_nodes: None, heard: bool
) -> None:
    """Completed, failed, interrupted and deleted, of clients that listen and of those that do not;
    times are those of the execution, and the reason of a failure is the node's."""
    async with served(*live_urls) as proxy, aiohttp.ClientSession(proxy.url) as http:
        client_id = uuid.uuid4().hex
        listener = await http.ws_connect(f"/ws?clientId={client_id}") if heard else None

        async def post(prompt: Json, **more: object) -> str:
            owner = {"client_id": client_id} if heard else {}
            async with http.post("/prompt", json={"prompt": prompt, **owner, **more}) as answer:
                assert answer.status == 200, await answer.text()
                return str((await answer.json())["prompt_id"])

        async def figures() -> Json:
            async with http.get("/metrics") as answer:
                return dict((await answer.json())["prompts"])

        async def until(holds: Callable[[Json], object]) -> Json:
            async with asyncio.timeout(PATIENCE_S):
                while not holds(told := await figures()):
                    if listener is not None:
                        await listener.receive()  # something has happened
                    else:
                        await asyncio.sleep(0.05)
            return told

        for _ in range(4):
            await post(graph("TimedPass", seconds=0.3))
        for _ in range(2):
            await post(graph("FailNode"))
        told = await until(lambda told: told["completed"] + told["failed"] == 6)
        assert (told["completed"], told["failed"], told["cancelled"]) == (4, 2, 0)
        assert 0.3 <= told["processing_time"]["p50_seconds"] < 5
        assert told["waiting_time"]["count"] == 6

        running = [await post(graph("TimedPass", seconds=60)) for _ in range(2)]
        await run(
            http, running
        )  # both: else one of those that follow may run, which no deletion ends
        waiting = [await post(graph("TimedPass", seconds=60)) for _ in range(2)]
        async with http.post("/queue", json={"delete": waiting}) as answer:
            assert answer.status == 200
        await until(lambda told: told["cancelled"] == 2)
        for prompt_id in running:
            async with http.post("/interrupt", json={"prompt_id": prompt_id}) as answer:
                assert answer.status == 200
        told = await until(lambda told: told["cancelled"] == 4)
        assert (told["forwarded"], told["completed"], told["failed"]) == (10, 4, 2)
        if listener is not None:
            await listener.close()
