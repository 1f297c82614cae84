"""A page that is loaded again, or open twice, hears everything on its newest socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
from events_harness import checked, hears, listen, until

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


async def test_200_sockets_in_a_hurry_leave_nothing(
    workers: Any, start_proxy: Callable[..., Any]
) -> None:
    """Closed properly, cut off, given up in the handshake; own ids and shared ones: no record, no
    task and no socket at an instance stays.
    """
    front = await start_proxy(*workers)
    await hears(await listen(front, "first"), front, "first", 1)
    await checked(front)  # the socket that hears the load is there
    before = len(asyncio.all_tasks())
    sockets = [worker.open_sockets for worker in workers]

    async def visit(number: int) -> None:
        client_id = f"own {number}" if number % 4 else f"shared {number % 3}"
        connecting = asyncio.create_task(front.ws_connect("/ws", params={"clientId": client_id}))
        if number % 5 == 0:
            await asyncio.sleep(0)
            connecting.cancel()
            await asyncio.wait([connecting])
            return
        ws = await connecting
        if number % 2:
            await ws.close()
        else:
            ws._response.connection.transport.abort()

    for start in range(0, 200, 25):
        await asyncio.gather(*(visit(start + number) for number in range(25)))
    await until(lambda: len(sessions(front)) == 1)
    await until(lambda: [worker.open_sockets for worker in workers] == sockets)
    await until(lambda: len(asyncio.all_tasks()) <= before)


async def _answered(ws: aiohttp.ClientWebSocketResponse) -> bool:
    """A pong comes back and nothing else before it."""
    ws._autoping = False
    await ws.ping(b"there")
    message = await ws.receive(timeout=10)
    return message.type is aiohttp.WSMsgType.PONG
