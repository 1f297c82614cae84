"""An embedded worker of 2026 answers as a real ComfyUI 0.33.0 did when it was recorded."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from scenarios import read_measured, write_measured
from scenarios_2026 import PLAYED_2026, played_2026

from comfy_proxy.embedded.worker import EmbeddedWorker


@pytest.fixture
async def newer(tmp_path: Path) -> AsyncIterator[EmbeddedWorker]:
    """A worker of 2026 with the nodes that the recorded server had."""
    async with EmbeddedWorker(
        base_directory=tmp_path / "worker", test_nodes=True, of_2026=True
    ) as running:
        yield running


@pytest.mark.parametrize("name", PLAYED_2026)
async def test_the_conversation_of_2026(name: str, newer: EmbeddedWorker) -> None:
    """Flags, job views, ids of prompts and assets are those of the recording."""
    transcript = await played_2026(name, newer.url)
    assert json.loads(json.dumps(transcript)) == read_measured(name)


@pytest.mark.skipif("COMFY_2026" not in os.environ, reason="COMFY_2026 is no server's URL")
@pytest.mark.parametrize("name", PLAYED_2026)
async def test_a_real_server_of_2026_says_the_same(name: str, newer: EmbeddedWorker) -> None:
    """The recording is still true; COMFY_LIVE_RECORD keeps a new one first."""
    real = await played_2026(name, os.environ["COMFY_2026"])
    if os.environ.get("COMFY_LIVE_RECORD"):
        await asyncio.to_thread(write_measured, name, real)
    assert await played_2026(name, newer.url) == real
