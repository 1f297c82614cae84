"""The scenarios of the nine recordings, played again."""

from conversation import Conversation
from graphs import colour, failing, node, png, preview, scaled, timed

UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"


async def _with_input(conversation: Conversation, *, cached: bool) -> None:
    """The picture is there; LoadImage is in the cache, or nothing is."""
    form = {"subfolder": "rec", "overwrite": "true"}
    await conversation.upload(png(), "in.png", **form)
    await conversation.prepare(preview() if cached else colour(conversation.salt % 0xFFFFFF))
    conversation.http.clear()


async def save_image(conversation: Conversation) -> None:
    """Three nodes run one after the other, the picture is saved."""
    await _with_input(conversation, cached=False)
    client = await conversation.connect()
    prompt_id = await conversation.run(scaled(1.560253), client)
    await conversation.ask("GET", f"/history/{prompt_id}")


async def save_image_fully_cached(conversation: Conversation) -> None:
    """The same graph again: no node runs, the old file is named."""
    await _with_input(conversation, cached=False)
    await conversation.prepare(scaled(1.560253))
    client = await conversation.connect()
    prompt_id = await conversation.run(scaled(1.560253), client)
    await conversation.ask("GET", f"/history/{prompt_id}")


async def save_image_websocket_with_metadata(conversation: Conversation) -> None:
    """A socket that asked for metadata gets its picture as a type-4 frame, before `progress`."""
    await _with_input(conversation, cached=True)
    client = await conversation.connect()
    graph = scaled(2.0, output="SaveImageWebsocket")
    prompt_id = await conversation.run(graph, client)
    await conversation.ask("GET", f"/history/{prompt_id}")


async def save_image_websocket_without_metadata(conversation: Conversation) -> None:
    """Another socket gets a type-1 frame, after `progress`; the node runs though all is cached."""
    graph = scaled(2.0, output="SaveImageWebsocket")
    await _with_input(conversation, cached=True)
    await conversation.prepare(graph)
    client = await conversation.connect(features=False)
    prompt_id = await conversation.run(graph, client)
    await conversation.ask("GET", f"/history/{prompt_id}")


async def node_with_progress(conversation: Conversation) -> None:
    """A node with a progress bar sends `progress_state` and `progress` at each step."""
    await _with_input(conversation, cached=True)
    client = await conversation.connect()
    prompt_id = await conversation.run(timed(0.3, conversation.salt), client)
    await conversation.ask("GET", f"/history/{prompt_id}")


async def execution_error(conversation: Conversation) -> None:
    """A failing node ends its prompt with `execution_error`, in the history too."""
    await _with_input(conversation, cached=True)
    client = await conversation.connect()
    prompt_id = await conversation.run(failing(), client)
    await conversation.ask("GET", f"/history/{prompt_id}")


async def interrupt_running(conversation: Conversation) -> None:
    """An interrupt by id ends the running prompt with `execution_interrupted`."""
    await _with_input(conversation, cached=True)
    client = await conversation.connect()
    prompt_id = await conversation.submit(timed(5, conversation.salt), client)
    await client.until_event("progress", value=1)
    await conversation.ask("GET", "/queue")
    await conversation.ask("POST", "/interrupt", body={"prompt_id": prompt_id})
    await client.until_end_of(prompt_id)
    await conversation.ask("GET", f"/history/{prompt_id}")


async def delete_pending(conversation: Conversation) -> None:
    """A waiting prompt is deleted and never runs."""
    await _with_input(conversation, cached=True)
    client = await conversation.connect()
    first = await conversation.submit(timed(0.6, conversation.salt), client)
    await client.until_event("executing", node="2", prompt_id=first)
    second = await conversation.submit(timed(0.6, conversation.salt + 1), client)
    await conversation.ask("GET", "/queue")
    await conversation.ask("GET", "/prompt")
    await conversation.ask("POST", "/queue", body={"delete": [second]})
    await conversation.ask("GET", "/queue")
    await client.until_end_of(first)
    await conversation.ask("GET", f"/history/{second}")


async def rejected_and_reads(conversation: Conversation) -> None:
    """What is refused, and how; what can be read."""
    ask = conversation.ask
    missing = scaled(2.0, image="nope.png")
    await ask("POST", "/prompt", body={"prompt": missing})
    await ask("POST", "/prompt", body={"prompt": {"1": node("NoSuchNode")}})
    await ask("POST", "/prompt", body={})
    await ask("POST", "/prompt", body={"prompt": {}})
    await ask("POST", "/prompt", data=b"no JSON")
    await ask("GET", f"/history/{UNKNOWN_ID}")
    await ask("GET", "/view?filename=nope.png")
    await ask("GET", "/view?filename=../../etc/passwd")
    await ask("GET", "/nosuchroute")
    foreign = {"Origin": "http://evil.example"}
    conversation.http.append(await _foreign_interrupt(conversation, foreign))
    for path in ("/system_stats", "/features", "/queue", "/object_info/LoadImage"):
        await ask("GET", path)
    for path in ("/object_info/NoSuchNode", "/models", "/models/upscale_models", "/embeddings"):
        await ask("GET", path)
    for path in ("/users", "/userdata?dir=workflows", "/settings"):
        await ask("GET", path)


async def _foreign_interrupt(conversation: Conversation, headers: dict[str, str]) -> dict:
    response = await conversation.quietly("POST", "/interrupt", headers=headers)
    body = f"<{response.content_length or 0} bytes>"
    request = {"request": "POST /interrupt", "json": None}
    return request | {"status": response.status, "body": body}


RECORDED = {
    "save-image": (save_image, {}),
    "save-image-fully-cached": (save_image_fully_cached, {}),
    "save-image-websocket-with-metadata": (save_image_websocket_with_metadata, {}),
    "save-image-websocket-without-metadata": (save_image_websocket_without_metadata, {}),
    "node-with-progress": (node_with_progress, {}),
    "execution-error": (execution_error, {}),
    "interrupt-running": (interrupt_running, {"first_progress_only": True}),
    "delete-pending": (delete_pending, {"first_progress_only": True, "apart": ("status",)}),
    "rejected-and-reads": (rejected_and_reads, {}),
}
