"""Pictures and workflows whose result is known to the pixel."""

from __future__ import annotations

import itertools
import secrets
from pathlib import Path
from typing import Any

from PIL import Image

SIZE = (64, 48)
_fresh = itertools.count(secrets.randbelow(1 << 40))


def fresh() -> int:
    """A number that no earlier prompt had: nothing comes from a cache."""
    return next(_fresh)


def quarters() -> Image.Image:
    """Four areas of different colours, unlike any earlier picture."""
    small = Image.frombytes("RGB", (2, 2), secrets.token_bytes(12))
    return small.resize(SIZE, Image.Resampling.NEAREST)


def saved(picture: Image.Image, path: Path) -> Path:
    """A PNG. The page takes no notice of a path that was chosen just before: use new ones."""
    path.parent.mkdir(exist_ok=True)
    picture.save(path)
    return path


def enlarged(picture: Image.Image, scale: int) -> dict[str, Any]:
    """What ``Frontend.picture`` shows of the result."""
    large = picture.resize((SIZE[0] * scale, SIZE[1] * scale), Image.Resampling.NEAREST)
    return {"width": large.width, "height": large.height, "pixels": list(large.tobytes())}


def timed_graph(seconds: float) -> dict[str, Any]:
    """LoadImage → ImageScaleBy → TimedPass → SaveImage; which picture is the page's choice."""
    scale = {"image": ["1", 0], "upscale_method": "nearest-exact", "scale_by": 2.0}
    timed = {"image": ["2", 0], "seconds": seconds, "salt": 0}
    save = {"images": ["3", 0], "filename_prefix": "ComfyUI"}
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
        "2": {"class_type": "ImageScaleBy", "inputs": scale},
        "3": {"class_type": "TimedPass", "inputs": timed},
        "4": {"class_type": "SaveImage", "inputs": save},
    }
