"""The folder as a user copies it."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from shipped_files import CONFIG, setup_cfg

from comfy_proxy.settings import load_settings

FOLDER = CONFIG / "comfyui-plugin"
SOURCES = sorted(FOLDER.glob("*.py"))
OF_COMFYUI = {"aiohttp", "comfy", "folder_paths", "server"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_it_runs_with_the_python_and_the_packages_of_comfyui(path: Path) -> None:
    """Python 3.10, the standard library, aiohttp and ComfyUI's own modules."""
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))
    for node in ast.walk(tree):
        names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        for name in names:
            top = name.partition(".")[0]
            assert top in sys.stdlib_module_names or top in OF_COMFYUI, name
            assert top != "tomllib"
    newer = {"timeout", "TaskGroup", "Runner"}  # of asyncio, since 3.11
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "asyncio"
    }
    assert not used & newer


def test_the_files_are_as_short_as_ours() -> None:
    """What tests/test_layout.py asks of the package."""
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 300
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno + 1 <= 40, node.name


def test_the_example_settings_are_accepted(plugin: Any, tmp_path: Path) -> None:
    """With and without the comment signs; the plugin reads what the proxy reads."""
    example = (FOLDER / "comfy_proxy.example.toml").read_text(encoding="utf-8")
    whole = "\n".join(
        line.removeprefix("# ") if " = " in line else line for line in example.splitlines()
    )
    for text in (example, whole):
        path = tmp_path / "comfy_proxy.toml"
        path.write_text(text, encoding="utf-8")
        load_settings({"COMFYUI_HOST_1": "127.0.0.1:18188"}, path)
        read = plugin("settings_file").read_settings_file(str(path))
        assert read.keys() == {name.upper() for name in tomllib.loads(text)}
        assert read["COMFYUI_HOST_2"] == tomllib.loads(text)["comfyui_host_2"]


def test_requirements_are_the_package() -> None:
    """ComfyUI-Manager installs them; an older Python than ours needs nothing."""
    line = (FOLDER / "requirements.txt").read_text(encoding="utf-8")
    assert line == 'comfyui-proxy; python_version >= "3.11"\n'
    assert setup_cfg()["metadata"]["name"] == "comfyui-proxy"
