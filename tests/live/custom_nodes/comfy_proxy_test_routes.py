"""A custom node without nodes: HTTP routes and a WebSocket, as many extensions have them.

What they are for: `echo` tells what reached the server, `answer` answers whatever it is told to,
`large` gives and `sink` takes bytes without end, `socket` sends every frame back.
"""

import gzip
import hashlib
import json

from aiohttp import WSMsgType, web
from server import PromptServer

routes = PromptServer.instance.routes
CHUNK = bytes(range(256)) * 256


async def echo(request):
    """The request's target, headers (in order, spelt as they came) and body."""
    body = await request.read()
    seen = {
        "method": request.method,
        "target": request.raw_path,
        "headers": [
            [name.decode(), value.decode("latin-1")] for name, value in request.raw_headers
        ],
        "length": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    return web.Response(body=json.dumps(seen).encode(), content_type="application/json")


for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "PROPFIND"):
    routes.route(method, "/proxy-test/echo")(echo)


@routes.get("/proxy-test/answer")
async def answer(request):
    """`status`, `reason`, `header=Name:value` (several) and `body`, as the query has them."""
    query = request.rel_url.query
    response = web.Response(
        status=int(query.get("status", "200")),
        reason=query.get("reason"),
        body=query.get("body", "").encode(),
    )
    for line in query.getall("header", []):
        name, _, value = line.partition(":")
        response.headers.add(name, value)
    return response


@routes.get("/proxy-test/gzip")
async def compressed(request):
    """A body that is compressed whether or not the client wants it."""
    body = gzip.compress(CHUNK, mtime=0)
    return web.Response(body=body, headers={"Content-Encoding": "gzip"})


@routes.get("/proxy-test/large")
async def large(request):
    """So many bytes; in chunks without a length unless `length` is given."""
    query = request.rel_url.query
    left = int(query["bytes"])
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    if "length" in query:
        response.content_length = left
    await response.prepare(request)
    while left > 0:
        await response.write(CHUNK[:left])
        left -= len(CHUNK)
    return response


@routes.post("/proxy-test/sink")
async def sink(request):
    """How many bytes came, and their hash."""
    size, digest = 0, hashlib.sha256()
    async for chunk in request.content.iter_any():
        size += len(chunk)
        digest.update(chunk)
    return web.json_response({"bytes": size, "sha256": digest.hexdigest()})


@routes.get("/proxy-test/socket")
async def socket(request):
    """Every frame comes back; the text `close` ends it with code 4000 and a reason."""
    if "refuse" in request.rel_url.query:
        return web.Response(status=403, text="no socket for you")
    ws = web.WebSocketResponse(protocols=("first", "second"), max_msg_size=0)
    await ws.prepare(request)
    async for message in ws:
        if message.type is WSMsgType.BINARY:
            await ws.send_bytes(message.data)
        elif message.data == "close":
            await ws.close(code=4000, message=b"as you wish")
        elif message.type is WSMsgType.TEXT:
            await ws.send_str(message.data)
    return ws


NODE_CLASS_MAPPINGS = {}
