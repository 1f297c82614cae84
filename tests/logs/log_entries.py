"""Entries for the tests of the logs, and what became of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from comfy_proxy.logs.entry import Entry


def entry(message: str = "hello", **changes: Any) -> Entry:
    values = {"time_s": 0.0, "level": "info", "logger": "comfy_proxy.test", **changes}
    return Entry(message=message, **values)


def lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
