"""A record of a request that was answered, for tests of who is told of it."""

from __future__ import annotations

from typing import Any

from comfy_proxy.metrics.records import RequestRecord


def request_record(**changes: Any) -> RequestRecord:
    """One of a picture that was looked at; ``changes`` by field."""
    record = {
        "method": "GET", "path": "/view", "policy": "owner_by_file", "status": 200,
        "duration_s": 0.02, "first_byte_s": 0.01, "received_bytes": 10, "sent_bytes": 1000,
        "user_agent": "curl", "client": "127.0.0.1", "instance": "gpu:8188", "request_id": "r",
    }  # fmt: skip
    return RequestRecord(**{**record, **changes})
