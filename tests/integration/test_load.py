"""What other clients put on an instance counts as its load."""

from __future__ import annotations

import uuid
from typing import Any

from comfy_proxy.embedded.worker import EmbeddedWorker
from comfy_proxy.keys import CLUSTER

Pair = tuple[EmbeddedWorker, EmbeddedWorker]


def timed(seconds: float) -> dict[str, Any]:
    graph = {
        "1": {"class_type": "EmptyImage",
              "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
        "2": {"class_type": "TimedPass",
              "inputs": {"image": ["1", 0], "seconds": seconds, "salt": 1}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }  # fmt: skip
    return {"prompt": graph, "prompt_id": str(uuid.uuid4())}


async def test_a_forwarded_prompt_counts_until_it_has_ended(
    workers: Pair, start_proxy: Any
) -> None:
    """A prompt that a client posts through us is load of its instance, and none after its end."""
    proxy = await start_proxy(*workers)
    first, second = proxy.app[CLUSTER].instances
    body = timed(0.3)
    async with proxy.post("/prompt", json=body) as response:
        assert response.status == 200
    assert first.load == 1
    assert proxy.app[CLUSTER].load_balancer.get_available_instance() is second
    async with proxy.ws_connect("/ws") as socket:
        while (await socket.receive_json())["data"].get("status") != {
            "exec_info": {"queue_remaining": 0}
        }:
            pass
    pool = proxy.app[CLUSTER].connections.pool(first)
    assert pool.state.open == 1
    while first.load:
        await first_status(proxy)


async def first_status(proxy: Any) -> None:
    """A round trip through the proxy: what the instance sent before has been read by then."""
    async with proxy.get("/prompt") as response:
        assert response.status == 200


async def test_wrong_methods_of_our_own_job_routes_are_ours(
    workers: Pair, start_proxy: Any
) -> None:
    """A method that a route of ours lacks is our 405; what ComfyUI has below /api/jobs passes."""
    proxy = await start_proxy(*workers)
    async with proxy.post(f"/api/jobs/{uuid.uuid4()}/status") as response:
        assert response.status == 405
        assert response.headers["Allow"] == "GET, HEAD"
    async with proxy.put(f"/api/jobs/{uuid.uuid4()}") as response:
        assert "request_id" not in await response.text()  # the instance's own answer
