"""A document like that of a ComfyUI with hundreds of custom node packs: 10 MB and 6,000 classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).parents[2] / "shared" / "comfyui" / "object_info.json"
"""What a real ComfyUI answered."""
CLASSES = 6_000
BYTES = 10_000_000


def recorded() -> dict[str, Any]:
    """Its classes by name; a few of the kinds that matter where the recording is not there."""
    if RECORDED.exists():
        document: dict[str, Any] = json.loads(RECORDED.read_bytes())
        return document
    samplers: list[Any] = [["euler", "dpmpp_2m", "ddim"], {"tooltip": "The algorithm."}]
    picture: list[Any] = [["a.png", "b.png"], {"image_upload": True}]
    limits = {"min": -0xFFFFFFFFFFFFFFFF, "max": float("inf"), "default": 0}
    return {
        "KSampler": {"input": {"required": {"sampler_name": samplers, "seed": ["INT", limits]}}},
        "LoadImage": {"input": {"required": {"image": picture}}, "output": ["IMAGE", "MASK"]},
        "Folder": {"input": {"optional": {"folder": ["COMBO", {"options": ["3d", "set1"]}]}}},
    }


def large_object_info(revision: int = 0, *, classes: int = CLASSES, size: int = BYTES) -> bytes:
    """The recorded classes again and again under other names, as ComfyUI writes them.

    ``revision`` shows in one class of a hundred, as a model file that has come.
    """
    templates = list(recorded().items())
    document: dict[str, Any] = {}
    for number in range(classes):
        name, info = templates[number % len(templates)]
        pack = number // len(templates)
        document[f"{name} (pack {pack})" if pack else name] = dict(info)
    short = size - len(json.dumps(document))
    for number, info in enumerate(document.values()):
        info["description"] = "x" * max(short // classes - 20, 0)
        if number % 100 == 0:
            files = [f"model {revision}.safetensors", "other.safetensors"]
            info["input"] = {"required": {"model": [files, {}]}}
    return json.dumps(document).encode()
