"""The names and simple texts of ``comfy_proxy.toml``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def test_names_and_texts(plugin: Any, tmp_path: Path) -> None:
    """As TOML has them; comments are none."""
    path = tmp_path / "comfy_proxy.toml"
    path.write_bytes(
        b'\xef\xbb\xbfcomfyui_host_2 = "gpu:1"  # "the" second\n'
        b"  comfyui_host_3='gpu:2'\r\n"
        b'"comfyui_host_4" = "gpu:3"\n'
        b'#comfyui_host_5 = "gpu:4"\n'
        b'port = 7\napi_keys = [\n  "a",\n]\nstate_file = ""\n'
    )
    assert plugin("settings_file").read_settings_file(str(path)) == {
        "COMFYUI_HOST_2": "gpu:1",
        "COMFYUI_HOST_3": "gpu:2",
        "COMFYUI_HOST_4": "gpu:3",
        "PORT": "7",
        "API_KEYS": "[",
        "STATE_FILE": "",
    }


def test_no_file_is_no_setting(plugin: Any, tmp_path: Path) -> None:
    assert plugin("settings_file").read_settings_file(str(tmp_path / "none")) == {}


@pytest.mark.parametrize("content", [None, b"comfyui_host_2 = '\xff'"])
def test_one_that_cannot_be_read_is_named(
    plugin: Any, tmp_path: Path, content: bytes | None
) -> None:
    """A folder of that name, and bytes that are no UTF-8."""
    path = tmp_path / "comfy_proxy.toml"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"comfy_proxy\.toml cannot be read: "):
        plugin("settings_file").read_settings_file(str(path))
