"""Frames of custom nodes reach the client as they are, and replies reach the node that asked."""

from __future__ import annotations

from typing import Any

import pytest
from events_harness import ScriptedInstance, has_its_own, listen, until

from comfy_proxy.gateway.events.frame_reader import FrameReader
from comfy_proxy.gateway.events.frames import Custom, Pass, event_frame
from comfy_proxy.keys import GATEWAY

Instances = list[tuple[str, ScriptedInstance]]


@pytest.mark.parametrize(
    "kind",
    ["status", "progress", "progress_state", "progress_text", "execution_cached", "logs",
     "assets.seed.started", "notification", "executing", "executed", "execution_success"],
)  # fmt: skip
def test_comfyuis_own_frames_ask_nobody(kind: str) -> None:
    seen = FrameReader(lambda output: output).text(event_frame(kind, {"node": "7"}))
    assert not isinstance(seen, Custom)


def test_a_frame_of_another_kind_is_a_custom_nodes() -> None:
    text = event_frame("choose-picture", {"node": "7"})
    seen = FrameReader(lambda output: output).text(text)
    assert seen == Custom(kind="choose-picture", data={"node": "7"}, frame=Pass(data=text))


async def test_the_node_that_asked_gets_the_reply(front: Any, instances: Instances) -> None:
    """Through the socket on which it asked; the client gets the frame as it came."""
    _, (_, two) = instances
    async with await front.ws_connect("/ws", params={"clientId": "me"}) as ws:
        await has_its_own(front, "me")
        wire = await two.wire()
        await wire.say("choose-picture", id="picture-17")
        while (message := await ws.receive_json())["type"] != "choose-picture":
            pass
        assert message["data"] == {"id": "picture-17"}
    gateway = front.app[GATEWAY]
    assert gateway.askers.fitting(frozenset({"picture-17"}), None) == [gateway.cluster.instances[1]]


async def test_a_client_is_known_by_address_and_user_agent_if_there_is_one(front: Any) -> None:
    """Two that say the same of themselves are not told apart."""
    gateway = front.app[GATEWAY]

    class Likeness:
        """What only_like says while a request of that User-Agent is answered."""

        def __init__(self) -> None:
            self.said: list[str | None] = []

        async def of(self, agent: str) -> str | None:
            original = gateway.custom.answer

            async def answer(request: Any, match: Any) -> Any:
                self.said.append(gateway.clients.only_like(request))
                return await original(request, match)

            gateway.custom.answer = answer
            try:
                async with front.get("/pack/x", headers={"User-Agent": agent}):
                    pass
            finally:
                gateway.custom.answer = original
            return self.said[-1]

    likeness = Likeness()
    first = await listen(front, "me", headers={"User-Agent": "A"})
    assert await likeness.of("A") == "me"
    assert await likeness.of("B") is None
    second = await listen(front, "you", headers={"User-Agent": "A"})
    assert await likeness.of("A") is None
    await second.ws.close()
    await until(lambda: len(gateway.events) == 1)
    assert await likeness.of("A") == "me"
    await first.ws.close()
