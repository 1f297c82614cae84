"""Where logs and state are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


def test_it_is_what_comfyui_shows_to_nobody(plugin: Any) -> None:
    """A folder for each port: several ComfyUIs may have one user directory."""
    new = SimpleNamespace(get_system_user_directory=lambda name: f"/user/__{name}")
    old = SimpleNamespace(get_user_directory=lambda: "/user")
    data_directory = plugin("data_directory").data_directory
    assert data_directory(new, 8188) == "/user/__comfy_proxy/8188"
    assert data_directory(old, 8189) == "/user/__comfy_proxy/8189"
