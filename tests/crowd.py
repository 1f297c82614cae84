"""Clients who all save under the same name at the same time, over two instances at one address.

Each uploads a picture of its own under the name that all of them use, and looks at results under
the names in ``executed`` and in ``/history``. What it gets must be its own: the colour, and the
graph that ``SaveImage`` writes into the file.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import chain

import aiohttp
from crowd_client import Client, Http, Json, png

Start = Callable[[], Awaitable[Http]]
CLIENTS = 40
PROMPTS = 5


@asynccontextmanager
async def connected(clients: Sequence[Client], http: Http | None = None) -> AsyncIterator[None]:
    """The sockets of all of them are open inside the block; at another proxy if one is given."""
    async with AsyncExitStack() as stack:
        entered = (stack.enter_async_context(client.connected(http)) for client in clients)
        await asyncio.gather(*entered)
        yield


@asynccontextmanager
async def crowd(http: Http, count: int = CLIENTS) -> AsyncIterator[list[Client]]:
    """Clients with open sockets who have uploaded their pictures, all at once."""
    clients = [Client(http, number) for number in range(count)]
    async with connected(clients):
        await asyncio.gather(*(client.upload() for client in clients))
        yield clients


async def five_prompts(client: Client) -> None:
    """Three blindly, then two that start from one of their results; all results are looked at.

    It is one of the first instance if there is one, so that the other one needs it as well.
    """
    blind = [client.submit_upload(), client.submit_colour(1), client.submit_colour(2)]
    ids = await asyncio.gather(*blind)
    await asyncio.gather(*(client.over(prompt_id) for prompt_id in ids))
    source = min(ids, key=lambda prompt_id: client.executed(prompt_id)["subfolder"])
    again = [
        client.submit_result(source, client.executed(source)),
        client.submit_result(source, await client.recorded(source)),
    ]
    for prompt_id in await asyncio.gather(*again):
        await client.over(prompt_id)
    for prompt_id in client.graphs:
        told = client.executed(prompt_id)
        recorded = await client.recorded(prompt_id)
        assert told == recorded, (told, recorded)
        await client.check_bytes(prompt_id, told)


async def check_crowd(clients: Sequence[Client], urls: Sequence[str]) -> None:
    """Nothing was mixed up: events, uploads, names; each prompt ran at one instance, both did.

    Uploads and earlier results were taken as inputs at both of them.
    """
    for client in clients:
        client.check_events()
    assert len({client.upload_name for client in clients}) == len(clients)
    ids = [prompt_id for client in clients for prompt_id in client.graphs]
    assert len(set(ids)) == PROMPTS * len(clients)
    told = [tuple(client.executed(i).items()) for client in clients for i in client.graphs]
    assert len(set(told)) == len(ids)
    async with aiohttp.ClientSession() as session:
        for url in urls:
            await asyncio.gather(*(_has_upload(session, url, client) for client in clients))
        places = [await _entries(session, url, ids) for url in urls]
    assert Counter(chain(*places)) == Counter(ids)
    assert min(len(place) for place in places) >= len(ids) // 5
    ways = Counter(chain(*map(_ways, clients)))
    for way in (("", "@1"), ("", "@2"), ("@1", "@2")):
        assert ways[way] >= len(clients) // 8, ways


async def over_a_restart(first: Http, start: Start, count: int = 10) -> list[Client]:
    """The proxy is restarted while prompts wait and run; what was told before it still holds.

    Results are looked at and taken as inputs under the names from before and from after it, and
    uploads under theirs. ``start`` makes the second proxy.
    """
    clients = [Client(first, number) for number in range(count)]
    async with connected(clients):
        await asyncio.gather(*(client.upload() for client in clients))
        early = await asyncio.gather(*(client.submit_upload() for client in clients))
        await asyncio.gather(
            *(c.over(prompt_id) for c, prompt_id in zip(clients, early, strict=True))
        )
        late = (client.submit_colour(shade, 0.05) for shade in (1, 2) for client in clients)
        await asyncio.gather(*late)
        await first.server.close()
    second = await start()
    told = [client.executed(prompt_id) for client, prompt_id in zip(clients, early, strict=True)]
    async with connected(clients, second):
        await asyncio.gather(*map(_after_the_restart, clients, early, told))
    return clients


async def _after_the_restart(client: Client, early: str, told: Json) -> None:
    _, second, third = client.graphs
    await client.check_bytes(early, told)
    new = [await client.submit_result(early, told), await client.submit_upload()]
    for prompt_id in (second, third):
        await client.check_bytes(prompt_id, await client.recorded(prompt_id))
    new.append(await client.submit_result(third, await client.recorded(third)))
    for prompt_id in new:
        await client.over(prompt_id)
        client.check_events_of(prompt_id)
        assert client.executed(prompt_id) == await client.recorded(prompt_id)
        await client.check_bytes(prompt_id, client.executed(prompt_id))


def _ways(client: Client) -> Iterator[tuple[str, str]]:
    """From where to where each input went: ``""`` for uploads, else the mark of the instance."""
    for prompt_id, graph in client.graphs.items():
        if "image" in graph["1"]["inputs"]:
            *mark, _ = graph["1"]["inputs"]["image"].split("/")
            yield "".join(mark), client.executed(prompt_id)["subfolder"]


async def _has_upload(session: aiohttp.ClientSession, url: str, client: Client) -> None:
    params = {"filename": client.upload_name, "type": "input"}
    async with session.get(f"{url}/view", params=params) as answer:
        assert answer.status == 200
        assert await answer.read() == png(client.colour(0))


async def _entries(session: aiohttp.ClientSession, url: str, ids: Sequence[str]) -> set[str]:
    """Which of these prompts one instance has run, by its own word."""
    async with session.get(f"{url}/history") as answer:
        return set(await answer.json()) & set(ids)
