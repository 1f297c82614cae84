"""Nodes from picture to picture: scaling, cropping, batches, inversion."""

import numpy as np

from comfy_proxy.embedded.nodes.node_class import (
    Context,
    Json,
    NodeClass,
    Result,
    entry,
    number,
    size,
)
from comfy_proxy.embedded.nodes.scaling import METHODS, centre_crop, resize

EXTRAS = "comfy_extras.nodes_images"


def image_scale(_context: Context, inputs: Json) -> Result:
    """Scale to width × height in pixels; one 0 keeps the proportions, two return the picture."""
    image, width, height = inputs["image"], inputs["width"], inputs["height"]
    old_height, old_width = image.shape[1:3]
    if not width and not height:
        return Result(outputs=(image,))
    width = width or max(1, round(old_width * height / old_height))
    height = height or max(1, round(old_height * width / old_width))
    if inputs["crop"] == "center":
        image = centre_crop(image, width, height)
    return Result(outputs=(resize(image, width, height, inputs["upscale_method"]),))


def image_scale_by(_context: Context, inputs: Json) -> Result:
    """Scale both sides by one factor."""
    image, factor = inputs["image"], inputs["scale_by"]
    width, height = round(image.shape[2] * factor), round(image.shape[1] * factor)
    return Result(outputs=(resize(image, width, height, inputs["upscale_method"]),))


def image_crop(_context: Context, inputs: Json) -> Result:
    """A rectangle of the picture; what lies beyond its borders is left out."""
    image = inputs["image"]
    x, y = min(inputs["x"], image.shape[2] - 1), min(inputs["y"], image.shape[1] - 1)
    return Result(outputs=(image[:, y : y + inputs["height"], x : x + inputs["width"]],))


def image_from_batch(_context: Context, inputs: Json) -> Result:
    """`length` pictures of a batch from `batch_index` on."""
    image = inputs["image"]
    start = min(len(image) - 1, inputs["batch_index"])
    return Result(outputs=(image[start : start + inputs["length"]],))


def image_invert(_context: Context, inputs: Json) -> Result:
    """1 minus every value."""
    return Result(outputs=(np.float32(1.0) - inputs["image"],))


METHOD_INPUT = [METHODS]
FACTOR_INPUT = ["FLOAT", {"default": 1.0, "min": 0.01, "max": 8.0, "step": 0.01}]

PICTURES = (
    NodeClass(
        name="ImageScale",
        entry=entry(
            "ImageScale",
            "Upscale Image",
            category="image/upscaling",
            inputs={
                "image": ["IMAGE"],
                "upscale_method": METHOD_INPUT,
                "width": size(512),
                "height": size(512),
                "crop": [["disabled", "center"]],
            },
            outputs=("IMAGE",),
        ),
        run=image_scale,
    ),
    NodeClass(
        name="ImageScaleBy",
        entry=entry(
            "ImageScaleBy",
            "Upscale Image By",
            category="image/upscaling",
            inputs={
                "image": ["IMAGE"],
                "upscale_method": METHOD_INPUT,
                "scale_by": FACTOR_INPUT,
            },
            outputs=("IMAGE",),
        ),
        run=image_scale_by,
    ),
    NodeClass(
        name="ImageCrop",
        entry=entry(
            "ImageCrop",
            "Image Crop",
            category="image/transform",
            module=EXTRAS,
            inputs={
                "image": ["IMAGE"],
                "width": size(512, 1),
                "height": size(512, 1),
                "x": size(),
                "y": size(),
            },
            outputs=("IMAGE",),
        ),
        run=image_crop,
    ),
    NodeClass(
        name="ImageFromBatch",
        entry=entry(
            "ImageFromBatch",
            "ImageFromBatch",
            category="image/batch",
            module=EXTRAS,
            inputs={
                "image": ["IMAGE"],
                "batch_index": number(0, 0, 4095),
                "length": number(1, 1, 4096),
            },
            outputs=("IMAGE",),
        ),
        run=image_from_batch,
    ),
    NodeClass(
        name="ImageInvert",
        entry=entry(
            "ImageInvert",
            "Invert Image",
            category="image",
            inputs={"image": ["IMAGE"]},
            outputs=("IMAGE",),
        ),
        run=image_invert,
    ),
)
