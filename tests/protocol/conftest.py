"""A worker for each test of the protocol."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from comfy_proxy.embedded.worker import EmbeddedWorker


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[EmbeddedWorker]:
    """An embedded worker with the test nodes."""
    async with EmbeddedWorker(base_directory=tmp_path / "worker", test_nodes=True) as running:
        yield running
