"""A page of assets is written again as JSON, whatever is in it."""

from __future__ import annotations

import json
from typing import Any

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


@pytest.mark.long
@pytest.mark.parametrize("more", ["", "x" * LONG_BYTES])
@pytest.mark.parametrize("depth", [*range(900, 1_000), 1_500])
async def test_metadata_that_is_very_deep_stays_as_it_came(depth: int, more: str) -> None:
    """It hides no other asset. A client may choose it, and a newer Python writes more than ours;
    what can just be read where a page is may be too deep to be written where the list is."""
    deep = b"[" * depth + b"]" * depth
    odd = b'{"id": "a", "name": "%s", "user_metadata": %s}' % (more.encode(), deep)
    text = b'{"assets": [%s, {"id": "b"}], "total": 2}' % odd
    page = await read_page(Answer(status=200, headers=CIMultiDict(), body=text))
    assert page is not None
    assert [written_deep(50, one) for one in page.assets] == [odd, b'{"id": "b"}']


def written_deep(frames: int, asset: Any) -> bytes:
    """It is written with so many calls around it."""
    return written_deep(frames - 1, asset) if frames else asset_text(asset)
