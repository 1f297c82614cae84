"""Results as a job has them."""

from __future__ import annotations

from typing import Any

from comfy_proxy.jobs.results.result_file import ResultFile, Results
from comfy_proxy.stored_bytes import StoredBytes


def stored(data: bytes) -> StoredBytes:
    """``data``, written and hashed at once: tests make results outside of an event loop too."""
    made = StoredBytes(memory_bytes=len(data))
    made._batch += data
    made._hash.update(data)
    made.size = len(data)
    return made


def result(data: bytes = b"bytes", **values: Any) -> ResultFile:
    """One picture, unless ``values`` say otherwise."""
    known = {"type": "image", "name": "made.png", "media_type": "image/png", "width": 3}
    return ResultFile(**{**known, "height": 2, **values, "body": stored(data)})


def results(data: bytes = b"bytes", **values: Any) -> Results:
    """A job's only result."""
    return (result(data, **values),)
