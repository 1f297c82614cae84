"""Graphs and pictures for the scenarios."""

from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

Json = dict[str, Any]
Graph = dict[str, Json]

INPUT = "rec/in.png"


def node(class_type: str, **inputs: Any) -> Json:
    return {"class_type": class_type, "inputs": inputs}


def load_and(middle: Json, *, output: str = "SaveImage", image: str = INPUT) -> Graph:
    """LoadImage (1) → `middle` (2) → an output node (3)."""
    options = {"filename_prefix": "rec"} if output == "SaveImage" else {}
    return {
        "1": node("LoadImage", image=image),
        "2": middle,
        "3": node(output, images=["2", 0], **options),
    }


def scaled(factor: float, method: str = "bicubic", **more: Any) -> Graph:
    """The picture scaled and saved, as in the recordings."""
    middle = node("ImageScaleBy", image=["1", 0], upscale_method=method, scale_by=factor)
    return load_and(middle, **more)


def timed(seconds: float, salt: int, **more: Any) -> Graph:
    """The picture handed through after some time."""
    return load_and(node("TimedPass", image=["1", 0], seconds=seconds, salt=salt), **more)


def failing(salt: int = 0) -> Graph:
    """A graph whose second node fails."""
    return load_and(node("FailNode", image=["1", 0], salt=salt))


def colour(number: int, *, output: str = "PreviewImage") -> Graph:
    """A small picture of one colour, without any file."""
    options = {"filename_prefix": "colour"} if output == "SaveImage" else {}
    return {
        "1": node("EmptyImage", width=16, height=8, batch_size=1, color=number),
        "2": node(output, images=["1", 0], **options),
    }


def preview(image: str = INPUT) -> Graph:
    """The picture as it is loaded, as a preview."""
    return {"1": node("LoadImage", image=image), "2": node("PreviewImage", images=["1", 0])}


def noise(width: int = 64, height: int = 48, channels: int = 3, seed: int = 7) -> np.ndarray:
    """A picture without any regularity; the same in every process."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (height, width, channels), dtype=np.uint8)


def png(pixels: np.ndarray | None = None, **options: Any) -> bytes:
    return encoded(Image.fromarray(noise() if pixels is None else pixels), "PNG", **options)


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()
