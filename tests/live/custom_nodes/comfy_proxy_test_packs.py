"""Custom nodes as popular packs have them: what they know lies behind routes of their own.

`PackLoad` names a picture that was put into this process's memory (Krita's tooling nodes) by PUT or
by POST; `PackChoose` waits for an answer that names its node (image choosers), `PackPause` for one
that names nothing (pause nodes); `PackClip` saves a file that a route of the pack shows (video
packs). The other routes read a file named in JSON, delete one by name, and count how often they
were asked. They touch the disk on the event loop and shadow builtins, as packs do.
"""
# ruff: noqa: A002, ASYNC240

import io
import os
import threading

import comfy.model_management
import folder_paths
import numpy
import torch
from aiohttp import web
from PIL import Image
from server import PromptServer

routes = PromptServer.instance.routes
MEMORY = {}
WAITING = {}
SALT = ("INT", {"default": 0, "min": 0, "max": 2**53})
counted = 0


@routes.put("/proxy-test/memory/{id}")
async def put_memory(request):
    MEMORY[request.match_info["id"]] = await request.read()
    return web.json_response({}, status=201)


@routes.post("/proxy-test/memory")
async def post_memory(request):
    """A form with the field `id` and the picture."""
    form = await request.post()
    MEMORY[form["id"]] = form["picture"].file.read()
    return web.json_response({"id": form["id"]})


@routes.get("/proxy-test/memory/{id}")
async def get_memory(request):
    body = MEMORY.get(request.match_info["id"])
    return web.Response(status=404) if body is None else web.Response(body=body)


@routes.post("/proxy-test/choose")
async def choose(request):
    """`{"node": …}`; 200 also where no such node waits, as packs do."""
    waiting = WAITING.get(str((await request.json())["node"]))
    if waiting is not None:
        waiting.set()
    return web.json_response({"woken": waiting is not None})


@routes.post("/proxy-test/continue")
async def go_on(request):
    waiting = WAITING.get(PackPause)
    if waiting is not None:
        waiting.set()
    return web.json_response({"woken": waiting is not None})


def path_of(file):
    base = folder_paths.get_directory_by_type(file.get("type", "output"))
    return os.path.join(base, file.get("subfolder", ""), file["filename"])


@routes.get("/proxy-test/clip")
async def show_clip(request):
    """204 where there is no such file, as the most used video pack answers."""
    path = path_of(request.rel_url.query)
    return web.FileResponse(path) if os.path.isfile(path) else web.Response(status=204)


@routes.post("/proxy-test/size")
async def size(request):
    """`{"file": {"filename", "subfolder", "type"}}`: its size; 400 where there is none."""
    path = path_of((await request.json())["file"])
    if not os.path.isfile(path):
        return web.Response(status=400)
    return web.json_response({"size": os.path.getsize(path)})


@routes.delete("/proxy-test/clip")
async def delete_clip(request):
    path = path_of(request.rel_url.query)
    if not os.path.isfile(path):
        return web.Response(status=404)
    os.unlink(path)
    return web.Response(status=200)


@routes.get("/proxy-test/count")
async def count(request):
    """A GET that changes something."""
    global counted
    counted += 1
    return web.json_response({"count": counted})


class PackLoad:
    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 (ComfyUI's name)
        return {"required": {"id": ("STRING", {"default": ""}), "salt": SALT}}

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "load"
    CATEGORY = "testing"

    def load(self, id, salt):
        if id not in MEMORY:
            raise RuntimeError(f"no picture of the id {id}")
        pixels = numpy.array(Image.open(io.BytesIO(MEMORY[id])).convert("RGB"))
        return (torch.from_numpy(pixels.astype(numpy.float32) / 255)[None],)


def wait_for_answer(key, frame):
    answered = WAITING[key] = threading.Event()
    try:
        PromptServer.instance.send_sync("proxy-test-waits", frame, PromptServer.instance.client_id)
        while not answered.wait(0.05):
            comfy.model_management.throw_exception_if_processing_interrupted()
    finally:
        WAITING.pop(key, None)


class PackChoose:
    """Keyed by its node id: the same in every run of a workflow."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {
            "required": {"image": ("IMAGE",), "salt": SALT},
            "hidden": {"node": "UNIQUE_ID"},
        }

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "choose"
    CATEGORY = "testing"

    def choose(self, image, salt, node):
        wait_for_answer(str(node), {"node": node})
        return (image,)


class PackPause:
    """Keyed by its class: an answer names nothing."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"image": ("IMAGE",), "salt": SALT}}

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "pause"
    CATEGORY = "testing"

    def pause(self, image, salt):
        wait_for_answer(PackPause, {"paused": True})
        return (image,)


class PackClip:
    """Saves the picture as `clip/clip_00001_.gif` and tells it under a name of its own."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"image": ("IMAGE",)}}

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "save"
    CATEGORY = "testing"

    def save(self, image):
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            "clip/clip", folder_paths.get_output_directory(), image.shape[2], image.shape[1]
        )
        file = f"{name}_{counter:05}_.gif"
        pixels = (image[0].numpy() * 255).round().astype("uint8")
        Image.fromarray(pixels).save(os.path.join(folder, file))
        return {"ui": {"gifs": [{"filename": file, "subfolder": subfolder, "type": "output"}]}}


NODE_CLASS_MAPPINGS = {
    "PackLoad": PackLoad,
    "PackChoose": PackChoose,
    "PackPause": PackPause,
    "PackClip": PackClip,
}
