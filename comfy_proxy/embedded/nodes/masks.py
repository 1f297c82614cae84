"""Nodes about masks and alpha. A MASK of 1 is transparent where it is joined to a picture."""

import cv2
import numpy as np

from comfy_proxy.embedded.nodes.node_class import (
    MAX_RESOLUTION,
    Context,
    Json,
    NodeClass,
    Result,
    entry,
    number,
    size,
    v3_entry,
)
from comfy_proxy.embedded.nodes.scaling import resize_masks

EXTRAS = "comfy_extras.nodes_mask"
COMPOSITING = "comfy_extras.nodes_compositing"
IMAGE_CHANNELS = ["red", "green", "blue", "alpha"]
SIDES = ("left", "top", "right", "bottom")


def invert_mask(_context: Context, inputs: Json) -> Result:
    """1 minus every value."""
    return Result(outputs=(np.float32(1.0) - inputs["mask"],))


def mask_to_image(_context: Context, inputs: Json) -> Result:
    """The mask as a grey picture of three channels."""
    return Result(outputs=(np.repeat(inputs["mask"][..., None], 3, axis=3),))


def image_to_mask(_context: Context, inputs: Json) -> Result:
    """One channel of a picture; `alpha` of a picture without alpha is an IndexError."""
    return Result(outputs=(inputs["image"][..., IMAGE_CHANNELS.index(inputs["channel"])],))


def join_image_with_alpha(_context: Context, inputs: Json) -> Result:
    """RGB and a mask (1 = transparent), brought to the picture's size, become RGBA."""
    image, mask = inputs["image"], inputs["alpha"]
    alpha = np.float32(1.0) - resize_masks(mask, image.shape[2], image.shape[1])
    count = min(len(image), len(alpha))
    joined = np.concatenate((image[:count, ..., :3], alpha[:count, ..., None]), axis=3)
    return Result(outputs=(joined,))


def split_image_with_alpha(_context: Context, inputs: Json) -> Result:
    """RGB and the mask of what was transparent; all opaque without an alpha channel."""
    image = inputs["image"]
    alpha = image[..., 3] if image.shape[3] > 3 else np.ones_like(image[..., 0])
    return Result(outputs=(image[..., :3], np.float32(1.0) - alpha))


def grow_mask(_context: Context, inputs: Json) -> Result:
    """Grow (or with a negative `expand` shrink) the mask by so many pixels."""
    shape = cv2.MORPH_CROSS if inputs["tapered_corners"] else cv2.MORPH_RECT
    kernel = cv2.getStructuringElement(shape, (3, 3))
    morph = cv2.dilate if inputs["expand"] > 0 else cv2.erode
    steps = abs(inputs["expand"])
    grown = [morph(mask, kernel, iterations=steps) for mask in inputs["mask"]]
    return Result(outputs=(np.stack(grown).astype(np.float32),))


def feather_mask(_context: Context, inputs: Json) -> Result:
    """Fade the mask towards its four borders over so many pixels."""
    mask = inputs["mask"].copy()
    for axis, first, last in ((2, "left", "right"), (1, "top", "bottom")):
        length = mask.shape[axis]
        lead, tail = min(inputs[first], length), min(inputs[last], length)
        ramp = np.ones(length, np.float32)
        ramp[:lead] *= np.arange(1, lead + 1, dtype=np.float32) / max(lead, 1)
        # ComfyUI indexes the far border with -x for x from 0: its first step fades index 0.
        for step in range(tail):
            ramp[-step] *= (step + 1) / tail
        mask *= ramp[None, None, :] if axis == 2 else ramp[None, :, None]
    return Result(outputs=(mask,))


def _mask_entry(name: str, title: str, inputs: Json, output: str = "MASK") -> Json:
    return entry(name, title, category="mask", module=EXTRAS, inputs=inputs, outputs=(output,))


def _compositing_entry(name: str, title: str, outputs: tuple[str, ...], **inputs: str) -> Json:
    declared = {key: [kind, {}] for key, kind in inputs.items()}
    return v3_entry(
        name,
        title,
        category="mask/compositing",
        module=COMPOSITING,
        inputs=declared,
        outputs=outputs,
    )


MASKS = (
    NodeClass(
        name="InvertMask",
        entry=_mask_entry("InvertMask", "InvertMask", {"mask": ["MASK"]}),
        run=invert_mask,
    ),
    NodeClass(
        name="MaskToImage",
        entry=_mask_entry("MaskToImage", "Convert Mask to Image", {"mask": ["MASK"]}, "IMAGE"),
        run=mask_to_image,
    ),
    NodeClass(
        name="ImageToMask",
        entry=_mask_entry(
            "ImageToMask",
            "Convert Image to Mask",
            {"image": ["IMAGE"], "channel": [IMAGE_CHANNELS]},
        ),
        run=image_to_mask,
    ),
    NodeClass(
        name="GrowMask",
        entry=_mask_entry(
            "GrowMask",
            "GrowMask",
            {
                "mask": ["MASK"],
                "expand": number(0, -MAX_RESOLUTION, MAX_RESOLUTION, step=1),
                "tapered_corners": ["BOOLEAN", {"default": True}],
            },
        ),
        run=grow_mask,
    ),
    NodeClass(
        name="FeatherMask",
        entry=_mask_entry(
            "FeatherMask", "FeatherMask", {"mask": ["MASK"]} | {side: size() for side in SIDES}
        ),
        run=feather_mask,
    ),
    NodeClass(
        name="JoinImageWithAlpha",
        entry=_compositing_entry(
            "JoinImageWithAlpha",
            "Join Image with Alpha",
            ("IMAGE",),
            image="IMAGE",
            alpha="MASK",
        ),
        run=join_image_with_alpha,
    ),
    NodeClass(
        name="SplitImageWithAlpha",
        entry=_compositing_entry(
            "SplitImageWithAlpha", "Split Image with Alpha", ("IMAGE", "MASK"), image="IMAGE"
        ),
        run=split_image_with_alpha,
    ),
)
