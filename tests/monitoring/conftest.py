"""Two workers in processes of their own (scripts/test-monitoring installs Prometheus)."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from comfy_proxy.embedded.process import WorkerProcess


@pytest.fixture(autouse=True)
def _installed() -> None:
    """Without Debian's package there is nothing to test with."""
    for tool in ("prometheus", "promtool"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: run scripts/test-monitoring")


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[WorkerProcess, WorkerProcess]]:
    """Two instances to be killed."""
    async with AsyncExitStack() as stack:
        one, two = [
            await stack.enter_async_context(
                WorkerProcess(base_directory=tmp_path / name, name=name, test_nodes=True)
            )
            for name in ("one", "two")
        ]
        yield one, two
