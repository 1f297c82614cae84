"""A workflow whose jobs take a given time: for the benchmark of jobs, and for chaos runs."""

from __future__ import annotations

import json
from pathlib import Path

TIMED = {
    "title": "Timed",
    "description": "Passes the picture on after a fixed time.",
    "parameters": {
        "seconds": {"type": "number", "minimum": 0, "maximum": 60, "default": 0.2},
        "salt": {"type": "integer", "minimum": 0, "maximum": 2**31, "default": 0},
    },
    "scale": 1,
    "variants": [
        {
            "name": "timed",
            "graph": {
                "1": {"class_type": "LoadImage", "inputs": {"image": "picture.png"}},
                "2": {
                    "class_type": "TimedPass",
                    "inputs": {"image": ["1", 0], "seconds": 0.2, "salt": 0},
                },
            },
            "bind": {"1.image": "$picture", "2.seconds": "$seconds", "2.salt": "$salt"},
            "output": ["2", 0],
        }
    ],
}


def write_workflows(folder: Path) -> None:
    """Make ``folder``, for WORKFLOW_DIRECTORY, with the workflow ``timed`` in it."""
    folder.mkdir()
    (folder / "timed.json").write_text(json.dumps(TIMED))
