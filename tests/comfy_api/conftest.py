"""Fixtures of the Comfy API's tests."""

from __future__ import annotations

import pytest
from prompt_client import Http
from v2_client import V2


@pytest.fixture
def v2(proxy: Http) -> V2:
    """A client of the proxy before both workers."""
    return V2(proxy)
