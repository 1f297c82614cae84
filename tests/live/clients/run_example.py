"""Run one of ComfyUI's own example scripts and keep the pictures that it ends with.

    python run_example.py SCRIPT DIRECTORY

The examples show their pictures in lines that are commented out; what they have collected in
``images`` (node id → bytes of each picture) goes to DIRECTORY as ``<node id>-<number>.png``.
"""

import runpy
import sys
from pathlib import Path

ends_with = runpy.run_path(sys.argv[1], run_name="__main__")
for node_id, pictures in ends_with.get("images", {}).items():
    for number, picture in enumerate(pictures):
        Path(sys.argv[2], f"{node_id}-{number}.png").write_bytes(picture)
