"""ComfyUI's `common_upscale` with Pillow and OpenCV in the place of torch."""

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from comfy_proxy.embedded.nodes.node_class import Pixels

METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]
# torch interpolates without antialiasing and with half-pixel centres, as OpenCV does; their
# bicubic kernels are the same (a = -0.75). What is left is the last bit of a float.
OPENCV_METHODS = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}


def resize(images: Pixels, width: int, height: int, method: str) -> Pixels:
    """Resize a batch [B,H,W,C]; lanczos is Pillow's in 8 bits, bit for bit as in ComfyUI."""
    if method == "nearest-exact":
        rows, columns = _nearest(images.shape[1], height), _nearest(images.shape[2], width)
        return images[:, rows][:, :, columns]
    if method == "area":
        return _averaged(_averaged(images, 1, height), 2, width)
    one = _lanczos if method == "lanczos" else _interpolated
    shape = (len(images), height, width, images.shape[3])
    return np.stack([one(image, width, height, method) for image in images]).reshape(shape)


def _nearest(old: int, new: int) -> NDArray[np.intp]:
    """For each new index the old one whose pixel covers its centre."""
    positions = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * np.float32(old / new)
    return np.minimum(positions.astype(np.intp), old - 1)


def _averaged(images: Pixels, axis: int, new: int) -> Pixels:
    """Means along one axis over the (overlapping) windows of adaptive average pooling."""
    old = images.shape[axis]
    windows = [slice(i * old // new, -((i + 1) * old // -new)) for i in range(new)]
    moved = np.moveaxis(images, axis, 0)
    return np.moveaxis(np.stack([moved[window].mean(axis=0) for window in windows]), 0, axis)


def _interpolated(image: Pixels, width: int, height: int, method: str) -> Pixels:
    scaled = cv2.resize(image, (width, height), interpolation=OPENCV_METHODS[method])
    return np.asarray(scaled, np.float32)


def _lanczos(image: Pixels, width: int, height: int, _method: str) -> Pixels:
    scaled = to_picture(image).resize((width, height), resample=Image.Resampling.LANCZOS)
    return np.asarray(scaled).astype(np.float32) / np.float32(255.0)


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
