"""What a ComfyUI of 2026 adds and its frontend and our jobs use: job views, ids, assets.

Recorded from a 0.33.0 whose assets were switched on. An asset is an entry of its database of files.
`COMFY_2026=http://… pytest tests/protocol/test_recordings_2026.py` asks a server again; it must
have the test nodes of `tests/live/custom_nodes`. With `COMFY_LIVE_RECORD=1` its answers are kept.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from conversation import Conversation
from graphs import Json, colour, failing, node, noise, png, preview, timed
from normalise import Normaliser

Play = Callable[[Conversation], Awaitable[None]]

JOBS = "/api/jobs"
UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"
TICK_S = 0.002
"""Seconds between two jobs whose order is looked at: they are listed by the millisecond in which
they came, the last one first, but those of one millisecond as they came."""


async def _fresh(conversation: Conversation) -> None:
    """No history, and a picture for LoadImage."""
    await conversation.upload(png(), "in.png", subfolder="rec", overwrite="true")
    conversation.http.clear()
    await conversation.quietly("POST", "/history", json={"clear": True})


async def flags(conversation: Conversation) -> None:
    """The feature flags, asked for and told to a socket that tells its own."""
    await conversation.ask("GET", "/features")
    await conversation.connect()


async def ended_jobs(conversation: Conversation) -> None:
    """Jobs that succeeded, failed and were interrupted: one by one, listed, and paged."""
    ask = conversation.ask
    await _fresh(conversation)
    client = await conversation.connect()
    extra = {"extra_pnginfo": {"workflow": {"id": "flow"}}}
    saved = colour(conversation.salt % 0xFFFFFF, output="SaveImage")
    done = await conversation.run(saved, client, extra_data=extra)
    failed = await conversation.run(failing(conversation.salt), client)
    stopped = await conversation.submit(timed(5, conversation.salt), client)
    await client.until_event("progress", value=1)
    await ask("POST", f"{JOBS}/{stopped}/cancel")
    await client.until_end_of(stopped)
    conversation.sockets.clear()
    for prompt_id in (done, failed, stopped):
        await ask("GET", f"{JOBS}/{prompt_id}")
    for query in (
        "?status=completed,failed,cancelled&limit=200&offset=0",
        "?status=cancelled",
        "?status=in_progress,pending",
        "?workflow_id=flow",
        "?limit=1&offset=1&sort_order=asc",
        "?offset=5",
        "?offset=-1&limit=1",
    ):
        await ask("GET", JOBS + query)
    await ask("POST", f"{JOBS}/{done}/cancel")


async def waiting_jobs(conversation: Conversation) -> None:
    """One runs and two wait; the waiting ones are cancelled, one by its id, one in a list."""
    ask = conversation.ask
    await _fresh(conversation)
    client = await conversation.connect()
    first = await conversation.submit(timed(5, conversation.salt), client)
    await client.until_event("progress", value=1)
    second = await conversation.submit(timed(5, conversation.salt + 1), client)
    await asyncio.sleep(TICK_S)
    third = await conversation.submit(timed(5, conversation.salt + 2), client)
    conversation.http.clear()
    for prompt_id in (first, second, third):
        await ask("GET", f"{JOBS}/{prompt_id}")
    await ask("GET", f"{JOBS}?status=in_progress,pending&limit=200&offset=0")
    await ask("POST", f"{JOBS}/{second}/cancel")
    await ask("GET", f"{JOBS}/{second}")
    await ask("POST", f"{JOBS}/cancel", body={"job_ids": [first, third, UNKNOWN_ID]})
    await conversation.idle()
    conversation.sockets.clear()
    await ask("GET", f"{JOBS}/{third}")
    await ask("GET", JOBS)


async def refused_jobs(conversation: Conversation) -> None:
    """What the job views do not understand, and jobs that nobody knows."""
    ask = conversation.ask
    for query in ("limit=0", "limit=x", "offset=x", "status=done", "sort_by=x", "sort_order=x"):
        await ask("GET", f"{JOBS}?{query}")
    await ask("GET", f"{JOBS}/{UNKNOWN_ID}")
    await ask("GET", f"{JOBS}/unknown")
    await ask("POST", f"{JOBS}/unknown/cancel")
    for body in ({"job_ids": ["unknown"]}, {"job_ids": UNKNOWN_ID}, [], {"job_ids": []}):
        await ask("POST", f"{JOBS}/cancel", body=body)
    await ask("POST", f"{JOBS}/cancel", data=b"no JSON")


async def prompt_ids(conversation: Conversation) -> None:
    """Only a UUID in small letters is taken as the id of a prompt; null gets one made."""
    graph = colour(conversation.salt % 0xFFFFFF)
    for odd in ("abc", UNKNOWN_ID.upper().replace("0", "A"), 5, ""):
        await conversation.ask("POST", "/prompt", body={"prompt": graph, "prompt_id": odd})
    answer = await conversation.ask("POST", "/prompt", body={"prompt": graph, "prompt_id": None})
    assert isinstance(answer["prompt_id"], str)
    await conversation.idle()


async def assets_of_uploads(conversation: Conversation) -> None:
    """An upload is an asset at once: found by name, tag and hash, read, and deleted."""
    ask = conversation.ask
    name = f"up{conversation.salt}.png"
    answer = await conversation.upload(png(noise(seed=1)), name)
    await conversation.upload(png(noise(seed=2)), name, subfolder="some/where")
    asset = answer["asset"]["id"]
    await ask("GET", f"/api/assets/{asset}")
    await ask("GET", f"/api/assets/{asset}/content", headers=True)
    await ask("GET", f"/api/assets?name_contains={name}&sort=created_at&order=asc")
    page = f"/api/assets?name_contains={name}&limit=1&sort=created_at"
    cursor = (await ask("GET", page))["next_cursor"]
    response = await conversation.quietly("GET", f"{page}&after={cursor}")
    conversation.http.append(
        {
            "request": "GET the next page",
            "json": None,
            "status": response.status,
            "body": await response.json(),
        }
    )
    await ask("GET", f"/api/assets?name_contains={name}&include_tags=input,where")
    await ask("GET", f"/api/assets?name_contains={name}&exclude_tags=where")
    await ask("DELETE", f"/api/assets/{asset}")
    await ask("DELETE", f"/api/assets/{asset}")
    await ask("GET", f"/api/assets/{asset}")
    await ask("GET", f"/api/assets?name_contains={name}")
    await ask("GET", f"/view?type=input&filename={name}")


async def assets_of_results(conversation: Conversation) -> None:
    """A saved picture and a preview have ids in `executed`, in the history and in job views."""
    ask = conversation.ask
    await _fresh(conversation)
    client = await conversation.connect()
    name = f"in{conversation.salt}.png"
    await conversation.upload(png(), name)
    conversation.http.clear()
    graph = preview(name)
    graph["3"] = node("SaveImage", images=["1", 0], filename_prefix=f"some/{conversation.salt}of")
    ran = await conversation.run(graph, client)
    ids = await _ids_of_results(conversation, ran)
    await ask("GET", f"/history/{ran}")
    await ask("GET", f"{JOBS}?limit=1")
    for asset in ids:
        await ask("GET", f"/api/assets/{asset}")
        await ask("GET", f"/api/assets/{asset}/content")
    again = await conversation.run(graph, client)
    _only_executed(conversation.sockets["A"])
    await ask("GET", f"/history/{again}")
    await ask("GET", f"/api/assets?name_contains={conversation.salt}of")


async def refused_assets(conversation: Conversation) -> None:
    """Assets that nobody knows."""
    for path in ("", "/content"):
        await conversation.ask("GET", f"/api/assets/{UNKNOWN_ID}{path}")
    await conversation.ask("DELETE", f"/api/assets/{UNKNOWN_ID}")
    await conversation.ask("GET", "/api/assets/unknown")


async def _ids_of_results(conversation: Conversation, prompt_id: str) -> list[str]:
    """Of the nodes 2 and 3. Noted first: that gives all their names, whichever node ran first."""
    response = await conversation.quietly("GET", f"/history/{prompt_id}")
    outputs = (await response.json())[prompt_id]["outputs"]
    results = [outputs[one]["images"][0] for one in ("2", "3")]
    conversation.http.append({"request": "results of 2 and 3", "body": results})
    return [result["id"] for result in results]


def _only_executed(frames: list[Json]) -> None:
    """Which of two nodes runs first is chance; their `executed` frames, by prompt and by node."""
    prompts = [frame["data"]["prompt_id"] for frame in frames if frame["type"] == "execution_start"]
    executed = [frame for frame in frames if frame["type"] == "executed"]

    def place(frame: Json) -> tuple[int, str]:
        return prompts.index(frame["data"]["prompt_id"]), frame["data"]["node"]

    frames[:] = sorted(executed, key=place)


PLAYED_2026: dict[str, Play] = {
    "2026-flags": flags,
    "2026-ended-jobs": ended_jobs,
    "2026-waiting-jobs": waiting_jobs,
    "2026-refused-jobs": refused_jobs,
    "2026-prompt-ids": prompt_ids,
    "2026-assets-of-uploads": assets_of_uploads,
    "2026-assets-of-results": assets_of_results,
    "2026-refused-assets": refused_assets,
}


async def played_2026(name: str, url: str) -> Json:
    """Play a scenario on a server; its transcript, without what chance and the scan decide."""
    async with Conversation(url) as conversation:
        await PLAYED_2026[name](conversation)
        normalised = Normaliser(conversation.salt).transcript(conversation.transcript())
    return _steady(normalised)


VARIES = {
    "created_at": "<date>",
    "updated_at": "<date>",
    "last_access_time": "<date>",
    "execution_start_time": "<time>",
    "execution_end_time": "<time>",
    "next_cursor": "<cursor>",
    "priority": "<number>",
    "color": "<colour>",
}
SCANNED = ("hash", "asset_hash", "job_id", "prompt_id")
"""What the scan in the background adds to a result's entry, or takes away, when it comes to it."""


def _steady(value: Any) -> Any:
    if isinstance(value, list):
        return [_steady(one) for one in value if not _of_the_scan(one)]
    if not isinstance(value, dict):
        return value
    steady = {key: VARIES.get(key) or _steady(one) for key, one in value.items()}
    if "mime_type" in value:  # an asset; its bytes depend on who encoded them
        steady["size"] = "<bytes>"
        is_result = {"output", "temp"} & set(value["tags"])
        for key in steady.keys() & set(SCANNED):
            if is_result:
                del steady[key]
            elif "hash" in key:
                steady[key] = "<hash>"
    return steady


def _of_the_scan(record: Any) -> bool:
    return isinstance(record, dict) and str(record.get("type")).startswith("assets.seed.")
