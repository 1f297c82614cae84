"""The files and names that comments, docstrings and the README send a reader to are there."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [
    *(ROOT / "comfy_proxy").rglob("*.py"),
    *(ROOT / "comfy_proxy").rglob("*.md"),
    *(ROOT / "tests").rglob("*.py"),
]
OF_COMFYUI = {
    "caching.py",
    "execution.py",
    "main.py",
    "protocol.py",
    "server.py",
    "basic_api_example.py",
}
"""Files of ComfyUI, which comments name as sources."""
_FILE = re.compile(r"(?:^|[`~( ])((?:[\w.-]+/)*[\w-]+\.py)\b(?!::)", re.MULTILINE)
_NAME = re.compile(r":(?:attr|class|data|func|meth|mod):`~?(comfy_proxy(?:\.\w+)+)`")


def named(pattern: re.Pattern[str]) -> Iterator[tuple[str, Path]]:
    for source in SOURCES:
        for name in pattern.findall(source.read_text(encoding="utf-8")):
            yield name, source.relative_to(ROOT)


def test_every_file_that_is_named_is_there() -> None:
    """By its name alone, or with the folders before it."""
    folders = ("comfy_proxy", "tests", "scripts", "config")
    there = [f"/{path.relative_to(ROOT)}" for one in folders for path in (ROOT / one).rglob("*.py")]
    lost = [
        (name, str(source))
        for name, source in named(_FILE)
        if name not in OF_COMFYUI and not any(path.endswith(f"/{name}") for path in there)
    ]
    assert not lost


@pytest.mark.parametrize("name", sorted({name for name, _ in named(_NAME)}))
def test_every_reference_leads_somewhere(name: str) -> None:
    """A module, or something in it."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        module, rest = ".".join(parts[:length]), ".".join(parts[length:])
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        for attribute in filter(None, rest.split(".")):
            found = getattr(found, attribute)
        return
