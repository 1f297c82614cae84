"""Two real ComfyUI servers and an embedded worker in the same conversation: no difference."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from scenarios import MEASURED, MODEL, SCENARIOS, played, write_measured

from comfy_proxy.embedded.worker import EmbeddedWorker


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[EmbeddedWorker]:
    """An embedded worker with the nodes and the model that the real servers have."""
    async with EmbeddedWorker(
        base_directory=tmp_path / "worker", test_nodes=True, upscale_models=(MODEL,)
    ) as running:
        yield running


@pytest.mark.parametrize("name", SCENARIOS)
async def test_the_worker_is_not_told_apart(
    name: str, live_urls: tuple[str, str], worker: EmbeddedWorker
) -> None:
    """In every scenario the embedded worker says word for word what real servers say."""
    urls = (*live_urls, worker.url)
    first, second, embedded = await asyncio.gather(*(played(name, url) for url in urls))
    if os.environ.get("COMFY_LIVE_RECORD") and name in MEASURED:
        await asyncio.to_thread(write_measured, name, first)
    assert first == second
    assert embedded == first
