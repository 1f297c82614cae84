"""Scenarios about uploads, /view and what LoadImage makes of files."""

import json
from io import BytesIO
from urllib.parse import urlencode

from conversation import Conversation
from files_to_load import FILES_TO_LOAD
from graphs import node, noise, png
from PIL import Image
from PIL.PngImagePlugin import PngInfo

OTHER = png(noise(seed=8))
THIRD = png(noise(seed=9))


def _folder(conversation: Conversation) -> str:
    """A subfolder of this conversation's own."""
    return f"run{conversation.salt}"


async def _view(conversation: Conversation, **query: str) -> None:
    await conversation.ask("GET", f"/view?{urlencode(query)}", headers=True)


async def uploads_collide(conversation: Conversation) -> None:
    """Equal bytes keep the name, other bytes get a number, `overwrite` replaces."""
    where = {"subfolder": _folder(conversation)}
    for content in (png(), png(), OTHER, THIRD, OTHER):
        await conversation.upload(content, "a.png", **where)
    await conversation.upload(THIRD, "a.png", overwrite="true", **where)
    await conversation.upload(OTHER, "a.png", overwrite="1", **where)
    await conversation.upload(png(), "a.png", overwrite="yes", **where)
    for name in ("a.png", "a (1).png", "a (2).png", "a (3).png"):
        await _view(conversation, filename=name, type="input", **where)


async def uploads_by_type(conversation: Conversation) -> None:
    """`type` chooses the directory; a subfolder is made and may be nested."""
    folder = _folder(conversation)
    for kind in ("input", "output", "temp"):
        await conversation.upload(png(), "b.png", type=kind, subfolder=f"{folder}/deep")
        await _view(conversation, filename="b.png", type=kind, subfolder=f"{folder}/deep")
    await conversation.upload(png(), "c.png", type="nonsense")


async def uploads_refused(conversation: Conversation) -> None:
    """Nothing leaves its directory; without a file there is no upload."""
    await conversation.upload(png(), "../escaped.png")
    await conversation.upload(png(), "d.png", subfolder="../../escaped")
    await conversation.upload(png(), "d.png", subfolder="/escaped")
    await conversation.upload(png(), "")
    await conversation.ask("POST", "/upload/image", data={"image": "a text"})
    await conversation.ask("POST", "/upload/image", data={"other": "a text"})


async def masks(conversation: Conversation) -> None:
    """A mask becomes the alpha of the original; without that nothing is saved, yet it is a 200."""
    where = {"subfolder": _folder(conversation)}
    chunks = PngInfo()
    chunks.add_text("workflow", "{}")
    await conversation.upload(png(pnginfo=chunks), "original.png", **where)
    mask = png(noise(channels=4, seed=3))
    reference = {"filename": "original.png", "type": "input", **where}
    form = {"original_ref": json.dumps(reference), **where}
    await conversation.upload(mask, "masked.png", path="/upload/mask", **form)
    await _view(conversation, filename="masked.png", type="input", **where)
    await _view(conversation, filename="masked.png", type="input", channel="a", **where)
    missing = {"original_ref": json.dumps(reference | {"filename": "missing.png"}), **where}
    await conversation.upload(mask, "unsaved.png", path="/upload/mask", **missing)
    await _view(conversation, filename="unsaved.png", type="input", **where)
    await conversation.upload(mask, "unsaved.png", path="/upload/mask", **where)


async def views(conversation: Conversation) -> None:
    """Files whole, as previews, by channel, under annotated names; and what is refused."""
    folder = _folder(conversation)
    await conversation.upload(png(noise(channels=4)), "v.png", subfolder=folder, type="output")
    await conversation.upload(b"<script>", "v.html", subfolder=folder, type="output")
    await conversation.upload(b"?", "v.unknown", subfolder=folder, type="output")
    for query in (
        {"filename": "v.png"},
        {"filename": "v.png [output]", "type": "input"},
        {"filename": "v.png", "type": "input"},
        {"filename": "v.png", "type": "nonsense"},
        {"filename": "v.png", "channel": "rgb"},
        {"filename": "v.png", "channel": "a"},
        {"filename": "v.png", "channel": "rgba"},
        {"filename": "v.png", "preview": "webp;50"},
        {"filename": "v.png", "preview": "jpeg;80"},
        {"filename": "v.png", "preview": "jpeg", "channel": "a"},
        {"filename": "v.html"},
        {"filename": "v.unknown"},
        {"filename": "../v.png"},
        {"filename": "/v.png"},
        {"filename": ""},
        {"filename": "sub/v.png"},
    ):
        await _view(conversation, **query, **{"subfolder": folder})
    await _view(conversation, filename="v.png", subfolder="../input")
    await _view(conversation, subfolder=folder)


async def conditional_views(conversation: Conversation) -> None:
    """Ranges, HEAD, and 304 by ETag and by date."""
    folder = _folder(conversation)
    await conversation.upload(png(), "w.png", subfolder=folder, type="output")
    path = f"/view?filename=w.png&subfolder={folder}"
    whole = await conversation.quietly("GET", path)
    size, tag = whole.content_length, whole.headers["ETag"]
    for method, headers in (
        ("GET", {"Range": "bytes=0-9"}),
        ("GET", {"Range": "bytes=-5"}),
        ("GET", {"Range": f"bytes={size}-"}),
        ("GET", {"Range": "nonsense"}),
        ("HEAD", {}),
        ("GET", {"If-None-Match": tag}),
        ("GET", {"If-None-Match": '"other"'}),
        ("GET", {"If-Modified-Since": whole.headers["Last-Modified"]}),
        ("GET", {"If-Modified-Since": "Mon, 01 Jan 2001 00:00:00 GMT"}),
    ):
        answer = await conversation.quietly(method, path, headers=headers)
        shown = ("Content-Range", "Content-Length", "Accept-Ranges", "Content-Type")
        seen = {name: answer.headers.get(name) for name in shown}
        request = {"request": f"{method} /view", "json": None, "status": answer.status}
        conversation.http.append(request | {"headers": seen})


async def pictures_as_they_load(conversation: Conversation) -> None:
    """Every kind of file gives the same pixels and the same mask, also scaled by Lanczos."""
    folder = _folder(conversation)
    client = await conversation.connect()
    for name, make in FILES_TO_LOAD.items():
        await conversation.upload(make(), name, subfolder=folder)
        load = {"1": node("LoadImage", image=f"{folder}/{name}")}
        for way in (_scaled(), _mask()):
            await _run_and_view(conversation, client, load | way)


def _scaled() -> dict:
    scale = node("ImageScaleBy", image=["1", 0], upscale_method="lanczos", scale_by=1.7)
    return {"2": scale, "3": node("PreviewImage", images=["2", 0])}


def _mask() -> dict:
    return {"2": node("MaskToImage", mask=["1", 1]), "3": node("PreviewImage", images=["2", 0])}


async def _run_and_view(conversation: Conversation, client, graph: dict) -> None:
    """Run a graph with one output and look at each of its pictures."""
    prompt_id = await conversation.run(graph, client)
    history = await conversation.ask("GET", f"/history/{prompt_id}")
    for output in history[prompt_id]["outputs"].values():
        for picture in output["images"]:
            await conversation.ask("GET", f"/view?{urlencode(picture)}")


async def exact_nodes(conversation: Conversation) -> None:
    """The nodes that only move or invert values give the same pixels."""
    folder = _folder(conversation)
    await conversation.upload(png(noise(channels=4)), "rgba.png", subfolder=folder)
    client = await conversation.connect()
    load = node("LoadImage", image=f"{folder}/rgba.png")
    chains = {
        "crop": node("ImageCrop", image=["1", 0], width=20, height=900, x=50, y=3),
        "invert": node("ImageInvert", image=["1", 0]),
        "from batch": node("ImageFromBatch", image=["1", 0], batch_index=5, length=3),
        "join": node("JoinImageWithAlpha", image=["1", 0], alpha=["1", 1]),
        "mask": node("MaskToImage", mask=["1", 1]),
        "nearest": _scale("nearest-exact", 150, 20),
        "lanczos down": _scale("lanczos", 31, 17),
        "lanczos cropped": _scale("lanczos", 200, 40, "center"),
        "lanczos by width": _scale("lanczos", 200, 0),
        "unscaled": _scale("lanczos", 0, 0),
        "colour": node("EmptyImage", width=9, height=5, batch_size=2, color=0x123456),
    }
    for middle in chains.values():
        graph = {"1": load, "2": middle, "3": node("PreviewImage", images=["2", 0])}
        await _run_and_view(conversation, client, graph)
    for middle in _mask_chains().values():
        to_image = node("MaskToImage", mask=["2", middle.pop("slot", 0)])
        shown = {"3": to_image, "4": node("PreviewImage", images=["3", 0])}
        await _run_and_view(conversation, client, {"1": load, "2": middle, **shown})


def _scale(method: str, width: int, height: int, crop: str = "disabled") -> dict:
    size = {"width": width, "height": height, "crop": crop}
    return node("ImageScale", image=["1", 0], upscale_method=method, **size)


def _mask_chains() -> dict:
    feather = {"left": 5, "top": 3, "right": 7, "bottom": 2}
    return {
        "invert": node("InvertMask", mask=["1", 1]),
        "red": node("ImageToMask", image=["1", 0], channel="red"),
        "split": node("SplitImageWithAlpha", image=["1", 0]) | {"slot": 1},
        "feather": node("FeatherMask", mask=["1", 1], **feather),
        "grow": node("GrowMask", mask=["1", 1], expand=2, tapered_corners=True),
        "shrink": node("GrowMask", mask=["1", 1], expand=-2, tapered_corners=False),
    }


async def saved_files(conversation: Conversation) -> None:
    """Prefixes with subfolders and placeholders, counters that go on, graphs in the chunks."""
    folder = _folder(conversation)
    client = await conversation.connect()
    for number, prefix in enumerate(("a", "a", "a_b", "deep/er/a", "w%width%h%height%", "../up")):
        graph = {
            "1": node("EmptyImage", width=16, height=8, batch_size=2, color=number),
            "2": node("SaveImage", images=["1", 0], filename_prefix=f"{folder}/{prefix}"),
        }
        extra = {"extra_pnginfo": {"workflow": {"version": number}}}
        prompt_id = await conversation.run(graph, client, extra_data=extra)
        history = await conversation.ask("GET", f"/history/{prompt_id}")
        for output in history[prompt_id]["outputs"].values():
            await _chunks(conversation, output["images"][0])


async def _chunks(conversation: Conversation, picture: dict) -> None:
    answer = await conversation.quietly("GET", f"/view?{urlencode(picture)}")
    with Image.open(BytesIO(await answer.read())) as image:
        conversation.http.append({"request": "chunks", "body": dict(image.text)})


async def results_as_inputs(conversation: Conversation) -> None:
    """`[output]` and `[temp]` name earlier results; a changed file is a changed picture."""
    folder = _folder(conversation)
    client = await conversation.connect()
    for kind in ("input", "output", "temp"):
        await conversation.upload(png(), "e.png", subfolder=folder, type=kind)
        graph = {
            "1": node("LoadImage", image=f"{folder}/e.png [{kind}]"),
            "2": node("PreviewImage", images=["1", 0]),
        }
        await _run_and_view(conversation, client, graph)
    await conversation.run(graph, client)
    await conversation.upload(OTHER, "e.png", subfolder=folder, type="temp", overwrite="true")
    await _run_and_view(conversation, client, graph)


async def live_enum(conversation: Conversation) -> None:
    """An upload is in LoadImage's enum at once."""
    name = f"live{conversation.salt}.png"
    for _ in range(2):
        answer = await conversation.quietly("GET", "/object_info/LoadImage")
        enum = (await answer.json())["LoadImage"]["input"]["required"]["image"][0]
        conversation.http.append({"request": "enum", "body": name in enum})
        await conversation.upload(png(), name)


# How a prompt runs is told elsewhere: here only the files count.
ANSWERS_ONLY = {"sockets": False}
FILES = {
    "uploads-collide": (uploads_collide, ANSWERS_ONLY),
    "uploads-by-type": (uploads_by_type, ANSWERS_ONLY),
    "uploads-refused": (uploads_refused, ANSWERS_ONLY),
    "masks": (masks, ANSWERS_ONLY),
    "views": (views, ANSWERS_ONLY),
    "conditional-views": (conditional_views, ANSWERS_ONLY),
    "pictures-as-they-load": (pictures_as_they_load, ANSWERS_ONLY),
    "exact-nodes": (exact_nodes, ANSWERS_ONLY),
    "saved-files": (saved_files, ANSWERS_ONLY),
    "results-as-inputs": (results_as_inputs, {}),
    "live-enum": (live_enum, ANSWERS_ONLY),
}
