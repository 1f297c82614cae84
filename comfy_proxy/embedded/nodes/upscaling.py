"""UpscaleModelLoader and ImageUpscaleWithModel, for the names of models a test configures."""

from collections.abc import Sequence

from comfy_proxy.embedded.nodes.node_class import (
    Context,
    Json,
    NodeClass,
    Pixels,
    Result,
    v3_entry,
)
from comfy_proxy.embedded.nodes.scaling import resize

MODULE = "comfy_extras.nodes_upscale_model"
FACTOR = 4


def upscaling(models: Sequence[str]) -> tuple[NodeClass, ...]:
    """Both classes; the loader's enum holds `models` (usually none: no model is run here)."""

    def load_model(_context: Context, inputs: Json) -> Result:
        name = inputs["model_name"]
        if name not in models:
            raise FileNotFoundError(
                f"Model in folder 'upscale_models' with filename '{name}' not found."
            )
        return Result(outputs=(name,))

    return (
        NodeClass(
            name="UpscaleModelLoader",
            entry=v3_entry(
                "UpscaleModelLoader",
                "Load Upscale Model",
                category="loaders",
                module=MODULE,
                inputs={"model_name": ["COMBO", {"multiselect": False, "options": list(models)}]},
                outputs=("UPSCALE_MODEL",),
            ),
            run=load_model,
        ),
        NodeClass(
            name="ImageUpscaleWithModel",
            entry=v3_entry(
                "ImageUpscaleWithModel",
                "Upscale Image (using Model)",
                category="image/upscaling",
                module=MODULE,
                inputs={"upscale_model": ["UPSCALE_MODEL", {}], "image": ["IMAGE", {}]},
                outputs=("IMAGE",),
            ),
            run=upscale_with_model,
        ),
    )


def upscale_with_model(context: Context, inputs: Json) -> Result:
    """Four times the size by Lanczos, whichever model is named."""
    image: Pixels = inputs["image"][..., :3]
    scaled = resize(image, image.shape[2] * FACTOR, image.shape[1] * FACTOR, "lanczos")
    context.progress(1, 1)
    return Result(outputs=(scaled,))
