"""Template files: an exported graph, a described template with changes, and the directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RAW: dict[str, Any] = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}, "_meta": {"title": "Load"}},
    "2": {"class_type": "ImageScale", "inputs": {"image": ["1", 0], "width": 8}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "mine"}},
}


def described(**changes: Any) -> dict[str, Any]:
    variant = {
        "name": "only",
        "graph": {key: RAW[key] for key in ("1", "2")},
        "bind": {"1.image": "$picture", "2.width": "$side"},
        "output": ["2", 0],
    }
    parameters = {"side": {"type": "integer", "minimum": 1, "default": 64}}
    return {"parameters": parameters, "variants": [variant], **changes}


def with_variant(**changes: Any) -> dict[str, Any]:
    document = described()
    document["variants"][0].update(changes)
    return document


def write(directory: Path, name: str, document: Any) -> None:
    text = document if isinstance(document, str) else json.dumps(document)
    (directory / name).write_text(text, encoding="utf-8")


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}
