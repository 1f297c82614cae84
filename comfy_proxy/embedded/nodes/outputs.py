"""Output nodes: SaveImage, PreviewImage and SaveImageWebsocket."""

import json
import time
from typing import Any

from PIL.PngImagePlugin import PngInfo

from comfy_proxy.embedded.folders import Folders
from comfy_proxy.embedded.nodes.node_class import Context, Json, NodeClass, Result, entry
from comfy_proxy.embedded.nodes.scaling import to_picture

HIDDEN = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}
DESCRIPTION = "Saves the input images to your ComfyUI output directory."
PREFIX_HELP = (
    "The prefix for the file to save. This may include formatting information such as "
    "%date:yyyy-MM-dd% or %Empty Latent Image.width% to include values from nodes."
)


def save_image(context: Context, inputs: Json) -> Result:
    """Write `<prefix>_00001_.png` … into the output directory, the graph in the text chunks."""
    return _save(context, inputs["images"], inputs["filename_prefix"], "output", 4)


def preview_image(context: Context, inputs: Json) -> Result:
    """As save_image, in the temp directory and under a random prefix."""
    return _save(context, inputs["images"], "ComfyUI" + context.temp_prefix, "temp", 1)


def _save(context: Context, images: Any, prefix: str, folder_type: str, level: int) -> Result:
    height, width = images[0].shape[:2]
    place = context.folders.save_place(prefix, folder_type, width, height)
    saved = []
    for number, image in enumerate(images):
        stem = place.stem.replace("%batch_num%", str(number))
        name = f"{stem}_{place.counter + number:05}_.png"
        context.save(
            to_picture(image),
            place.directory / name,
            pnginfo=_text_chunks(context),
            compress_level=level,
        )
        saved.append({"filename": name, "subfolder": place.subfolder, "type": folder_type})
    return Result(ui={"images": saved})


def _text_chunks(context: Context) -> PngInfo:
    """The graph as `prompt` and what the client sent as `extra_pnginfo`, such as `workflow`."""
    chunks = PngInfo()
    chunks.add_text("prompt", json.dumps(context.graph))
    for key, value in (context.extra_pnginfo or {}).items():
        chunks.add_text(key, json.dumps(value))
    return chunks


def save_image_websocket(context: Context, inputs: Json) -> Result:
    """Send each picture as a binary frame; there is no file and no `executed`
    (PROTOCOL.md trap 10)."""
    images = inputs["images"]
    for step, image in enumerate(images):
        context.progress(step, len(images), to_picture(image))
    return Result()


def never_the_same(_folders: Folders, _inputs: Json) -> object:
    """A fingerprint that differs each time, so that no prompt gets its frames from the cache."""
    return time.time()


OUTPUTS = (
    NodeClass(
        name="SaveImage",
        entry=entry(
            "SaveImage",
            "Save Image",
            category="image",
            inputs={},
            input={
                "required": {
                    "images": ["IMAGE", {"tooltip": "The images to save."}],
                    "filename_prefix": ["STRING", {"default": "ComfyUI", "tooltip": PREFIX_HELP}],
                },
                "hidden": HIDDEN,
            },
            input_order={"required": ["images", "filename_prefix"], "hidden": list(HIDDEN)},
            description=DESCRIPTION,
            output_node=True,
        ),
        run=save_image,
    ),
    NodeClass(
        name="PreviewImage",
        entry=entry(
            "PreviewImage",
            "Preview Image",
            category="image",
            inputs={},
            input={"required": {"images": ["IMAGE"]}, "hidden": HIDDEN},
            input_order={"required": ["images"], "hidden": list(HIDDEN)},
            description=DESCRIPTION,
            output_node=True,
        ),
        run=preview_image,
    ),
    NodeClass(
        name="SaveImageWebsocket",
        entry=entry(
            "SaveImageWebsocket",
            "SaveImageWebsocket",
            category="api/image",
            module="custom_nodes.websocket_image_save",
            inputs={"images": ["IMAGE"]},
            output_node=True,
        ),
        run=save_image_websocket,
        fingerprint=never_the_same,
    ),
)
