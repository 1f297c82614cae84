"""A custom node that tells the tests how often a model was read from the disk.

Many node packs keep the model that they used last in memory themselves, and so does this one. It
writes the name of each file that it reads as a line into `loads.txt` in the base directory: what
ComfyUI tells of its cache says which nodes ran, and not what they had to load.
"""

import os

import folder_paths
from comfy_extras.nodes_upscale_model import UpscaleModelLoader

LOADS = os.path.join(folder_paths.base_path, "loads.txt")
held = {}
"""The one model in memory, by its name."""


class CountedModelLoader:
    """ComfyUI's own UpscaleModelLoader, for a model that is not the one in memory."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 (ComfyUI's name)
        return {"required": {"model_name": (folder_paths.get_filename_list("upscale_models"),)}}

    RETURN_TYPES = ("UPSCALE_MODEL",)
    FUNCTION = "load"
    CATEGORY = "testing"

    def load(self, model_name):
        if model_name not in held:
            held.clear()
            held[model_name] = UpscaleModelLoader.execute(model_name).args[0]
            with open(LOADS, "a", encoding="utf-8") as file:
                file.write(f"{model_name}\n")
        return (held[model_name],)


NODE_CLASS_MAPPINGS = {"CountedModelLoader": CountedModelLoader}
