"""The plain aiohttp proxy of the benchmarks: what aiohttp costs where nothing is decided at all.

Each request goes to one upstream by one pooled session, each answer and each WebSocket frame back
as it comes: no check, no id, no log line, no retry. A WebSocket at /bare has no upstream at all: it
is greeted, and what it says is read. usage: bench_plain_proxy.py PORT UPSTREAM_URL
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping

import aiohttp
from aiohttp import WSMsgType, hdrs, web
from multidict import CIMultiDict

try:
    from uvloop import run
except ModuleNotFoundError:
    from asyncio import run

UPSTREAM = web.AppKey("upstream", str)
SESSION = web.AppKey("session", aiohttp.ClientSession)
_OF_ONE_CONNECTION = (hdrs.CONNECTION, hdrs.KEEP_ALIVE, hdrs.TRANSFER_ENCODING, hdrs.UPGRADE)
_AUTO = (hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE, hdrs.USER_AGENT)


async def pass_on(request: web.Request) -> web.StreamResponse:
    url = request.app[UPSTREAM] + request.raw_path
    if request.headers.get(hdrs.UPGRADE, "").lower() == "websocket":
        return await _pass_frames(request, url)
    headers = _without(request.headers, *_OF_ONE_CONNECTION)
    upstream = await request.app[SESSION].request(
        request.method,
        url,
        headers=headers,
        data=request.content if request.body_exists else None,
        skip_auto_headers=_AUTO,
        allow_redirects=False,
    )
    async with upstream:
        answer = web.StreamResponse(
            status=upstream.status, headers=_without(upstream.headers, *_OF_ONE_CONNECTION)
        )
        await answer.prepare(request)
        async for piece in upstream.content.iter_any():
            await answer.write(piece)
        await answer.write_eof()
    return answer


async def _pass_frames(request: web.Request, url: str) -> web.WebSocketResponse[bool]:
    client = web.WebSocketResponse(compress=False, max_msg_size=0)
    await client.prepare(request)
    async with request.app[SESSION].ws_connect(url, max_msg_size=0) as upstream:
        down = asyncio.create_task(_frames(upstream, client))
        await _frames(client, upstream)
        await upstream.close()
        await down
    return client


async def bare(request: web.Request) -> web.WebSocketResponse[bool]:
    client = web.WebSocketResponse(compress=False)
    await client.prepare(request)
    await client.send_str("{}")
    async for _ in client:
        pass
    return client


Socket = web.WebSocketResponse[bool] | aiohttp.ClientWebSocketResponse[bool]


async def _frames(source: Socket, sink: Socket) -> None:
    async for message in source:
        if message.type is WSMsgType.TEXT:
            await sink.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await sink.send_bytes(message.data)


def _without(headers: Mapping[str, str], *names: str) -> CIMultiDict[str]:
    left = CIMultiDict(headers)
    for name in names:
        left.popall(name, None)
    return left


async def session(app: web.Application) -> AsyncIterator[None]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as made:
        app[SESSION] = made
        yield


async def main(port: int, upstream: str) -> None:
    app = web.Application(client_max_size=0)
    app[UPSTREAM] = upstream
    app.router.add_get("/bare", bare)
    app.router.add_route("*", "/{path:.*}", pass_on)
    app.cleanup_ctx.append(session)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    run(main(int(sys.argv[1]), sys.argv[2]))
