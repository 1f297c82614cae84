"""Policies that are answered row by row: each row of the table has its method, none is idle."""

from __future__ import annotations

import pytest
from rooms_harness import gateway_over

from comfy_proxy.gateway.routes import TABLE, Policy


@pytest.mark.parametrize(
    ("policy", "part"), [(Policy.MERGED, "merged"), (Policy.OWNER_BY_PROMPT, "by_prompt")]
)
async def test_each_row_has_a_method(policy: Policy, part: str) -> None:
    """Otherwise its requests would end with an internal error."""
    async with gateway_over("http://127.0.0.1:1", "http://127.0.0.1:2") as gateway:
        patterns = getattr(gateway, part).patterns
    assert patterns == {row.pattern for row in TABLE if row.policy is policy}
