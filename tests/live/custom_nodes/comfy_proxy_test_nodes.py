"""Custom nodes for the real ComfyUI of `scripts/live-comfyui`: instruments of tests.

`InspyrenetRembg` has the interface of the node of that name in the field and a deterministic
mask instead of a network; `TimedPass` occupies the worker for a given time with a progress bar;
`FailNode` fails as a GPU that ran out of memory does.
"""

import time

import comfy.utils
import torch


class InspyrenetRembg:
    """RGB in; RGBA and the mask (1 = foreground) out: bright or central pixels are foreground."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 (ComfyUI's name)
        return {"required": {"image": ("IMAGE",), "torchscript_jit": (["default", "on"],)}}

    RETURN_TYPES = ("IMAGE", "MASK")
    FUNCTION = "remove_background"
    CATEGORY = "image"

    def remove_background(self, image, torchscript_jit):
        luminance = (image[..., :3] * torch.tensor([0.299, 0.587, 0.114])).sum(dim=-1)
        rows = torch.linspace(-1.0, 1.0, image.shape[1])[:, None]
        columns = torch.linspace(-1.0, 1.0, image.shape[2])[None, :]
        central = (rows**2 + columns**2) < 0.5
        mask = (central[None] | (luminance > 0.9)).to(image.dtype)
        return torch.cat((image[..., :3], mask[..., None]), dim=-1), mask


class TimedPass:
    """Hands the picture through after `seconds`; a new `salt` defeats the cache."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {
            "required": {
                "image": ("IMAGE",),
                "seconds": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 3600.0, "step": 0.01}),
                "salt": ("INT", {"default": 0, "min": 0, "max": 2**53}),
            }
        }

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "wait"
    CATEGORY = "testing"

    def wait(self, image, seconds, salt):
        steps = max(1, int(seconds / 0.05))
        progress = comfy.utils.ProgressBar(steps)
        start = time.monotonic()
        for step in range(1, steps + 1):
            time.sleep(max(0.0, start + seconds * step / steps - time.monotonic()))
            progress.update(1)  # raises when the prompt was interrupted
        return (image,)


class FailNode:
    """Always raises RuntimeError, with the words of a GPU that is full."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {
            "required": {
                "image": ("IMAGE",),
                "salt": ("INT", {"default": 0, "min": 0, "max": 2**53}),
            }
        }

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "fail"
    CATEGORY = "testing"

    def fail(self, image, salt):
        raise RuntimeError("CUDA out of memory (simulated)")


NODE_CLASS_MAPPINGS = {
    "InspyrenetRembg": InspyrenetRembg,
    "TimedPass": TimedPass,
    "FailNode": FailNode,
}
