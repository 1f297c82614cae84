"""Where the proxy keeps its log files and its state: in a folder of ComfyUI's user directory that
its HTTP API does not show."""

from __future__ import annotations

import os
from typing import Any


def data_directory(folder_paths: Any, port: int) -> str:
    """The folder of the proxy at `port`; several ComfyUIs may have one user directory.

    `folder_paths` is ComfyUI's module. The folder need not exist.
    """
    if hasattr(folder_paths, "get_system_user_directory"):
        base = str(folder_paths.get_system_user_directory("comfy_proxy"))
    else:  # a ComfyUI of before 2025-12 has no such folders
        base = os.path.join(folder_paths.get_user_directory(), "__comfy_proxy")
    return os.path.join(base, str(port))
