"""Nodes that bring pictures in: LoadImage, LoadImageMask, EmptyImage."""

import hashlib
from typing import Any

import numpy as np
from PIL import Image, ImageOps, ImageSequence

from comfy_proxy.embedded.folders import Folders
from comfy_proxy.embedded.nodes.node_class import (
    Context,
    Json,
    NodeClass,
    Pixels,
    Result,
    entry,
    number,
    size,
)

CHANNELS = ["alpha", "red", "green", "blue"]


def load_image(context: Context, inputs: Json) -> Result:
    """IMAGE and MASK of a file: a picture for each frame, upright, without alpha
    (PROTOCOL.md trap 26).

    The MASK is the inverted alpha channel, 64×64 zeros without one.
    """
    with Image.open(context.folders.annotated_path(inputs["image"])) as file:
        frames = [_frame(frame) for frame in ImageSequence.Iterator(file)]
        several = file.format != "MPO"  # a camera's second picture is no second frame
    same_size = [frame for frame in frames if frame[0].shape == frames[0][0].shape]
    used = same_size if several else same_size[:1]
    images, masks = zip(*used, strict=True)
    return Result(outputs=(np.stack(images), np.stack(masks)))


def _frame(frame: Image.Image) -> tuple[Pixels, Pixels]:
    frame = _upright(frame)
    image = _unit(frame.convert("RGB"))
    if "A" in frame.getbands():
        return image, 1.0 - _unit(frame.getchannel("A"))
    if frame.mode == "P" and "transparency" in frame.info:
        return image, 1.0 - _unit(frame.convert("RGBA").getchannel("A"))
    return image, np.zeros((64, 64), np.float32)


def _upright(picture: Image.Image) -> Image.Image:
    """EXIF orientation applied, and 16-bit grey brought into 8 bits as ComfyUI does."""
    upright = ImageOps.exif_transpose(picture)
    return upright.point(lambda value: value * (1 / 255)) if upright.mode == "I" else upright


def _unit(picture: Image.Image) -> Pixels:
    return np.asarray(picture).astype(np.float32) / np.float32(255.0)


def load_image_mask(context: Context, inputs: Json) -> Result:
    """One channel of a file as a MASK; `alpha` comes inverted."""
    with Image.open(context.folders.annotated_path(inputs["image"])) as file:
        picture = _upright(file).convert("RGBA")
    channel = inputs["channel"][0].upper()
    values = _unit(picture.getchannel(channel))
    return Result(outputs=((1.0 - values if channel == "A" else values)[None],))


def empty_image(_context: Context, inputs: Json) -> Result:
    """A batch of one colour, given as 0xRRGGBB."""
    colour = [(inputs["color"] >> shift & 0xFF) / 0xFF for shift in (16, 8, 0)]
    shape = (inputs["batch_size"], inputs["height"], inputs["width"], 3)
    return Result(outputs=(np.broadcast_to(np.array(colour, np.float32), shape).copy(),))


def file_fingerprint(folders: Folders, inputs: Json) -> object:
    """SHA-256 of the file: new bytes under an old name are a new picture."""
    return hashlib.sha256(folders.annotated_path(inputs["image"]).read_bytes()).hexdigest()


def file_exists(folders: Folders, name: Any) -> str | None:
    """None if the graph's file is there, else ComfyUI's message."""
    return None if folders.annotated_path(name).exists() else f"Invalid image file: {name}"


FILE_INPUT = [[], {"image_upload": True}]

SOURCES = (
    NodeClass(
        name="LoadImage",
        entry=entry(
            "LoadImage",
            "Load Image",
            category="image",
            inputs={"image": FILE_INPUT},
            outputs=("IMAGE", "MASK"),
        ),
        run=load_image,
        live_enums={"image": lambda folders: folders.input_names(pictures_only=True)},
        fingerprint=file_fingerprint,
        validate={"image": file_exists},
    ),
    NodeClass(
        name="LoadImageMask",
        entry=entry(
            "LoadImageMask",
            "Load Image (as Mask)",
            category="mask",
            inputs={"image": FILE_INPUT, "channel": [CHANNELS]},
            outputs=("MASK",),
        ),
        run=load_image_mask,
        live_enums={"image": lambda folders: folders.input_names(pictures_only=False)},
        fingerprint=file_fingerprint,
        validate={"image": file_exists},
    ),
    NodeClass(
        name="EmptyImage",
        entry=entry(
            "EmptyImage",
            "EmptyImage",
            category="image",
            inputs={
                "width": size(512, 1),
                "height": size(512, 1),
                "batch_size": number(1, 1, 4096),
                "color": number(0, 0, 0xFFFFFF, step=1, display="color"),
            },
            outputs=("IMAGE",),
        ),
        run=empty_image,
    ),
)
