"""A hundred simulated ComfyUI instances in one process, for bench-scale: one to a port.

Each has a queue, a history and sockets of its own, and runs one prompt after the other for the
seconds that its graph names. It makes no pictures. usage: bench_scale_instances.py PORT...
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections import deque
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

Json = dict[str, Any]
STATS = {"system": {"os": "posix", "comfyui_version": "0.3.75", "argv": []}, "devices": []}
OBJECT_INFO = {
    "TimedPass": {
        "input": {"required": {"seconds": ["FLOAT", {}]}},
        "input_order": {"required": ["seconds"]},
        "output": ["IMAGE"],
        "name": "TimedPass",
        "output_node": True,
    }
}


class Instance:
    """What one of them has; ``prompts`` are those that wait."""

    def __init__(self) -> None:
        self.number = 0
        self.prompts: deque[list[Any]] = deque()
        self.running: list[Any] | None = None
        self.history: dict[str, Json] = {}
        self.sockets: dict[str, web.WebSocketResponse] = {}

    def queue(self) -> Json:
        running = [] if self.running is None else [self.running]
        return {"queue_running": running, "queue_pending": list(self.prompts)}

    def status(self) -> Json:
        remaining = len(self.prompts) + (self.running is not None)
        return {"status": {"exec_info": {"queue_remaining": remaining}}}

    def tell(self, kind: str, data: Json, client_id: str | None = None) -> None:
        """Everybody, or one client."""
        text = json.dumps({"type": kind, "data": data})
        sockets = self.sockets.values() if client_id is None else [self.sockets.get(client_id)]
        for socket in sockets:
            if socket is not None and not socket.closed:
                # The writer's own buffer takes it; nobody here reads slowly.
                asyncio.ensure_future(socket.send_str(text))  # noqa: RUF006

    def put(self, body: Json) -> Json:
        prompt_id = str(body.get("prompt_id") or uuid.uuid4())
        number, self.number = self.number, self.number + 1
        extra = {"client_id": body.get("client_id")}
        self.prompts.append([number, prompt_id, body["prompt"], extra, ["1"]])
        self.tell("status", self.status())
        self.look()
        return {"prompt_id": prompt_id, "number": number, "node_errors": {}}

    def look(self) -> None:
        """Begin with the next one if nothing runs."""
        if self.running is not None or not self.prompts:
            return
        self.running = self.prompts.popleft()
        _, prompt_id, graph, extra, _ = self.running
        client_id = extra["client_id"]
        self.tell("execution_start", {"prompt_id": prompt_id}, client_id or "")
        self.tell("executing", {"node": "1", "prompt_id": prompt_id}, client_id or "")
        seconds = float(graph["1"]["inputs"]["seconds"])
        asyncio.get_running_loop().call_later(seconds, self.end, prompt_id, client_id or "")

    def end(self, prompt_id: str, client_id: str) -> None:
        assert self.running is not None
        status = {"status_str": "success", "completed": True, "messages": []}
        self.history[prompt_id] = {"prompt": self.running, "outputs": {}, "status": status}
        self.running = None
        self.tell("execution_success", {"prompt_id": prompt_id}, client_id)
        self.tell("executing", {"node": None, "prompt_id": prompt_id}, client_id)
        self.tell("status", self.status())
        self.look()


INSTANCES: web.AppKey[dict[int, Instance]] = web.AppKey("instances")


def asked(request: web.Request) -> Instance:
    assert request.transport is not None
    return request.app[INSTANCES][request.transport.get_extra_info("sockname")[1]]


async def answer(request: web.Request) -> web.StreamResponse:
    one, path = asked(request), request.path.removeprefix("/api")
    if request.method == "POST" and path == "/prompt":
        return web.json_response(one.put(await request.json()))
    if path.startswith("/history/"):
        prompt_id = path.rpartition("/")[2]
        known = one.history.get(prompt_id)
        return web.json_response({} if known is None else {prompt_id: known})
    if path == "/object_info/TimedPass":
        return web.json_response(OBJECT_INFO)
    known_paths = {
        "/system_stats": STATS,
        "/queue": one.queue(),
        "/prompt": {"exec_info": one.status()["status"]["exec_info"]},
        "/history": one.history,
        "/object_info": OBJECT_INFO,
        "/features": {},
    }
    if path not in known_paths:
        return web.Response(status=404)
    return web.json_response(known_paths[path])


async def listen(request: web.Request) -> web.StreamResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    one = asked(request)
    client_id = request.query.get("clientId") or uuid.uuid4().hex
    one.sockets[client_id] = socket
    await socket.send_json({"type": "status", "data": {**one.status(), "sid": client_id}})
    async for _ in socket:
        pass
    one.sockets.pop(client_id, None)
    return socket


async def serve(ports: list[int], answers: Handler = answer) -> None:
    """An instance at each of ``ports``, until cancelled; ``answers`` has all but the sockets."""
    app = web.Application(client_max_size=2**30)
    app[INSTANCES] = {port: Instance() for port in ports}
    app.router.add_get("/ws", listen)
    app.router.add_route("*", "/{path:.*}", answers)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    for port in ports:
        await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(list(map(int, sys.argv[1:]))))
