"""Bursts of frames through the proxy: each client gets its own, all of it, in order."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

from events_harness import ScriptedInstance, listen, listen_itself

SIZES = (1, 125, 126, 127, 8_000, 8_191, 8_192, 8_193, 65_535, 65_536, 70_000)


def frames_of(name: str) -> list[str | bytes]:
    """Many frames of one client, text and pictures of all sizes in no certain order."""
    some = random.Random(name)
    frames: list[str | bytes] = []
    for number in range(300):
        size = some.choice(SIZES) if number % 10 == 0 else some.randrange(300)
        if some.random() < 0.3:
            frames.append(b"\0\0\0\1\0\0\0\2" + name.encode() + b"%d " % number + bytes(size))
        else:
            data = {"of": name, "number": number, "text": some.choice("aé€𝄞") * size}
            frames.append(json.dumps({"type": "mine", "data": data}, ensure_ascii=number % 2 == 0))
    return frames


async def test_a_burst_reaches_each_client_as_it_was_sent(
    front: Any, one: ScriptedInstance, two: ScriptedInstance
) -> None:
    """Two clients with sockets of their own are sent 300 frames each in one go, and broadcasts in
    between; one only looks. Each gets its own, all of it, byte for byte and in order."""
    looker = await listen(front, "looker")
    shared = await one.shared_wire()
    clients, wires = {}, {}
    for name in ("anna", "bert"):
        clients[name] = await listen_itself(front, name)
        wires[name] = await one.wire()
        await wires[name].say("execution_start", prompt_id=name)
        await clients[name].until_type("execution_start")
    sent = {name: frames_of(name) for name in clients}

    async def send(name: str) -> None:
        for frame in sent[name]:
            write: Callable[..., Any] = wires[name].ws.send_str
            await (write if isinstance(frame, str) else wires[name].ws.send_bytes)(frame)

    async def got(name: str) -> list[str | bytes]:
        return [(await clients[name].ws.receive()).data for _ in sent[name]]

    sending = [asyncio.create_task(send(name)) for name in clients]
    for number in range(100):
        await shared.say("custom", number=number)
    received = await asyncio.gather(*map(got, clients))
    await asyncio.gather(*sending)
    for name, frames in zip(clients, received, strict=True):
        # In the second after its socket is there a client is told what either socket tells.
        own = [one for one in frames if isinstance(one, bytes) or '"custom"' not in one]
        assert own == sent[name][: len(own)]
        assert len(own) >= len(frames) - 100
    for number in range(100):
        frame = await looker.until_type("custom")
        assert frame["data"]["number"] == number
    assert looker.binaries == []
    assert all(frame["type"] != "mine" for frame in looker.texts)


async def test_the_last_words_of_a_socket_are_told_at_its_end(
    front: Any, one: ScriptedInstance
) -> None:
    """Its close frame comes together with them, and nothing is waited for in between."""
    client = await listen_itself(front, "me")
    wire = await one.wire()
    one.gate.clear()
    for number in range(3):
        await wire.say("mine", number=number)
    closing = asyncio.create_task(wire.ws.close())
    for number in range(3):
        assert (await client.until_type("mine"))["data"] == {"number": number}
    await closing
