"""A page of assets is written again as JSON, whatever is in it."""

from __future__ import annotations

import json

import pytest
from multidict import CIMultiDict

from comfy_proxy.gateway.assets.pages import LONG_BYTES, asset_text, read_page
from comfy_proxy.gateway.exchange.fanout import Answer
from comfy_proxy.json_scanner import MAX_LEAF_BYTES


@pytest.mark.parametrize("name", ["n" * 2 * MAX_LEAF_BYTES, "\ud800", 'q"\\', "id", ""])
async def test_an_odd_name_beside_long_metadata(name: str) -> None:
    """Also one that is too long to be kept while it is looked for."""
    asset = {"id": "a", "user_metadata": {"x": "y" * LONG_BYTES}, name: [1, {}]}
    text = json.dumps({"assets": [asset], "total": 1}).encode()
    page = await read_page(Answer(status=200, headers=CIMultiDict(), body=text))
    assert page is not None
    assert [asset_text(one) for one in page.assets] == [json.dumps(asset).encode()]
