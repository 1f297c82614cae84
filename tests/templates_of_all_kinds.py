"""Workflows without a file, with two files, and with several results, of nodes that the embedded
workers have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

EMPTY = {"width": 8, "height": 6, "batch_size": 1, "color": 0}
DRAWN: dict[str, Any] = {
    "title": "Drawn",
    "parameters": {
        "color": {"type": "integer", "required": True},
        "pictures": {"type": "integer", "default": 1, "minimum": 1, "maximum": 9},
    },
    "variants": [
        {
            "name": "only",
            "graph": {"1": {"class_type": "EmptyImage", "inputs": EMPTY}},
            "bind": {"1.color": "$color", "1.batch_size": "$pictures"},
            "output": ["1", 0],
        }
    ],
}
MASKED: dict[str, Any] = {
    "title": "Masked",
    "parameters": {
        "photo": {"type": "file", "kind": "image"},
        "mask": {"type": "file", "kind": "mask"},
    },
    "variants": [
        {
            "name": "only",
            "graph": {
                "1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}},
                "2": {"class_type": "LoadImageMask",
                      "inputs": {"image": "x.png", "channel": "red"}},
                "3": {"class_type": "JoinImageWithAlpha",
                      "inputs": {"image": ["1", 0], "alpha": ["2", 0]}},
            },
            "bind": {"1.image": "$photo", "2.image": "$mask"},
            "output": ["3", 0],
        }
    ],
}  # fmt: skip


def write(directory: Path) -> Path:
    """``drawn`` and ``masked``."""
    for name, document in (("drawn", DRAWN), ("masked", MASKED)):
        (directory / f"{name}.json").write_text(json.dumps(document))
    return directory
