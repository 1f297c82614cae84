"""ComfyUI's `common_upscale` with Pillow and OpenCV in the place of torch."""

import cv2
import numpy as np
from PIL import Image

from comfy_proxy.embedded.nodes.node_class import Pixels

METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]
# torch interpolates without antialiasing and with half-pixel centres, as OpenCV does; their
# bicubic kernels are the same (a = -0.75).
OPENCV_METHODS = {
    "nearest-exact": cv2.INTER_NEAREST_EXACT,
    "bilinear": cv2.INTER_LINEAR,
    "area": cv2.INTER_AREA,
    "bicubic": cv2.INTER_CUBIC,
}


def resize(images: Pixels, width: int, height: int, method: str) -> Pixels:
    """Resize a batch [B,H,W,C]; lanczos is Pillow's in 8 bits, bit for bit as in ComfyUI."""
    if method == "lanczos":
        return np.stack([_lanczos(image, width, height) for image in images])
    flag = OPENCV_METHODS[method]
    scaled = [cv2.resize(image, (width, height), interpolation=flag) for image in images]
    return np.stack([np.asarray(one, np.float32) for one in scaled]).reshape(
        len(images), height, width, images.shape[3]
    )


def _lanczos(image: Pixels, width: int, height: int) -> Pixels:
    scaled = to_picture(image).resize((width, height), resample=Image.Resampling.LANCZOS)
    pixels = np.asarray(scaled).astype(np.float32) / np.float32(255.0)
    return pixels.reshape(height, width, image.shape[2])


def resize_masks(masks: Pixels, width: int, height: int) -> Pixels:
    """Resize masks [B,H,W] bilinearly, as `JoinImageWithAlpha` does."""
    if masks.shape[1:] == (height, width):
        return masks
    return resize(masks[..., None], width, height, "bilinear")[..., 0]


def centre_crop(images: Pixels, width: int, height: int) -> Pixels:
    """The largest middle part of the pictures with the proportions of width × height."""
    old_height, old_width = images.shape[1:3]
    old, new = old_width / old_height, width / height
    x = round((old_width - old_width * (new / old)) / 2) if old > new else 0
    y = round((old_height - old_height * (old / new)) / 2) if old < new else 0
    return images[:, y : old_height - y, x : old_width - x]


def to_picture(image: Pixels) -> Image.Image:
    """One image [H,W,C] as an 8-bit picture; truncated, not rounded, as ComfyUI does it."""
    levels = np.clip(255.0 * image, 0, 255).astype(np.uint8)
    return Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels)
