"""A worker for each test of the protocol."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from scenarios import MODEL

from comfy_proxy.embedded.worker import EmbeddedWorker


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[EmbeddedWorker]:
    """An embedded worker with the nodes and the model that the real servers have."""
    async with EmbeddedWorker(
        base_directory=tmp_path / "worker", test_nodes=True, upscale_models=(MODEL,)
    ) as running:
        yield running
