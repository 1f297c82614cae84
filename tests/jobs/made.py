"""Results as a job has them."""

from __future__ import annotations

from typing import Any

from comfy_proxy.jobs.result_file import ResultFile, Results
from comfy_proxy.stored_bytes import StoredBytes


def result(data: bytes = b"bytes", **values: Any) -> ResultFile:
    """One picture, unless ``values`` say otherwise."""
    known = {"type": "image", "name": "made.png", "media_type": "image/png", "width": 3}
    return ResultFile(**{**known, "height": 2, **values, "body": StoredBytes.of(data)})


def results(data: bytes = b"bytes", **values: Any) -> Results:
    """A job's only result."""
    return (result(data, **values),)
