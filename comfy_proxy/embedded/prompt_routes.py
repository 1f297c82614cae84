"""Routes about prompts: /prompt, /queue, /interrupt, /history, /free and /ws."""

import json
import time
from typing import Any

from aiohttp import web

from comfy_proxy.embedded.instance import INSTANCE, Instance
from comfy_proxy.embedded.nodes.node_class import Json
from comfy_proxy.embedded.prompt_ids import WRONG_ID, chosen_id
from comfy_proxy.embedded.prompt_queue import SENSITIVE_KEYS, QueueItem
from comfy_proxy.embedded.validation import NO_PROMPT, validate_prompt


async def get_prompt(request: web.Request) -> web.Response:
    return web.json_response(request.app[INSTANCE].queue_info())


async def post_prompt(request: web.Request) -> web.Response:
    """Validate and queue; 400 with `node_errors` for a graph that cannot run.

    A body that is not a JSON object ends as 500, as in the real server. An id that the client gives
    is taken even if it is in use: both prompts run (PROTOCOL.md trap 9). A worker of 2026 refuses
    one that is no UUID.
    """
    instance = request.app[INSTANCE]
    body: Json = await request.json()
    number = _number(instance, body)
    if "prompt" not in body:
        return web.json_response({"error": NO_PROMPT, "node_errors": {}}, status=400)
    prompt_id = chosen_id(instance, body)
    if prompt_id is None:
        return web.json_response({"error": WRONG_ID, "node_errors": {}}, status=400)
    graph = body["prompt"]
    targets = body.get("partial_execution_targets")
    verdict = validate_prompt(graph, instance.classes, instance.folders, targets)
    if verdict.error is not None:
        refusal = {"error": verdict.error, "node_errors": verdict.node_errors}
        return web.json_response(refusal, status=400)
    extra_data, sensitive = _extra_data(body)
    instance.journal.submitted.append(prompt_id)
    instance.queue.put(
        QueueItem(
            number=number,
            prompt_id=prompt_id,
            sequence=next(instance.sequence),
            graph=graph,
            extra_data=extra_data,
            outputs=verdict.outputs,
            sensitive=sensitive,
        )
    )
    accepted = {"prompt_id": prompt_id, "number": number, "node_errors": verdict.node_errors}
    return web.json_response(accepted)


def _number(instance: Instance, body: Json) -> float:
    """The order in the queue, the lowest first: the client's number as a float, else the next one,
    negative with `front`."""
    if "number" in body:
        return float(body["number"])
    number = instance.next_number
    instance.next_number += 1
    return -number if _given(body, "front") else number


def _given(body: Json, name: str) -> Any:
    """The value under a name, None if there is none; the real server takes a list as body too."""
    return body[name] if name in body else None  # noqa: SIM401 (a list has no `get`)


def _extra_data(body: Json) -> tuple[Json, Json]:
    """`extra_data` as `/queue` shows it, and the secrets that were taken out of it (trap 24)."""
    extra_data: Json = body.get("extra_data", {})
    if "client_id" in body:
        extra_data["client_id"] = body["client_id"]
    sensitive = {key: extra_data.pop(key) for key in SENSITIVE_KEYS if key in extra_data}
    extra_data["create_time"] = int(time.time() * 1000)
    return extra_data, sensitive


async def get_queue(request: web.Request) -> web.Response:
    return web.json_response(request.app[INSTANCE].queue.snapshot())


async def post_queue(request: web.Request) -> web.Response:
    """`{"clear": true}` and `{"delete": [ids]}`; only waiting prompts are removed."""
    queue = request.app[INSTANCE].queue
    body = await request.json()
    if _given(body, "clear"):
        queue.clear()
    if "delete" in body:
        for prompt_id in body["delete"]:
            queue.delete(prompt_id)
    return web.Response()


async def post_interrupt(request: web.Request) -> web.Response:
    """Interrupt the running prompt; with a `prompt_id` only if it has that id."""
    instance = request.app[INSTANCE]
    prompt_id = (await _json_or_nothing(request)).get("prompt_id")
    running_id = instance.queue.running_id()
    if running_id is not None and prompt_id in (None, "", running_id):
        instance.executor.interrupt()
    return web.Response()


async def _json_or_nothing(request: web.Request) -> Any:
    try:
        return await request.json()
    except json.JSONDecodeError:
        return {}


async def get_history(request: web.Request) -> web.Response:
    query = request.rel_url.query
    max_items = int(query["max_items"]) if "max_items" in query else None
    offset = int(query.get("offset", -1))
    history = request.app[INSTANCE].queue.history(max_items=max_items, offset=offset)
    return web.json_response(history)


async def get_history_of(request: web.Request) -> web.Response:
    queue = request.app[INSTANCE].queue
    return web.json_response(queue.history_of(request.match_info["prompt_id"]))


async def post_history(request: web.Request) -> web.Response:
    queue = request.app[INSTANCE].queue
    body = await request.json()
    if _given(body, "clear"):
        queue.clear_history()
    if "delete" in body:
        queue.delete_history(body["delete"])
    return web.Response()


async def post_free(request: web.Request) -> web.Response:
    """`unload_models` empties the simulated GPU; `free_memory` does so too, and the node cache.

    A running prompt keeps what it has until its end.
    """
    body = await request.json()
    instance = request.app[INSTANCE]
    if body.get("free_memory"):
        instance.executor.forget_results()
    if body.get("unload_models") or body.get("free_memory"):
        instance.executor.unload_models()
        instance.faults.oom_until_free = False
    return web.Response()


async def websocket(request: web.Request) -> web.StreamResponse:
    return await request.app[INSTANCE].sockets.handle(request)


ROUTES = (
    web.get("/ws", websocket),
    web.get("/prompt", get_prompt),
    web.post("/prompt", post_prompt),
    web.get("/queue", get_queue),
    web.post("/queue", post_queue),
    web.post("/interrupt", post_interrupt),
    web.get("/history", get_history),
    web.get("/history/{prompt_id}", get_history_of),
    web.post("/history", post_history),
    web.post("/free", post_free),
)
