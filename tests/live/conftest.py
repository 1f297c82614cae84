"""Finds the two real ComfyUI servers that `scripts/live-comfyui` has started."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "protocol"))


def _url(number: int) -> str:
    url = os.environ.get(f"COMFY_LIVE_{number}")
    if not url:
        pytest.skip(f"COMFY_LIVE_{number} is not set: run scripts/live-comfyui")
    return url


@pytest.fixture(scope="session")
def live_urls() -> tuple[str, str]:
    """The URLs of both servers; without them the test is skipped."""
    return _url(1), _url(2)


@pytest.fixture(scope="session")
def live_directories(live_urls: tuple[str, str]) -> tuple[Path, Path]:
    """Their base directories: `server.pid` to kill one, `start` to start it again."""
    return Path(os.environ["COMFY_LIVE_DIR_1"]), Path(os.environ["COMFY_LIVE_DIR_2"])


@pytest.fixture(autouse=True)
def _no_inputs_left() -> Iterator[None]:
    """What a test uploads is gone after it: others compare what LoadImage offers."""
    bases = [
        os.environ[name] for name in ("COMFY_LIVE_DIR_1", "COMFY_LIVE_DIR_2") if name in os.environ
    ]
    inputs = [Path(base, "input") for base in bases]
    before = [set(folder.iterdir()) for folder in inputs]
    yield
    for folder, known in zip(inputs, before, strict=True):
        for file in set(folder.iterdir()) - known:
            if file.is_file():
                file.unlink(missing_ok=True)
