"""Errors of ours in the contract's form."""

from __future__ import annotations

import json

import pytest
from aiohttp import web

from comfy_proxy.comfy_api.errors import in_contract_form
from comfy_proxy.lenient_json import dumps


@pytest.mark.parametrize(
    ("ours", "status", "code", "told"),
    [
        ("queue_full", 503, "queue_full", 429),
        ("no_instance", 503, "upstream_unreachable", 503),
        ("instance_timeout", 504, "upstream_error", 504),
        ("internal_error", 500, "upstream_error", 500),
        ("idempotency_key_reused", 422, "idempotency_key_reuse", 422),
        ("invalid_parameter", 400, "invalid_request", 400),
        ("draining", 503, "draining", 503),
    ],
)
def test_codes_are_the_contracts_where_it_has_one(
    ours: str, status: int, code: str, told: int
) -> None:
    """A full queue is 429, for which alone the SDKs wait; ``Retry-After`` stays."""
    body = {"error": "Why.", "code": ours, "details": {"a": 1}, "request_id": "r"}
    answer = web.Response(status=status, body=dumps(body), headers={"Retry-After": "7"})
    shown = in_contract_form(answer)
    assert isinstance(shown.body, bytes)
    assert json.loads(shown.body) == {
        "error": {"code": code, "message": "Why.", "details": {"a": 1}}
    }
    assert shown.status == told
    assert shown.headers["Retry-After"] == "7"
    assert shown.headers["X-Comfy-Request-Id"] == "r"
