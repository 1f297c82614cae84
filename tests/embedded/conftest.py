"""A worker and a client of it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from worker_client import Client

from comfy_proxy.embedded.worker import EmbeddedWorker


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[EmbeddedWorker]:
    """A running worker with the test nodes."""
    async with EmbeddedWorker(base_directory=tmp_path / "worker", test_nodes=True) as running:
        yield running


@pytest.fixture
async def client(worker: EmbeddedWorker) -> AsyncIterator[Client]:
    """A client of that worker, its socket open."""
    client = Client(worker.url)
    yield await client.connect()
    await client.close()
