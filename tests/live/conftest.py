"""Finds the two real ComfyUI servers to test against, and says which version they are.

They are those that `COMFY_LIVE_1` and `COMFY_LIVE_2` name, whoever has started them and whatever
their version is; `scripts/live-comfyui` starts two and sets all variables. A test that needs more
of a server than its address (its directory, the nodes in `custom_nodes`) is skipped without that.
"""

import json
import os
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

for room in ("protocol", "gateway"):
    sys.path.insert(0, str(Path(__file__).parents[1] / room))

MET = pytest.StashKey[list[str]]()
"""The version and the address of each server."""


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
    """Their base directories: `server.pid` to kill one, `start` to start it again.

    Without them the test is skipped: the servers may be on other machines.
    """
    names = ("COMFY_LIVE_DIR_1", "COMFY_LIVE_DIR_2")
    if missing := [name for name in names if not os.environ.get(name)]:
        pytest.skip(f"{missing[0]} is not set: the directories of these servers are not known")
    return Path(os.environ[names[0]]), Path(os.environ[names[1]])


@pytest.fixture(scope="session", autouse=True)
def live_versions(request: pytest.FixtureRequest) -> None:
    """Learns which version each server is, for the line at the end of the run."""
    urls = [url for number in (1, 2) if (url := os.environ.get(f"COMFY_LIVE_{number}"))]
    versions = [_asked(url, "/system_stats")["system"].get("comfyui_version") for url in urls]
    request.config.stash[MET] = [
        f"ComfyUI {version or 'of an unknown version'} at {url}"
        for url, version in zip(urls, versions, strict=True)
    ]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The line stands at the end, below the failures."""
    if met := config.stash.get(MET, []):
        terminalreporter.write_line("tested against " + ", ".join(met))


@pytest.fixture
def live_test_nodes(live_urls: tuple[str, str]) -> None:
    """For a test that runs nodes of `custom_nodes`: without them it is skipped."""
    for url in live_urls:
        if not _asked(url, "/object_info/TimedPass"):
            pytest.skip(f"{url} lacks TimedPass: copy tests/live/custom_nodes/*.py there")


def _asked(url: str, path: str) -> Any:
    """The JSON at a path of a server; ComfyUI may stand still for seconds before it answers."""
    with urllib.request.urlopen(url.rstrip("/") + path, timeout=30) as answer:
        return json.load(answer)


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
