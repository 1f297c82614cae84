"""A page that is loaded again, or open twice, hears everything on its newest socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
from events_harness import hears, listen, until

from comfy_proxy.keys import GATEWAY


def sessions(front: Any) -> Any:
    return front.app[GATEWAY].events


async def test_reloads_never_make_the_page_deaf(
    workers: Any, start_proxy: Callable[..., Any]
) -> None:
    """A new socket directly after, or before, the end of the old one hears everything."""
    front = await start_proxy(*workers)
    client = await listen(front, "me")
    for number in range(12):
        if number % 2:
            closing = asyncio.create_task(client.ws.close())
            client = await listen(front, "me")
            await closing
        else:
            await client.ws.close()
            client = await listen(front, "me")
        await hears(client, front, "me", number)


async def test_the_newest_socket_hears_and_the_old_one_stays_open(
    workers: Any, start_proxy: Callable[..., Any]
) -> None:
    """Two tabs do not fight; closing the old one takes nothing from the new one."""
    front = await start_proxy(*workers)
    old = await listen(front, "me")
    new = await listen(front, "me")
    await hears(new, front, "me", 1)
    pong = await _answered(old.ws)
    assert pong
    await old.ws.close()
    for number in (2, 3):
        await hears(new, front, "me", number)
    await new.ws.close()
    await until(lambda: len(sessions(front)) == 0)
    newest = await listen(front, "me")
    await hears(newest, front, "me", 4)


async def _answered(ws: aiohttp.ClientWebSocketResponse) -> bool:
    """A pong comes back and nothing else before it."""
    ws._autoping = False
    await ws.ping(b"there")
    message = await ws.receive(timeout=10)
    return message.type is aiohttp.WSMsgType.PONG
