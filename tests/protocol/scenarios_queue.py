"""Scenarios about the queue, the sockets and the history that the recordings leave out."""

import asyncio
import uuid

from conversation import Conversation
from graphs import colour, failing, node, png, preview, scaled, timed

BLACK, WHITE, RED, GREEN, BLUE = 0x000000, 0xFFFFFF, 0xFF0000, 0x00FF00, 0x0000FF


async def _with_input(conversation: Conversation) -> None:
    await conversation.upload(png(), "in.png", subfolder="rec", overwrite="true")
    await conversation.prepare(preview())
    conversation.http.clear()


async def prompt_without_client_id(conversation: Conversation) -> None:
    """Progress and pictures of a prompt of nobody go to every socket, its other events nowhere."""
    await _with_input(conversation)
    first = await conversation.connect("A")
    second = await conversation.connect("B", features=False)
    graph = timed(0.1, conversation.salt, output="SaveImageWebsocket")
    prompt_id = await conversation.submit(graph)
    await asyncio.gather(first.until_idle(), second.until_idle())
    await conversation.ask("GET", f"/history/{prompt_id}")


async def interrupted_without_client_id(conversation: Conversation) -> None:
    """An interrupt without id ends whatever runs, and everybody hears of a prompt of nobody."""
    await _with_input(conversation)
    first = await conversation.connect("A")
    second = await conversation.connect("B")
    await conversation.submit(timed(30, conversation.salt))
    await first.until_event("progress", value=1)
    await conversation.ask("POST", "/interrupt")
    await asyncio.gather(first.until_idle(), second.until_idle())


async def failure_without_client_id(conversation: Conversation) -> None:
    """A prompt of nobody that fails says so in the history only."""
    await _with_input(conversation)
    client = await conversation.connect()
    prompt_id = await conversation.submit(failing())
    await client.until_idle()
    await conversation.ask("GET", f"/history/{prompt_id}")


async def cached_without_client_id(conversation: Conversation) -> None:
    """A prompt of nobody served from the cache has no outputs in its history."""
    await _with_input(conversation)
    await conversation.prepare(scaled(1.5))
    client = await conversation.connect()
    prompt_id = await conversation.submit(scaled(1.5))
    await client.until_idle()
    await conversation.ask("GET", f"/history/{prompt_id}")


async def order_of_the_queue(conversation: Conversation) -> None:
    """`front` overtakes, a number of one's own decides, the rest runs as it came."""
    await _with_input(conversation)
    client = await conversation.connect()
    head = await conversation.submit(timed(0.7, conversation.salt), client)
    await client.until_event("executing", node="2", prompt_id=head)
    prompts = [await conversation.submit(colour(RED), client)]
    prompts.append(await conversation.submit(colour(GREEN), client, front=True))
    prompts.append(await conversation.submit(colour(BLUE), client, number=-0.5))
    prompts.append(await conversation.submit(colour(WHITE), client, front=False))
    await conversation.ask("GET", "/queue")
    await client.until_end_of(prompts[-1])
    await conversation.ask("GET", "/prompt")


async def interrupts_that_miss(conversation: Conversation) -> None:
    """An interrupt of a waiting or unknown prompt changes nothing."""
    await _with_input(conversation)
    client = await conversation.connect()
    running = await conversation.submit(timed(0.4, conversation.salt), client)
    await client.until_event("executing", node="2", prompt_id=running)
    waiting = await conversation.submit(colour(RED), client)
    await conversation.ask("POST", "/interrupt", body={"prompt_id": waiting})
    await conversation.ask("POST", "/interrupt", body={"prompt_id": str(uuid.uuid4())})
    await conversation.ask("POST", "/queue", body={"delete": [running, str(uuid.uuid4())]})
    await client.until_end_of(waiting)
    for prompt_id in (running, waiting):
        await conversation.ask("GET", f"/history/{prompt_id}")


async def clear_waiting(conversation: Conversation) -> None:
    """Clearing the queue takes what waits and leaves what runs."""
    await _with_input(conversation)
    client = await conversation.connect()
    running = await conversation.submit(timed(0.4, conversation.salt), client)
    await client.until_event("executing", node="2", prompt_id=running)
    for number in (RED, GREEN, BLUE):
        await conversation.submit(colour(number), client)
    await conversation.ask("POST", "/queue", body={"clear": True})
    await conversation.ask("GET", "/queue")
    await client.until_end_of(running)


async def delete_one_of_several(conversation: Conversation) -> None:
    """Deleting one of several waiting prompts leaves the others in their order."""
    await _with_input(conversation)
    client = await conversation.connect()
    running = await conversation.submit(timed(0.4, conversation.salt), client)
    await client.until_event("executing", node="2", prompt_id=running)
    waiting = [await conversation.submit(colour(one), client) for one in (RED, GREEN, BLUE)]
    await conversation.ask("POST", "/queue", body={"delete": [waiting[1]]})
    await conversation.ask("GET", "/queue")
    await client.until_end_of(waiting[-1])


async def duplicate_ids(conversation: Conversation) -> None:
    """The same prompt id is accepted twice, and both run."""
    await _with_input(conversation)
    client = await conversation.connect()
    prompt_id = await conversation.run(colour(RED), client)
    await conversation.run(colour(GREEN), client, prompt_id=prompt_id)
    await conversation.ask("GET", f"/history/{prompt_id}")


async def reconnect_in_mid_run(conversation: Conversation) -> None:
    """Who comes back under the clientId of the running prompt is told the node, and the rest."""
    await _with_input(conversation)
    client = await conversation.connect("before")
    prompt_id = await conversation.submit(timed(0.6, conversation.salt), client)
    await client.until_event("progress", value=1)
    await client.close()
    again = await conversation.connect("after", client_id=client.client_id)
    await again.until_end_of(prompt_id)


async def deaf_after_a_second_socket(conversation: Conversation) -> None:
    """When the older of two sockets of one clientId closes, the newer gets no events any more."""
    await _with_input(conversation)
    older = await conversation.connect("older")
    newer = await conversation.connect("newer", client_id=older.client_id)
    await conversation.run(colour(RED), newer)
    await older.close()
    witness = await conversation.connect("witness")
    await conversation.submit(colour(GREEN), newer)
    await witness.until_idle()
    await newer.settle()


async def features_asked_too_late(conversation: Conversation) -> None:
    """Feature flags sent as a second message are ignored: no answer, type-1 frames."""
    await _with_input(conversation)
    client = await conversation.connect(features=False)
    await client.say({"type": "hello"})
    await client.say({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
    await conversation.run(scaled(2.0, output="SaveImageWebsocket"), client)


async def empty_client_id(conversation: Conversation) -> None:
    """A prompt with an empty clientId sends its events nowhere."""
    await _with_input(conversation)
    client = await conversation.connect()
    body = {"prompt": timed(0.1, conversation.salt), "client_id": "", "prompt_id": uuid.uuid4().hex}
    await conversation.quietly("POST", "/prompt", json=body)
    await client.until_idle()


async def equal_nodes_in_one_graph(conversation: Conversation) -> None:
    """Of two equal nodes in one graph one runs, the other is served from its result."""
    await _with_input(conversation)
    client = await conversation.connect()
    graph = scaled(1.25)
    graph["4"] = node("ImageScaleBy", image=["1", 0], upscale_method="bicubic", scale_by=1.25)
    graph["5"] = node("ImageInvert", image=["4", 0])
    graph["3"]["inputs"]["images"] = ["5", 0]
    await conversation.run(graph, client)


async def batch_over_the_socket(conversation: Conversation) -> None:
    """SaveImageWebsocket sends one frame a picture, each with its own progress."""
    client = await conversation.connect()
    graph = colour(BLUE, output="SaveImageWebsocket")
    graph["1"]["inputs"]["batch_size"] = 3
    await conversation.run(graph, client)


async def history_paging(conversation: Conversation) -> None:
    """The history is a dict, oldest first; max_items gives the newest unless offset says where."""
    await conversation.quietly("POST", "/history", json={"clear": True})
    client = await conversation.connect()
    ids = [await conversation.run(colour(one), client) for one in (RED, GREEN, BLUE)]
    for query in ("", "?max_items=2", "?max_items=2&offset=0", "?offset=1", "?max_items=9"):
        await conversation.ask("GET", f"/history{query}")
    await conversation.ask("POST", "/history", body={"delete": [ids[1], str(uuid.uuid4())]})
    await conversation.ask("GET", "/history")
    await conversation.ask("POST", "/history", body={"clear": True})
    await conversation.ask("GET", "/history")


async def extra_data(conversation: Conversation) -> None:
    """What the client sent along is in queue and history, secrets are not."""
    client = await conversation.connect()
    extra = {"extra_pnginfo": {"workflow": {"nodes": [1]}}, "api_key_comfy_org": "secret"}
    prompt_id = await conversation.run(colour(RED, output="SaveImage"), client, extra_data=extra)
    await conversation.ask("GET", f"/history/{prompt_id}")


LATER = {"first_progress_only": True, "apart": ("status",)}
QUEUE = {
    "prompt-without-client-id": (prompt_without_client_id, {}),
    "interrupted-without-client-id": (interrupted_without_client_id, {"first_progress_only": True}),
    "failure-without-client-id": (failure_without_client_id, {}),
    "cached-without-client-id": (cached_without_client_id, {}),
    "order-of-the-queue": (order_of_the_queue, LATER),
    "interrupts-that-miss": (interrupts_that_miss, LATER),
    "clear-waiting": (clear_waiting, LATER),
    "delete-one-of-several": (delete_one_of_several, LATER),
    "duplicate-ids": (duplicate_ids, {}),
    "reconnect-in-mid-run": (reconnect_in_mid_run, {"first_progress_only": True}),
    "deaf-after-a-second-socket": (deaf_after_a_second_socket, {}),
    "features-asked-too-late": (features_asked_too_late, {}),
    "empty-client-id": (empty_client_id, {}),
    "equal-nodes-in-one-graph": (equal_nodes_in_one_graph, {}),
    "batch-over-the-socket": (batch_over_the_socket, {}),
    "history-paging": (history_paging, {}),
    "extra-data": (extra_data, {}),
}
