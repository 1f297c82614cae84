"""Reads binary frames: type 1 (preview) and type 4 (preview with metadata)."""

import json
import struct
from typing import Any

IMAGE_TYPES = {1: "image/jpeg", 2: "image/png"}


def parse_frame(data: bytes) -> dict[str, Any]:
    """The kind, the metadata and the picture's size; only the frame's beginning is needed."""
    kind, second = struct.unpack_from(">II", data)
    metadata = json.loads(data[8 : 8 + second]) if kind == 4 else None
    image = data[8 + second :] if kind == 4 else data[8:]
    width, height = struct.unpack_from(">II", image, 16)  # PNG: the header chunk comes first
    return {
        "type": f"binary {kind}",
        "data": {
            "metadata": metadata,
            "image_type": IMAGE_TYPES[second] if kind == 1 else None,
            "size": [width, height],
        },
    }
