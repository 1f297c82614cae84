"""LoadBackgroundRemovalModel and RemoveBackground, the core nodes of 2026, with OpenCV inside."""

import numpy as np

from comfy_proxy.embedded.background import foreground_matte
from comfy_proxy.embedded.nodes.node_class import (
    Context,
    Json,
    NodeClass,
    Result,
    v3_entry,
)

ALGORITHM = "opencv-grabcut"  # where ComfyUI lists model files: a name that says what runs here
RESOLUTION = 1024  # pixels of the longer side at work, as ComfyUI's model has
MODULE = "comfy_extras.nodes_bg_removal"


def load_model(_context: Context, inputs: Json) -> Result:
    """There is nothing to load; the name goes on to RemoveBackground."""
    return Result(outputs=(inputs["bg_removal_name"],))


def remove_background(context: Context, inputs: Json) -> Result:
    """A MASK [B,H,W], 1 = foreground; the bar moves with each GrabCut iteration."""
    images = inputs["image"]
    masks = []
    for index, image in enumerate(images):

        def on_iteration(done: int, total: int, before: int = index) -> None:
            context.progress(before * total + done, len(images) * total)

        levels = np.clip(255.0 * image[..., :3] + 0.5, 0, 255).astype(np.uint8)
        masks.append(foreground_matte(levels, RESOLUTION, on_iteration))
    return Result(outputs=(np.stack(masks),))


BACKGROUND = (
    NodeClass(
        name="LoadBackgroundRemovalModel",
        entry=v3_entry(
            "LoadBackgroundRemovalModel",
            "Load Background Removal Model",
            category="loaders",
            module=MODULE,
            inputs={"bg_removal_name": ["COMBO", {"multiselect": False, "options": [ALGORITHM]}]},
            outputs=("BACKGROUND_REMOVAL",),
        ),
        run=load_model,
    ),
    NodeClass(
        name="RemoveBackground",
        entry=v3_entry(
            "RemoveBackground",
            "Remove Background",
            category="image/background removal",
            module=MODULE,
            inputs={
                "bg_removal_model": ["BACKGROUND_REMOVAL", {}],
                "image": ["IMAGE", {}],
            },
            outputs=("MASK",),
        ),
        run=remove_background,
    ),
)
