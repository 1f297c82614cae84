"""Two instances without a server, and the cache over them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from manual_clock import ManualClock
from object_info_harness import Setting


@pytest.fixture
async def one(clock: ManualClock) -> AsyncIterator[Setting]:
    setting = Setting(clock)
    yield setting
    await setting.cache.close()
