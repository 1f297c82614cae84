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


@pytest.mark.parametrize("more", ["", "x" * LONG_BYTES])
async def test_metadata_that_is_too_deep_to_be_read_stays_as_it_came(more: str) -> None:
    """It hides no other asset. A client may choose it, and a newer Python writes more than ours."""
    deep = b"[" * 1_500 + b"]" * 1_500
    odd = b'{"id": "a", "name": "%s", "user_metadata": %s}' % (more.encode(), deep)
    text = b'{"assets": [%s, {"id": "b"}], "total": 2}' % odd
    page = await read_page(Answer(status=200, headers=CIMultiDict(), body=text))
    assert page is not None
    assert [asset_text(one) for one in page.assets] == [odd, b'{"id": "b"}']
