"""A proxy with a STATE_FILE, in front of two workers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from restarting import Restarting

from comfy_proxy.embedded.worker import EmbeddedWorker


@pytest.fixture
async def proxy(
    workers: tuple[EmbeddedWorker, EmbeddedWorker],
    start_proxy: Callable[..., Any],
    tmp_path: Path,
) -> Restarting:
    """Not started yet."""
    return Restarting(start_proxy, workers, tmp_path)
