"""Scenarios about what is refused and how HTTP itself is handled."""

import gzip
import json

from conversation import Conversation
from graphs import colour, node, png, preview, scaled

RED = 0xFF0000


def _empty(**changes: object) -> dict:
    """EmptyImage → PreviewImage with some inputs changed; None takes one out."""
    graph = colour(RED)
    inputs = graph["1"]["inputs"] | changes
    graph["1"]["inputs"] = {name: value for name, value in inputs.items() if value is not None}
    return graph


def _linked(link: object) -> dict:
    return {"1": node("EmptyImage", width=8, height=8, batch_size=1, color=1)} | {
        "2": node("PreviewImage", images=link)
    }


def _cycle() -> dict:
    return {
        "1": node("ImageInvert", image=["2", 0]),
        "2": node("ImageInvert", image=["1", 0]),
        "3": node("PreviewImage", images=["2", 0]),
    }


INVALID = {
    "missing input": _empty(width=None),
    "two problems": _empty(width=0, height=99999),
    "text for a number": _empty(width="wide"),
    "list for a number": _empty(width=["wide"]),
    "nothing for a number": {"1": node("EmptyImage"), "2": node("PreviewImage", images=["1", 0])},
    "not in the list": scaled(2.0, method="magic"),
    "too large": scaled(9.0),
    "no link": _linked("1"),
    "no picture": _linked(5),
    "link to nowhere": _linked(["9", 0]),
    "link to a slot that is not there": _linked(["1", 4]),
    "link to a slot that is no whole number": _linked(["1", 0.0]),
    "long link": _linked(["1", 0, 0]),
    "mask for a picture": {
        "1": node("LoadImage", image="rec/in.png"),
        "2": node("PreviewImage", images=["1", 1]),
    },
    "no class_type": {"1": {"inputs": {}}},
    "no inputs": {"1": {"class_type": "PreviewImage"}},
    "nothing to show": {"1": node("EmptyImage", width=8, height=8, batch_size=1, color=1)},
    "file that is not there": preview("missing.png"),
    "file that is a number": preview(7),
    "mask of a channel that is not there": {
        "1": node("LoadImageMask", image="rec/in.png", channel="ultraviolet"),
        "2": node("MaskToImage", mask=["1", 0]),
        "3": node("PreviewImage", images=["2", 0]),
    },
}


async def refused_graphs(conversation: Conversation) -> None:
    """Every way a graph can be wrong has its own native error body."""
    await conversation.upload(png(), "in.png", subfolder="rec", overwrite="true")
    for graph in INVALID.values():
        await conversation.ask("POST", "/prompt", body={"prompt": graph})
    await conversation.idle()  # some are accepted, and fail when they run
    await conversation.ask("GET", "/queue")


async def coerced_values(conversation: Conversation) -> None:
    """Numbers may come as text or as another kind of number; queue and history show the result."""
    client = await conversation.connect()
    graph = _empty(width="16", height=8.9, batch_size=True)
    graph["1"]["inputs"]["unknown"] = "left alone"
    prompt_id = await conversation.run(graph, client)
    await conversation.ask("GET", f"/history/{prompt_id}")


async def partial_validity(conversation: Conversation) -> None:
    """With one good output the answer is 200 and names what was wrong with the other."""
    await conversation.upload(png(), "in.png", subfolder="rec", overwrite="true")
    await conversation.prepare(preview())
    client = await conversation.connect()
    graph = scaled(99.0) | {"4": node("PreviewImage", images=["1", 0])}
    prompt_id = await conversation.run(graph, client)
    await conversation.ask("GET", f"/history/{prompt_id}")


async def chosen_targets(conversation: Conversation) -> None:
    """`partial_execution_targets` limits the run to those outputs."""
    client = await conversation.connect()
    graph = colour(RED) | {"3": node("PreviewImage", images=["1", 0])}
    await conversation.run(graph, client, partial_execution_targets=["3"])
    await conversation.submit(graph, client, partial_execution_targets=["1"])


async def cycles(conversation: Conversation) -> None:
    """A graph that bites its tail is refused without harm."""
    answer = await conversation.quietly("POST", "/prompt", json={"prompt": _cycle()})
    body = await answer.json()
    seen = {"status": answer.status, "kind": body["error"]["type"]}
    conversation.http.append({"request": "cycle", "body": seen})
    await conversation.ask("GET", "/queue")


async def wrong_model(conversation: Conversation) -> None:
    """A model that is not there passes the validation of a COMBO and fails when it runs, or not."""
    await conversation.upload(png(), "in.png", subfolder="rec", overwrite="true")
    graph = {
        "1": node("LoadImage", image="rec/in.png"),
        "2": node("UpscaleModelLoader", model_name="missing.pth"),
        "3": node("ImageUpscaleWithModel", upscale_model=["2", 0], image=["1", 0]),
        "4": node("PreviewImage", images=["3", 0]),
    }
    await conversation.ask("POST", "/prompt", body={"prompt": graph})


async def http_rules(conversation: Conversation) -> None:
    """405 with Allow, HEAD, OPTIONS, 404, bodies that are no JSON, with and without /api."""
    for method, path in (
        ("PUT", "/prompt"),
        ("DELETE", "/queue"),
        ("POST", "/object_info"),
        ("POST", "/view"),
        ("GET", "/upload/image"),
        ("GET", "/interrupt"),
        ("POST", "/nowhere"),
        ("GET", "/nowhere"),
        ("GET", "/api/nowhere"),
        ("GET", "/nowhere.css"),
        ("GET", "/nowhere.png"),
        ("HEAD", "/queue"),
        ("OPTIONS", "/prompt"),
        ("OPTIONS", "/nowhere"),
        ("GET", "/api/queue"),
        ("GET", "/api/prompt"),
        ("GET", "/api/features"),
        ("GET", "/api/models/nothing"),
        ("GET", "/models/nothing"),
        ("POST", "/queue"),
        ("POST", "/history"),
        ("POST", "/free"),
        ("GET", "/ws"),
        ("GET", "/history?max_items=few"),
        ("GET", "/api/history/nothing"),
        ("GET", "/view_metadata/loras"),
        ("GET", "/internal/files/nothing"),
        ("GET", "/api/jobs"),
    ):
        await conversation.ask(method, path, headers=True)


async def bodies(conversation: Conversation) -> None:
    """Compressed and odd request bodies."""
    client = await conversation.connect()
    graph = {"prompt": colour(RED), "client_id": client.client_id}
    text = json.dumps(graph).encode()
    kinds = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    answer = await conversation.quietly("POST", "/prompt", data=gzip.compress(text), headers=kinds)
    accepted = await answer.json()
    conversation.http.append({"request": "gzip", "status": answer.status})
    await client.until_end_of(accepted["prompt_id"])
    for data in (b"", b"[]", b"5", b'{"prompt": [1]}', b'{"prompt": {"1": 5}}', b'{"number": "x"}'):
        await conversation.ask("POST", "/prompt", data=data)
    for data in (b"[]", b'{"delete": 5}', b'{"clear": false}'):
        await conversation.ask("POST", "/queue", data=data)
    for data in (b"[]", b'{"prompt_id": null}', b"no JSON"):
        await conversation.ask("POST", "/interrupt", data=data)
    await conversation.ask("POST", "/prompt", body={"prompt": colour(1), "prompt_id": None})
    await client.until_idle()
    await conversation.ask("GET", "/history/None")


async def origins(conversation: Conversation) -> None:
    """A browser's Origin must be the loopback Host; ports count if both have one."""
    host = conversation.url.removeprefix("http://")
    port = host.rpartition(":")[2]
    for headers in (
        {},
        {"Origin": f"http://{host}"},
        {"Origin": f"https://{host}"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": f"http://localhost:{port}"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://evil.example", "Host": "evil.example"},
        {"Origin": "http://evil.example", "Host": "localhost"},
        {"Origin": f"http://localhost:{port}", "Host": f"localhost:{port}"},
        {"Origin": "http://LOCALHOST", "Host": f"localhost:{port}"},
    ):
        answer = await conversation.quietly("GET", "/prompt", headers=headers)
        shown = {name: value.replace(port, "<port>") for name, value in headers.items()}
        seen = {"request": "GET /prompt", "headers": shown, "status": answer.status}
        conversation.http.append(seen)


async def user_files(conversation: Conversation) -> None:
    """Userdata is written, listed, moved and deleted, and stays in its directory."""
    root = f"run{conversation.salt}"
    file = f"/userdata/{root}%2Fa.json"
    await conversation.ask("POST", file, body={"a": 1})
    await conversation.ask("POST", f"{file}?overwrite=false", body={"a": 2})
    await conversation.ask("GET", file)
    for query in ("", "&recurse=true", "&split=true"):
        await conversation.ask("GET", f"/userdata?dir={root}{query}")
    await conversation.ask("POST", f"{file}/move/{root}%2Fb.json")
    await conversation.ask("GET", file)
    await conversation.ask("DELETE", f"/userdata/{root}%2Fb.json")
    await conversation.ask("DELETE", f"/userdata/{root}%2Fb.json")
    await conversation.ask("GET", "/userdata?dir=../..")
    await conversation.ask("GET", "/userdata")
    await conversation.ask("POST", "/userdata/..%2F..%2Fescaped", body={})
    await conversation.ask("GET", "/settings/nothing")


async def known_nodes(conversation: Conversation) -> None:
    """The classes a worker has are described as the real ones are."""
    for name in KNOWN:
        await conversation.ask("GET", f"/object_info/{name}")


KNOWN = (
    *("EmptyImage", "ImageScale", "ImageScaleBy", "ImageCrop", "ImageFromBatch", "ImageInvert"),
    *("InvertMask", "MaskToImage", "ImageToMask", "JoinImageWithAlpha", "SplitImageWithAlpha"),
    *("GrowMask", "FeatherMask", "SaveImage", "PreviewImage", "SaveImageWebsocket"),
    *("UpscaleModelLoader", "ImageUpscaleWithModel", "TimedPass", "FailNode"),
)

RULES = {
    "refused-graphs": (refused_graphs, {}),
    "coerced-values": (coerced_values, {}),
    "partial-validity": (partial_validity, {}),
    "chosen-targets": (chosen_targets, {}),
    "cycles": (cycles, {}),
    "wrong-model": (wrong_model, {}),
    "http-rules": (http_rules, {}),
    "bodies": (bodies, {}),
    "origins": (origins, {}),
    "user-files": (user_files, {}),
    "known-nodes": (known_nodes, {}),
}
